"""An instrument as one TOML file describes it: its back end, what focusing uses, where runs are recorded.

The tables and keys of the file are the fields of the classes here. What is in the file but not here, or makes
no sense, is a `ConfigurationError` that names the file, the key and the value.
"""

import dataclasses
import inspect
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomlkit
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from bluesky_autofocus.instruments import Instrument

__all__ = [
    "ApproachTable",
    "AxisTable",
    "CameraTable",
    "Configuration",
    "ConfigurationError",
    "FocusTable",
    "InstrumentTable",
    "SessionTable",
    "read_configuration",
    "write_configuration",
]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


class ConfigurationError(ValueError):
    """A configuration that is none, in a file that is named."""


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("expected two positions in um, the lower first")
    return value


def _a_retention(value: str) -> str:
    from bluesky_autofocus.retention import policy_named

    policy_named(value)
    return value


def _an_instrument(value: str) -> str:
    from bluesky_autofocus.instruments import INSTRUMENTS

    if value not in INSTRUMENTS:
        raise ValueError(f"expected one of {', '.join(sorted(INSTRUMENTS))}")
    return value


def _a_method(value: str) -> str:
    from bluesky_autofocus.plans import METHODS

    if value not in METHODS:
        raise ValueError(f"expected one of {', '.join(sorted(METHODS))}")
    return value


def _a_metric(value: str) -> str:
    from bluesky_autofocus.sharpness import names

    if value not in names():
        raise ValueError(f"expected one of {', '.join(names())}")
    return value


def _plain(value: Any) -> Any:
    """Return a value in the types that TOML has; what is None is left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Number = Annotated[float, Field(strict=True)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(strict=True, ge=0)]
Interval = Annotated[tuple[Number, Number], AfterValidator(_ascending)]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class InstrumentTable:
    """``[instrument]``: which back end, and its options.

    Parameters
    ----------
    name : str
        One of `bluesky_autofocus.instruments.INSTRUMENTS`.
    options : dict
        What that takes; see its documentation.
    """

    name: Annotated[str, AfterValidator(_an_instrument)]
    options: Annotated[dict[str, Any], AfterValidator(_plain)] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class ApproachTable:
    """``[axis.approach]``: as of `bluesky_autofocus.plans.Approach`.

    Parameters
    ----------
    direction : int
        +1: positions are approached from below; -1: from above.
    overshoot_um : float
        How far to go past before turning round; at least the backlash.
    settle_s : float
        How long to wait after each move.
    """

    direction: Literal[1, -1] = 1
    overshoot_um: NotNegative = 0.0
    settle_s: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class AxisTable:
    """``[axis]``: where it may go, and how it gets there.

    Parameters
    ----------
    limits_um : tuple of float, optional
        No plan of a session sends the axis beyond: where a low position is dangerous the lower one is the
        safe floor. They come on top of the axis' own limits.
    approach : ApproachTable, optional
        How focusing approaches positions.
    """

    limits_um: Interval | None = None
    approach: ApproachTable | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class CameraTable:
    """``[camera]``: the first detector.

    Parameters
    ----------
    exposure_s : float, optional
        Set when a session opens.
    full_scale : float, optional
        Grey level at which it saturates, where that is not the largest of its type.
    """

    exposure_s: Positive | None = None
    full_scale: Positive | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class FocusTable:
    """``[focus]``: what `Session.focus` does; what is missing here is as the instrument says.

    Parameters
    ----------
    method : str, optional
        One of `bluesky_autofocus.plans.METHODS`.
    metric : str, optional
        Sharpness metric.
    range_um : float, optional
        Width of what is searched, about where the axis is.
    travel_um : tuple of float, optional
        No move of focusing leaves this range; by default the limits of the axis.
    depth_of_field_um : float, optional
        Of the instrument.
    budget : int, optional
        Most exposures.
    dose_budget_s : float, optional
        Most seconds of exposure.
    """

    method: Annotated[str, AfterValidator(_a_method)] | None = None
    metric: Annotated[str, AfterValidator(_a_metric)] | None = None
    range_um: Positive | None = None
    travel_um: Interval | None = None
    depth_of_field_um: Positive | None = None
    budget: Count | None = None
    dose_budget_s: Positive | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class SessionTable:
    """``[session]``: what is recorded, and where.

    Parameters
    ----------
    catalog : str, optional
        Folder, Tiled address or ``profile:NAME``.
    retention : str, optional
        Which frames of a run stay: "all", "in-focus" or "readings".
    reserve_bytes : int, optional
        What is to stay free of the disk.
    """

    catalog: str | None = None
    retention: Annotated[str, AfterValidator(_a_retention)] | None = None
    reserve_bytes: Count | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Configuration:
    """All that one file says. Each parameter is a table of it; only ``[instrument]`` must be there."""

    instrument: InstrumentTable
    axis: AxisTable = dataclasses.field(default_factory=AxisTable)
    camera: CameraTable = dataclasses.field(default_factory=CameraTable)
    focus: FocusTable = dataclasses.field(default_factory=FocusTable)
    session: SessionTable = dataclasses.field(default_factory=SessionTable)

    def __post_init__(self) -> None:
        limits, travel = self.axis.limits_um, self.focus.travel_um
        if limits and travel and not limits[0] <= travel[0] < travel[1] <= limits[1]:
            raise ValueError(f"focus.travel_um {travel} must lie within axis.limits_um {limits}")
        within = travel or limits
        if within and self.focus.range_um and self.focus.range_um > within[1] - within[0]:
            raise ValueError(
                f"focus.range_um {self.focus.range_um} is wider than where the axis may go, {within}"
            )

    @classmethod
    def of(cls, tables: Mapping[str, Any], source: str = "configuration") -> "Configuration":
        """Return the configuration that tables describe.

        Parameters
        ----------
        tables : mapping
            As `tomllib.loads` gives it, or `tables`.
        source : str
            What errors are to name.

        Raises
        ------
        ConfigurationError
            Naming the source, the key, the value and what was expected, one line for each.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(tables))
        except ValidationError as error:
            wrong = "\n".join(_in_words(one) for one in error.errors())
            raise ConfigurationError("\n".join(f"{source}: {line}" for line in wrong.split("\n"))) from error

    def tables(self) -> dict[str, Any]:
        """Return it as tables of plain values, without what is not said."""
        filled = ((name, _plain(table)) for name, table in dataclasses.asdict(self).items())
        return {name: table for name, table in filled if table}

    @property
    def focus_options(self) -> dict[str, Any]:
        """What of it are options of `autofocus`."""
        from bluesky_autofocus.plans import Approach

        approach = self.axis.approach
        options = {
            "range_um": self.focus.range_um,
            "travel_um": self.focus.travel_um or self.axis.limits_um,
            "depth_of_field_um": self.focus.depth_of_field_um,
            "budget": self.focus.budget,
            "dose_budget_s": self.focus.dose_budget_s,
            "approach": None if approach is None else Approach(**dataclasses.asdict(approach)),
        }
        return {name: value for name, value in options.items() if value is not None}

    def applied_to(self, instrument: "Instrument") -> "Instrument":
        """Return an instrument that is focused as the file says; what it does not say is as it was."""
        from bluesky_autofocus.plans import METHODS

        chosen = self.focus_options
        general = {**instrument.focus_options, **chosen}
        if "range_um" in chosen:  # one way to say where is enough
            for place in ("bounds_um", "positions_um"):
                general.pop(place, None)
        by_method = {
            method: {**options, **_taken(METHODS[method], chosen)}
            for method, options in instrument.method_options.items()
        }
        return dataclasses.replace(
            instrument,
            focus_options=general,
            method_options=by_method,
            method=self.focus.method or instrument.method,
            full_scale=self.camera.full_scale or instrument.full_scale,
        )


def read_configuration(path: str | os.PathLike[str]) -> Configuration:
    """Read a configuration file.

    Raises
    ------
    ConfigurationError
        If it is not there, is no TOML, or a key or value makes no sense.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is no TOML: {error}") from error
    return Configuration.of(tables, str(path))


def write_configuration(
    configuration: Configuration, path: str | os.PathLike[str], comments: Mapping[str, str] | None = None
) -> None:
    """Write a configuration file, whole or not at all.

    Parameters
    ----------
    configuration : Configuration
        `read_configuration` gives the same again.
    path : path
        Replaced if it exists.
    comments : mapping, optional
        Of one line, by key with dots: ``{"axis.approach.settle_s": "measured 0.03 s"}``.

    Raises
    ------
    ConfigurationError
        If an option of the back end is nothing that TOML has a word for.
    """
    path = Path(path)
    document = tomlkit.document()
    try:
        document.update(configuration.tables())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be written: {error}") from error
    for key, comment in (comments or {}).items():
        item: Any = document
        for part in key.split("."):
            item = item.get(part) if item is not None else None
        if item is not None:
            item.comment(comment)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(tomlkit.dumps(document), encoding="utf-8")
    os.replace(temporary, path)


def _in_words(error: Any) -> str:
    """Return one line about what pydantic found: key, value, what was expected."""
    key = ".".join(str(part) for part in error["loc"])
    problem = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_of_table(error["loc"][:-1])
        return f"{key} is unknown; there are {', '.join(known)}"
    if not key:
        return problem
    problem = problem[:1].lower() + problem[1:]
    return f"{key} is {error['input']!r}: {problem.replace('input should', 'it should')}"


def _keys_of_table(place: tuple[str | int, ...]) -> list[str]:
    """Return the keys that a table may have."""
    table: Any = Configuration
    for name in place:
        field = table.__dataclass_fields__[name].type
        inner = [one for one in (field, *getattr(field, "__args__", ())) if dataclasses.is_dataclass(one)]
        table = inner[0]
    return list(table.__dataclass_fields__)


def _taken(function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that a function takes."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}
