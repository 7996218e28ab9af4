"""What all axes refuse, in the same words."""

import math

from ophyd.utils import LimitError

__all__ = ["check_speed", "check_within"]


def check_within(name: str, position_um: float, limits_um: tuple[float, float]) -> None:
    """Raise a LimitError if a position is not finite or beyond the limits of an axis."""
    low, high = limits_um
    if not math.isfinite(position_um) or not low <= position_um <= high:
        raise LimitError(f"{name}: {position_um!r} um is not within the limits {low} .. {high} um")


def check_speed(name: str, velocity_um_s: float, limit_um_s: float) -> None:
    """Raise a LimitError if a velocity is not finite or above the limit of an axis."""
    if not abs(velocity_um_s) <= limit_um_s:
        raise LimitError(f"{name}: {velocity_um_s!r} um/s is not within +-{limit_um_s} um/s")
