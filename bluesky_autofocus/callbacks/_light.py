"""What documents say of the light and the optics under which a frame was taken."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bluesky_autofocus.callbacks._analysis import AnalysisError
from bluesky_autofocus.leds import LEDs, Single, parse_pattern
from bluesky_autofocus.optics import LightOptics

__all__ = ["known_optics", "recorded_direction", "recorded_optics"]


def recorded_optics(recorded: Mapping[str, Any], otherwise: LightOptics | None = None) -> LightOptics:
    """Return the optics of a frame, from the keys that an objective records.

    Parameters
    ----------
    recorded : mapping
        Configuration and data of the Event, by key. Those of the object with ``*_numerical_aperture`` count.
    otherwise : LightOptics, optional
        What holds for figures that are not recorded.

    Raises
    ------
    AnalysisError
        If a figure is neither recorded nor given, or several objectives are recorded.
    """
    found: dict[str, Any] = dict(known_optics(recorded))
    for field in dataclasses.fields(LightOptics):
        value = found.setdefault(field.name, getattr(otherwise, field.name, None))
        if value is None:
            name = _only_one(recorded, "_numerical_aperture", "objectives")
            raise AnalysisError(
                f"no document says the {field.name} of the objective: record it as "
                f"'{name or 'OBJECTIVE'}_{field.name}', or give the analysis optics=LightOptics(...)"
            )
    return LightOptics(**found)


def known_optics(recorded: Mapping[str, Any]) -> dict[str, float]:
    """Return those figures of the optics that are recorded, by their names in `LightOptics`.

    Raises
    ------
    AnalysisError
        If several objectives are recorded.
    """
    name = _only_one(recorded, "_numerical_aperture", "objectives")
    keys = {field.name: f"{name}_{field.name}" for field in dataclasses.fields(LightOptics)}
    return {of: float(recorded[key]) for of, key in keys.items() if recorded.get(key) is not None}


def recorded_direction(recorded: Mapping[str, Any]) -> tuple[float, float]:
    """Return where the light of a frame came from: one LED, of an array whose orientation is known.

    Parameters
    ----------
    recorded : mapping
        Configuration and data of the Event, by key. Those of the array with ``*_na_x`` count.

    Returns
    -------
    tuple of float
        Direction (x, y) in NA space, in frame axes.

    Raises
    ------
    AnalysisError
        If no LED array is recorded, or several; if its orientation was not calibrated; if it showed anything
        but a single LED.
    """
    name = _only_one(recorded, "_na_x", "LED arrays")
    if name is None or f"{name}_na_y" not in recorded:
        raise AnalysisError(
            "no document says under which LED the frame was taken: read the LED array with the camera, so "
            "that its pattern and direction ('*_na_x', '*_na_y') are in the Event"
        )
    if not bool(recorded.get(f"{name}_calibrated", False)):
        raise AnalysisError(
            f"the orientation of {name!r} was not calibrated ('{name}_calibrated' is not true), and two "
            "degrees cost more than half a depth of field: run the plan calibrate_leds first"
        )
    shown = recorded.get(name)
    direction = float(recorded[f"{name}_na_x"]), float(recorded[f"{name}_na_y"])
    if not all(map(math.isfinite, direction)) or (shown is not None and not _is_single(str(shown))):
        raise AnalysisError(f"{name!r} showed {str(shown)!r}, and the method takes frames under a single LED")
    return direction


def _is_single(shown: str) -> bool:
    # the aperture only serves the patterns that go by a name, and none of those is a single LED
    pattern = parse_pattern(shown, numerical_aperture=0.5)
    return isinstance(pattern, Single) or (isinstance(pattern, LEDs) and len(pattern.indices) == 1)


def _only_one(recorded: Mapping[str, Any], suffix: str, kind: str) -> str | None:
    names = [key.removesuffix(suffix) for key in recorded if key.endswith(suffix)]
    if len(names) > 1:
        raise AnalysisError(f"the frame was recorded with several {kind}: {', '.join(sorted(names))}")
    return names[0] if names else None
