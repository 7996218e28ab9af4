"""Illumination patterns of an LED array: which LEDs are on, by set and by name.

Directions are those of the light's transverse wave vector in units of the vacuum wavenumber ("NA space"), in
the axes of the camera frame: x along its columns to the right, y along its rows downwards, and angles from x
towards y. An image out of focus under light from the direction (x, y) is displaced along (x, y) where the
image plane lies above the sample.
"""

import ast
import dataclasses
import math
import operator
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEDs",
    "Annulus",
    "HalfAnnulus",
    "LEDGeometry",
    "Line",
    "Orientation",
    "Pattern",
    "PatternError",
    "Single",
    "parse_pattern",
    "quasi_dome",
    "synthesise",
]


class PatternError(ValueError):
    """A pattern that is not one, or that no LED of this array belongs to."""


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return repr(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PatternError(f"{name} is {value!r}: expected a finite number")
    return number


@dataclasses.dataclass(frozen=True)
class _Pattern:
    """What all patterns can: say themselves as text that `parse_pattern` understands."""

    def __str__(self) -> str:
        name = next(name for name, made in _FORMS.items() if made is type(self))
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return f"{name}({', '.join(f'{key}={_shown(value)}' for key, value in fields.items())})"


@dataclasses.dataclass(frozen=True)
class Single(_Pattern):
    """The one LED nearest to a direction."""

    na: float
    angle_deg: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        if not 0 <= self.na < 1:
            raise PatternError(f"na is {self.na!r}: expected 0 to 1")

    @property
    def na_xy(self) -> tuple[float, float]:
        """Its direction (x, y) in NA space."""
        angle = math.radians(self.angle_deg)
        return self.na * math.cos(angle), self.na * math.sin(angle)

    @property
    def opposite(self) -> "Single":
        """The LED on the other side of the axis."""
        return Single(self.na, (self.angle_deg + 180.0) % 360.0)


@dataclasses.dataclass(frozen=True)
class Line(_Pattern):
    """The LEDs on one spoke, between two apertures."""

    na_from: float
    na_to: float
    angle_deg: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        _check_ring(self.na_from, self.na_to)


@dataclasses.dataclass(frozen=True)
class Annulus(_Pattern):
    """The LEDs of a ring."""

    na_from: float
    na_to: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        _check_ring(self.na_from, self.na_to)


@dataclasses.dataclass(frozen=True)
class HalfAnnulus(_Pattern):
    """Half of a ring: "top" of the frame (y < 0), "bottom", "left" (x < 0) or "right"."""

    side: Literal["top", "bottom", "left", "right"]
    na_from: float
    na_to: float

    def __post_init__(self) -> None:
        if self.side not in _SIDES:
            raise PatternError(f"side is {self.side!r}: expected one of {', '.join(_SIDES)}")
        for name in ("na_from", "na_to"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        _check_ring(self.na_from, self.na_to)


@dataclasses.dataclass(frozen=True)
class LEDs(_Pattern):
    """LEDs by their numbers."""

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            indices = tuple(operator.index(index) for index in self.indices)
        except TypeError as error:
            raise PatternError(f"indices is {self.indices!r}: expected the numbers of LEDs") from error
        object.__setattr__(self, "indices", indices)


def _check_ring(na_from: float, na_to: float) -> None:
    if not 0 <= na_from <= na_to < 1:
        raise PatternError(f"na_from, na_to are {na_from!r}, {na_to!r}: expected 0 <= na_from <= na_to < 1")


Pattern: TypeAlias = Single | Line | Annulus | HalfAnnulus | LEDs

_SIDES = {"top": (0, -1), "bottom": (0, 1), "left": (-1, 0), "right": (1, 0)}
_FORMS: dict[str, type[_Pattern]] = {
    "single": Single,
    "line": Line,
    "annulus": Annulus,
    "half_annulus": HalfAnnulus,
    "leds": LEDs,
}
# Inner and outer radius of the rings that have a name, in apertures of the objective: wide enough for phase
# contrast, inside the pupil with room for a misaligned array.
_RING = (0.82, 0.97)

NAMES = ("off", "brightfield", "darkfield", "annulus", *(f"half_annulus_{side}" for side in _SIDES))
"""The patterns that go by a name, without parameters."""


def parse_pattern(pattern: "Pattern | str", numerical_aperture: float) -> Pattern:
    """Return the pattern that a text names, or the pattern itself.

    Parameters
    ----------
    pattern : Pattern or str
        One of `NAMES`, or what ``str(pattern)`` gave, such as ``"single(na=0.4, angle_deg=0)"``.
    numerical_aperture : float
        Of the objective: what brightfield, darkfield and the named rings go by.

    Raises
    ------
    PatternError
        If the text names no pattern, naming those there are.
    """
    if isinstance(pattern, _Pattern):
        return pattern  # type: ignore[return-value] - all subclasses are in the union
    if not isinstance(pattern, str):
        raise PatternError(f"expected a pattern or its name, got {pattern!r}")
    inner, outer = (min(factor * numerical_aperture, 0.999) for factor in _RING)
    if pattern == "off":
        return LEDs(())
    if pattern == "brightfield":
        return Annulus(0.0, outer)
    if pattern == "darkfield":
        return Annulus(min(1.03 * numerical_aperture, 0.999), min(1.5 * numerical_aperture, 0.999))
    if pattern == "annulus":
        return Annulus(inner, outer)
    if pattern.startswith("half_annulus_") and (side := pattern.removeprefix("half_annulus_")) in _SIDES:
        return HalfAnnulus(side, inner, outer)  # type: ignore[arg-type]
    return _parse_call(pattern)


def _parse_call(text: str) -> Pattern:
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise TypeError("not a call")
        form: Any = _FORMS[call.func.id.lower()]
        return form(
            *(ast.literal_eval(argument) for argument in call.args),
            **{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords},
        )
    except PatternError:
        raise
    except (SyntaxError, KeyError, TypeError, ValueError) as error:
        raise PatternError(
            f"{text!r} is no illumination pattern; there are {', '.join(NAMES)} and "
            "single(na, angle_deg), line(na_from, na_to, angle_deg), annulus(na_from, na_to), "
            "half_annulus(side, na_from, na_to), leds((0, 1, ...))"
        ) from error


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How an LED array lies with respect to the camera frame.

    Parameters
    ----------
    rotation_deg : float
        By which the array's x axis is turned towards the frame's y axis.
    mirrored : bool
        Whether the array's y axis is reversed before it is turned.
    """

    rotation_deg: float = 0.0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rotation_deg, bool) or not isinstance(self.rotation_deg, int | float):
            raise ValueError(f"rotation_deg is {self.rotation_deg!r}: expected a number")
        if not math.isfinite(self.rotation_deg):
            raise ValueError(f"rotation_deg is {self.rotation_deg!r}: expected a finite number")
        if not isinstance(self.mirrored, bool):
            raise ValueError(f"mirrored is {self.mirrored!r}: expected True or False")

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The 2 x 2 matrix from the array's (x, y) to the frame's."""
        angle = math.radians(self.rotation_deg)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return turn @ np.diag([1.0, -1.0 if self.mirrored else 1.0])

    @classmethod
    def between(cls, array_xy: ArrayLike, frame_xy: ArrayLike) -> "Orientation":
        """Return the orientation that best maps directions of the array to those seen in the frame.

        Parameters
        ----------
        array_xy, frame_xy : array_like, shape (n, 2)
            Directions of the same LEDs, not all on one line through the origin.

        Raises
        ------
        ValueError
            If they cannot tell a rotation from a reflection.
        """
        a, b = np.asarray(array_xy, float), np.asarray(frame_xy, float)
        if not (
            a.shape == b.shape
            and a.ndim == 2
            and a.shape[1] == 2
            and np.isfinite(a).all()
            and np.isfinite(b).all()
            and min(np.linalg.matrix_rank(one, tol=1e-6) for one in (a, b)) == 2
        ):
            raise ValueError("an orientation needs two LEDs or more that are not on one line with the centre")
        u, _, vt = np.linalg.svd(b.T @ a)
        turn = u @ vt  # the orthogonal matrix that maps a onto b best (Procrustes)
        mirrored = bool(np.linalg.det(turn) < 0)
        return cls(math.degrees(math.atan2(turn[1, 0], turn[0, 0])), mirrored)


class LEDGeometry:
    """Where the LEDs of an array are, in NA space.

    Parameters
    ----------
    array_na_xy : array_like, shape (n, 2)
        Direction of each LED in the array's own axes.
    orientation : Orientation
        How the array lies with respect to the frame.
    tolerance_na : float
        How far an LED may be from the direction of a `Single` or the spoke of a `Line`.
    """

    def __init__(
        self, array_na_xy: ArrayLike, orientation: Orientation = Orientation(), tolerance_na: float = 0.03
    ) -> None:
        self.array_na_xy = np.array(array_na_xy, dtype=float).reshape(-1, 2)
        if not (np.isfinite(self.array_na_xy).all() and (np.hypot(*self.array_na_xy.T) < 1).all()):
            raise ValueError("LED directions must be finite and within NA 1")
        self.orientation = orientation
        self.tolerance_na = tolerance_na

    def __len__(self) -> int:
        return len(self.array_na_xy)

    def turned(self, orientation: Orientation) -> "LEDGeometry":
        """Return the same array in another orientation."""
        return LEDGeometry(self.array_na_xy, orientation, self.tolerance_na)

    @cached_property
    def na_xy(self) -> NDArray[np.float64]:
        """Directions (x, y) in the axes of the frame, shape (n, 2)."""
        return self.array_na_xy @ self.orientation.matrix.T

    @cached_property
    def irradiance(self) -> NDArray[np.float64]:
        """Relative light of each LED on the sample, shape (n,): cos(theta) on a dome, 1 on the axis."""
        return np.sqrt(1 - (self.array_na_xy**2).sum(1))

    def select(self, pattern: Pattern) -> tuple[int, ...]:
        """Return the numbers of the LEDs that belong to a pattern, ascending.

        Raises
        ------
        PatternError
            If no LED does, saying what is nearest.
        """
        if isinstance(pattern, LEDs):
            unknown = [index for index in pattern.indices if not 0 <= index < len(self)]
            if unknown:
                raise PatternError(f"there are no LEDs {unknown}: the array has 0 to {len(self) - 1}")
            return tuple(sorted(set(pattern.indices)))
        x, y = self.na_xy.T
        na = np.hypot(x, y)
        if isinstance(pattern, Single):
            away = np.hypot(*(self.na_xy - pattern.na_xy).T)
            nearest = int(away.argmin())
            if away[nearest] > self.tolerance_na:
                raise PatternError(
                    f"no LED within NA {self.tolerance_na:g} of {pattern}; the nearest is at "
                    f"NA {na[nearest]:.3f}, {math.degrees(math.atan2(y[nearest], x[nearest])):.1f} degrees"
                )
            return (nearest,)
        ring = (na >= pattern.na_from - 1e-9) & (na <= pattern.na_to + 1e-9)
        if isinstance(pattern, Line):
            angle = math.radians(pattern.angle_deg)
            along = x * math.cos(angle) + y * math.sin(angle)
            across = y * math.cos(angle) - x * math.sin(angle)
            ring &= (along >= -1e-9) & (np.abs(across) <= self.tolerance_na / 2)
        elif isinstance(pattern, HalfAnnulus):
            side = _SIDES[pattern.side]
            ring &= x * side[0] + y * side[1] > 1e-3
        chosen = tuple(int(index) for index in np.flatnonzero(ring))
        if not chosen:
            raise PatternError(f"no LED of this array belongs to {pattern}")
        return chosen


def quasi_dome(largest_na: float = 0.75, pitch_na: float = 0.05) -> LEDGeometry:
    """Return the array that simulated microscopes carry: rings of LEDs, four spokes along the axes.

    Rings are `pitch_na` apart and carry an LED about every two pitches, always some on the x and y axes.

    Parameters
    ----------
    largest_na : float
        Of the outermost ring.
    pitch_na : float
        Distance of the rings.
    """
    directions = [(0.0, 0.0)]
    for ring in range(1, round(largest_na / pitch_na) + 1):
        count = 4 * max(1, round(math.pi * ring / 4))
        angles = 2 * math.pi * np.arange(count) / count
        directions += [(ring * pitch_na * math.cos(a), ring * pitch_na * math.sin(a)) for a in angles]
    return LEDGeometry(directions)


def synthesise(frames: ArrayLike, offset: float = 0.0) -> NDArray[np.float64]:
    """Return the frame under several LEDs at once, from frames under each of them alone.

    Light of different LEDs does not interfere, so their images add.

    Parameters
    ----------
    frames : array_like, shape (n, H, W) or (n, H, W, 3)
        Grey levels under one LED each, with the same exposure, none of them saturated.
    offset : float
        Grey level without light, which all frames have and the sum is to have once.

    Returns
    -------
    ndarray of float64
        Not rounded, and not limited to what the camera can give.

    Raises
    ------
    ValueError
        If there is no frame, they differ in shape, or are not numbers.
    """
    if not math.isfinite(offset):
        raise ValueError(f"offset is {offset!r}: expected a finite number")
    arrays = [np.asarray(frame) for frame in frames]  # type: ignore[union-attr] - anything one can go through
    if not arrays:
        raise ValueError("there are no frames to add")
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim not in (2, 3):
        raise ValueError(f"frames have shapes {sorted(shapes)}: expected one shape, (H, W) or (H, W, 3)")
    total = np.zeros(arrays[0].shape)
    for array in arrays:
        if not np.issubdtype(array.dtype, np.integer) and not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"frames have type {array.dtype}: expected real numbers")
        total += array
    return total - offset * (len(arrays) - 1)
