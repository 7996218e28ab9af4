"""Plans whose arguments are JSON, made of plans whose arguments are Python objects.

The queueserver finds devices by their names itself, where a plan says that it takes devices. It knows nothing
of analyses, nor of dataclasses such as `Approach`, and what it cannot write down as a default it does not
accept at all.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args, get_origin

from bluesky.protocols import Movable, Readable

from bluesky_autofocus.plans import METHODS, FocusAnalysis, track_focus

__all__ = ["queued"]


def queued(plan: Callable[..., Any], analyses: Mapping[str, Any], **sessions_own: Any) -> Callable[..., Any]:
    """Return a plan for the queueserver, with the name, the description and the arguments of another.

    Devices and analyses are given by their names, a dataclass as an object with its fields. An argument that
    JSON has no words for is left at its default.

    Parameters
    ----------
    plan : callable
        Returns a generator of messages.
    analyses : mapping
        By their names.
    sessions_own
        What `plan` gets if it has such an argument, whatever the queue says: ``clock``.
    """
    from bluesky_queueserver import parameter_annotation_decorator

    signature = inspect.signature(plan)
    ways = {name: _way(parameter) for name, parameter in signature.parameters.items()}
    own = {name: value for name, value in sessions_own.items() if name in ways}
    shown = [way.shown for name, way in ways.items() if name not in own and way.shown is not None]

    @functools.wraps(plan)
    def queue_plan(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.Signature(shown).bind(*args, **kwargs).arguments
        given = {name: ways[name].turned(value, analyses) for name, value in bound.items()}
        for name, way in ways.items():
            if way.flattened and name in given:
                given.update(given.pop(name))
        # None stands for the default that JSON has no words for
        chosen = {name: value for name, value in given.items() if not _is_default(name, value, signature)}
        return (yield from plan(**chosen, **own))

    queue_plan.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    described = {
        way.shown.name: way.described(analyses)
        for way in ways.values()
        if way.shown is not None and way.described(analyses)
    }
    return parameter_annotation_decorator({"parameters": described})(queue_plan)


def _is_default(name: str, value: Any, signature: inspect.Signature) -> bool:
    parameter = signature.parameters.get(name)
    return value is None and parameter is not None and not _is_literal(parameter.default)


@dataclasses.dataclass(frozen=True)
class _Way:
    """How an argument is said in JSON.

    Parameters
    ----------
    shown : inspect.Parameter or None
        What the queueserver sees; None where it is left out.
    kind : str
        "plain", "collection", "text" (or what it means), "analysis", "device", "dataclass", "mapping" (of
        options of a method) or "options" (those of the plan itself).
    several : bool
        Whether it is a list of these.
    optional : bool
        Whether it may be null.
    classes : tuple of type
        The dataclasses that it may be.
    """

    shown: inspect.Parameter | None
    kind: str = "plain"
    several: bool = False
    optional: bool = False
    classes: tuple[type, ...] = ()

    @property
    def flattened(self) -> bool:
        return self.kind == "options"

    def described(self, analyses: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the queueserver is told of it beyond its signature."""
        match self.kind:
            case "analysis":
                return {
                    "annotation": self._type("AnalysisName"),
                    "enums": {"AnalysisName": list(analyses)},
                    # an analysis may have the name of a plan or of a device
                    "convert_plan_names": False,
                    "convert_device_names": False,
                }
            case "device":
                return {"annotation": self._type("__DEVICE__")}
            case "dataclass":
                return {"annotation": self._type("typing.Dict[str, typing.Any]")}
            case "text":
                return {"annotation": self._type("str")}
            case "collection":  # which pydantic does not know
                return {"annotation": self._type("typing.List[typing.Any]")}
            case "mapping":
                return {
                    "annotation": self._type("typing.Dict[str, typing.Any]"),
                    "convert_device_names": True,
                }
            case "options":
                return {"annotation": "typing.Any", "convert_device_names": True}
        return {}

    def _type(self, one: str) -> str:
        some = f"typing.List[{one}]" if self.several else one
        return f"typing.Optional[{some}]" if self.optional else some

    def turned(self, value: Any, analyses: Mapping[str, Any]) -> Any:
        """Return what the plan gets for what the queue says."""
        match self.kind:
            case "analysis" if isinstance(value, str):
                return analyses[value]
            case "dataclass":
                return _as_dataclasses(value, self.classes)
            case "options" | "mapping" if isinstance(value, Mapping):
                known = _of_options()
                return {name: _as_dataclasses(one, known.get(name, ())) for name, one in value.items()}
        return value


def _way(parameter: inspect.Parameter) -> _Way:
    """Return how an argument is said, by its annotation."""
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return _Way(parameter.replace(annotation=inspect.Parameter.empty), "options")
    classes = _classes_in(parameter.annotation)
    several = any(
        isinstance(origin := get_origin(one), type) and issubclass(origin, Sequence)
        for one in (parameter.annotation, *get_args(parameter.annotation))
    )
    literal = _is_literal(parameter.default)
    default = parameter.default if literal else None
    optional = parameter.default is not inspect.Parameter.empty
    shown = parameter.replace(annotation=inspect.Parameter.empty, default=default)
    if parameter.default is inspect.Parameter.empty:
        shown = shown.replace(default=inspect.Parameter.empty)
    if any(FocusAnalysis in one.__mro__ for one in classes):
        return _Way(shown, "analysis", several, optional)
    if any(Readable in one.__mro__ or Movable in one.__mro__ for one in classes):
        return _Way(shown, "device", several, optional)
    records = tuple(one for one in classes if dataclasses.is_dataclass(one))
    if records and str in classes:
        return _Way(shown, "text", several, optional)
    if records:
        return _Way(shown, "dataclass", several, optional, records)
    if Mapping in classes:
        return _Way(shown, "mapping", several, optional)
    if Collection in classes:
        return _Way(shown, "collection", several, optional)
    if literal or parameter.default is inspect.Parameter.empty:
        return _Way(parameter)
    return _Way(None)


def _classes_in(annotation: Any) -> list[type]:
    """Return the classes that an annotation is made of; of a mapping not those of its keys and values."""
    origin = get_origin(annotation)
    if origin is Mapping:
        return [Mapping]
    inner = [one for argument in get_args(annotation) for one in _classes_in(argument)]
    return inner + [one for one in (origin, annotation) if isinstance(one, type)]


def _is_literal(value: Any) -> bool:
    """Return whether the queueserver can write a default down."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return False
    return True


def _as_dataclasses(value: Any, classes: tuple[type, ...]) -> Any:
    """Return a mapping as the dataclass that has its keys, a list of mappings as a list of such.

    Raises
    ------
    ValueError
        If there is none, naming the keys there are.
    """
    if not classes:
        return value
    if isinstance(value, Mapping):
        for one in classes:
            if set(value) <= _fields_of(one):
                return one(**value)
        known = " or ".join(f"{one.__name__}: {', '.join(sorted(_fields_of(one)))}" for one in classes)
        raise ValueError(f"there is nothing with {', '.join(map(str, value))}; there is {known}")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_dataclasses(one, classes) for one in value]
    return value


def _fields_of(one: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(one)}


def _of_options() -> dict[str, tuple[type, ...]]:
    """Return the dataclasses that options of the methods are, by the name of the option."""
    found = {}
    for stub in (*METHODS.values(), track_focus):
        for name, parameter in inspect.signature(stub).parameters.items():
            if (way := _way(parameter)).kind == "dataclass":
                found[name] = way.classes
    return found
