"""The card of a model: what it is, what it may be shown, where it comes from, how good it was found to be."""

import dataclasses
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from bluesky_autofocus.optics import LightOptics

__all__ = [
    "SCHEMA_VERSION",
    "FeatureRecord",
    "ModelCard",
    "ModelFileError",
    "ModelInputs",
    "TrainingRecord",
]

SCHEMA_VERSION = 1
"""Of the files written here. A file of a newer one is refused, since it may mean things unknown here."""


class ModelFileError(ValueError):
    """The file is not a model that can be used; the message says what is wrong with it."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _jsonable(value: Any) -> Any:
    """Return the same value made of what JSON knows, so that a card read back equals the one written.

    Raises
    ------
    ValueError
        If it cannot be, or holds a number that JSON lacks.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_jsonable(item) for item in value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} cannot be written on a card: expected finite numbers, or None")
        return value
    raise ValueError(f"{value!r} cannot be written on a card: expected text, numbers, lists or dicts")


class _Part:
    """What the card and its parts share: plain values inside, whatever they were made of."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type] - the parts are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, _Part):
                continue
            try:
                object.__setattr__(self, field.name, _jsonable(value))
            except ValueError as error:
                raise ValueError(f"{field.name}: {error}") from error
        self._check()

    def _check(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class ModelInputs(_Part):
    """What a model may be shown.

    Parameters
    ----------
    illumination : str
        The light's pattern as text that `leds.parse_pattern` understands; empty where there is none.
    patch_px : int
        Side of the square patches that it looks at, in pixels of the recorded frame; 0 for whole frames.
    pixel_size_um : float, optional
        Of the recorded frame in the sample plane, binning included. None, here and below: does not matter.
    numerical_aperture, wavelength_um, magnification, refractive_index : float, optional
        As in `LightOptics`.
    led_na_xy : tuple of (float, float)
        Directions of the LEDs that were on in training, in the axes of the frame, one per LED.
    planes : int
        Frames that are looked at together.
    plane_spacing_um : float, optional
        Between these frames.
    scans : tuple of dict
        Where several numbers of planes and spacings will do: what each kind of scan is.
    bit_depth : int, optional
        Of the frames in training.
    colour : str
        "grey", or the channels in their order: "rgb".
    """

    illumination: str
    patch_px: int
    pixel_size_um: float | None = None
    numerical_aperture: float | None = None
    wavelength_um: float | None = None
    magnification: float | None = None
    refractive_index: float | None = None
    led_na_xy: tuple[tuple[float, float], ...] = ()
    planes: int = 1
    plane_spacing_um: float | None = None
    bit_depth: int | None = None
    colour: str = "grey"
    scans: tuple[dict[str, Any], ...] = ()

    def _check(self) -> None:
        if self.patch_px < 0 or self.planes < 1:
            raise ValueError(
                f"patch_px, planes are {self.patch_px!r}, {self.planes!r}: expected at least 0 and 1"
            )
        if any(len(direction) != 2 for direction in self.led_na_xy):
            raise ValueError(f"led_na_xy is {self.led_na_xy!r}: expected a pair (x, y) for each LED")

    @classmethod
    def of(
        cls,
        optics: LightOptics,
        *,
        illumination: str,
        patch_px: int,
        led_na_xy: Any = (),
        **others: Any,
    ) -> "ModelInputs":
        """Return the inputs of a model of frames made with these optics."""
        return cls(
            illumination=illumination,
            patch_px=patch_px,
            led_na_xy=led_na_xy,
            **dataclasses.asdict(optics),
            **others,
        )

    @property
    def optics(self) -> LightOptics:
        """The optics that it states.

        Raises
        ------
        ValueError
            If it leaves any of them open.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(LightOptics)}
        if missing := [name for name, value in values.items() if value is None]:
            raise ValueError(f"this model's card does not state {', '.join(missing)}")
        return LightOptics(**values)


@dataclasses.dataclass(frozen=True)
class FeatureRecord(_Part):
    """What a frame is turned into before the network sees it: the name of the features and their options."""

    name: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainingRecord(_Part):
    """Where the weights come from.

    Parameters
    ----------
    data : str
        What it was trained on, for a person.
    fields, frames : int
        How many, in training and validation together.
    seed : int, optional
        Of the split, the weights' start and the order of the examples.
    minutes : float, optional
        That training took, without making the data.
    options : dict
        Batch, learning rate and the like, JSON-able.
    versions : dict
        Of the libraries: name -> version.
    """

    data: str
    fields: int = 0
    frames: int = 0
    seed: int | None = None
    minutes: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelCard(_Part):
    """What a model is, what it takes, where it comes from and what it is good for.

    One schema for all networks of the package. Everything in it is JSON-able: sequences become tuples and
    NumPy's numbers Python's own.

    Parameters
    ----------
    name : str
        Of the model.
    architecture : str
        Which code can use the arrays.
    version : str
        Of the weights, for people.
    inputs : ModelInputs
        What it may be shown.
    features : FeatureRecord
        What frames are turned into first.
    valid_range_um : tuple of float, optional
        Lowest and highest defocus, or distance, that it answers for. None where it measures none.
    training : TrainingRecord
        Where the weights come from.
    figures : dict
        How good it was found to be: name with its unit -> value.
    valid_for : str
        For a person: specimens and light that it was made for, and what it is known to fail on.
    licence : str
        SPDX name of the weights' licence.
    architecture_parameters : dict
        Sizes and constants that the code needs besides the arrays.
    created : str
        ISO 8601 time; by default now.
    schema_version : int
        Of the file.
    hash : str
        SHA-256 over the card and the arrays; known once it has been written or read. Cards that differ only
        here are equal.

    Raises
    ------
    ValueError
        If a value cannot be written as JSON, or the range is not ascending.
    """

    name: str
    architecture: str
    version: str
    inputs: ModelInputs
    features: FeatureRecord
    valid_range_um: tuple[float, float] | None
    training: TrainingRecord
    figures: dict[str, Any]
    valid_for: str
    licence: str
    architecture_parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    created: str = dataclasses.field(default_factory=_now)
    schema_version: int = SCHEMA_VERSION
    hash: str = dataclasses.field(default="", compare=False)

    def _check(self) -> None:
        if self.valid_range_um is not None and not (
            len(self.valid_range_um) == 2 and self.valid_range_um[0] < self.valid_range_um[1]
        ):
            raise ValueError(f"valid_range_um is {self.valid_range_um!r}: expected (lowest, highest)")

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-able dictionaries, without its hash."""
        said = dataclasses.asdict(self)
        del said["hash"]
        return said

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "ModelCard":
        """Return the card that `to_dict` has put down.

        Raises
        ------
        ModelFileError
            If an entry is missing, unknown or of the wrong type, naming it.
        """
        return _part(cls, said, "the card")

    def __str__(self) -> str:
        """For a person, a line a fact."""
        lines = [f"{self.name} {self.version} ({self.architecture}), {self.licence}, made {self.created}"]
        lines.append(f"  valid for: {self.valid_for}")
        if self.valid_range_um is not None:
            lines.append(f"  range: {self.valid_range_um[0]:g} .. {self.valid_range_um[1]:g} um")
        lines.append(f"  features: {_listed({'': self.features.name, **self.features.parameters})}")
        for title in ("inputs", "training"):
            lines.append(f"  {title}: {_listed(dataclasses.asdict(getattr(self, title)))}")
        lines.append(f"  figures: {_listed(self.figures)}")
        lines.append(f"  hash: {self.hash or 'not written yet'}")
        return "\n".join(lines)


def _listed(values: Mapping[str, Any]) -> str:
    said = []
    for key, value in values.items():
        if value is None or value in ("", (), {}):
            continue
        if isinstance(value, Mapping):
            said.append(f"{key} ({_listed(value)})")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            said.append(f"{key} {shown}".strip())
    return ", ".join(said)


_PARTS = {"inputs": ModelInputs, "features": FeatureRecord, "training": TrainingRecord}
# What a field must be, from its annotation without what stands in brackets; annotations are evaluated here.
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "dict": (Mapping,),
    "tuple": (tuple, list),
    "None": (type(None),),
}


def _part(form: Any, said: Any, what: str) -> Any:
    """Make a card or a part of it from what was read, and say what does not fit."""
    if not isinstance(said, Mapping):
        raise ModelFileError(f"{what} is not a JSON object")
    fields = {field.name: field for field in dataclasses.fields(form) if field.name != "hash"}
    if unknown := sorted(set(said) - set(fields)):
        raise ModelFileError(f"{what} has unknown entries: {', '.join(unknown)}")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(said)):
        raise ModelFileError(f"{what} lacks {', '.join(missing)}")
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name in _PARTS and form is ModelCard:
            values[name] = _part(_PARTS[name], value, f"the card's entry {name!r}")
            continue
        kinds = _kinds(fields[name].type)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelFileError(f"{what}: {name} is {value!r}, a {type(value).__name__}, not what it may be")
        values[name] = value
    try:
        return form(**values)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{what}: {error}") from error


def _kinds(annotation: Any) -> tuple[type, ...]:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = text if "[" not in text else text.split("[")[0] + ("|None" if text.endswith("| None") else "")
    return tuple(kind for part in text.split("|") for kind in _KINDS[part.strip()])
