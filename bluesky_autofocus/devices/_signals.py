"""A soft signal that knows its unit and its limits."""

import math
from typing import Any

from ophyd import Signal
from ophyd.utils import LimitError

__all__ = ["BoundedSignal"]


class BoundedSignal(Signal):
    """A number with a unit and limits, refused outside them.

    Parameters
    ----------
    egu : str
        Unit, as it appears in the documents.
    limits : tuple of float
        Lowest and highest allowed value.
    """

    def __init__(self, *args: Any, egu: str, limits: tuple[float, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.egu = egu
        self._limits = limits

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest allowed value."""
        return self._limits

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a value that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        """
        low, high = self._limits
        if not math.isfinite(value) or not low <= value <= high:
            raise LimitError(f"{self.name}: {value!r} {self.egu} is not within {low} .. {high} {self.egu}")

    def put(self, value: float, **kwargs: Any) -> None:
        """Set the value after checking it."""
        self.check_value(value)
        super().put(value, **kwargs)

    def describe(self) -> dict[str, Any]:
        """Describe the signal with its unit and limits."""
        described = super().describe()
        low, high = self._limits
        described[self.name].update(
            units=self.egu, lower_ctrl_limit=low, upper_ctrl_limit=high, dtype="number", dtype_numpy="<f8"
        )
        return described
