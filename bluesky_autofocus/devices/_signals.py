"""Soft signals that know their unit: one with limits, one that its device computes."""

import math
from operator import attrgetter
from typing import Any

from ophyd import Signal
from ophyd.utils import LimitError

__all__ = ["BoundedSignal", "ComputedSignal"]


class _NumberSignal(Signal):
    """A number with a unit."""

    def __init__(self, *args: Any, egu: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.egu = egu

    def get(self, **kwargs: Any) -> float:
        value: Any = super().get(**kwargs)
        return value

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = super().describe()
        data_key = described[self.name]
        data_key.update(units=self.egu, dtype_numpy="<i8" if data_key["dtype"] == "integer" else "<f8")
        return described


class BoundedSignal(_NumberSignal):
    """A number with a unit and limits, refused outside them.

    Parameters
    ----------
    egu : str
        Unit, as it appears in the documents.
    limits : tuple of float
        Lowest and highest allowed value.
    """

    def __init__(self, *args: Any, egu: str, limits: tuple[float, float], **kwargs: Any) -> None:
        super().__init__(*args, egu=egu, **kwargs)
        self._limits = limits

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd: (0, 0)
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
        super().put(float(value), **kwargs)

    def describe(self) -> dict[str, Any]:
        """Describe the signal with its unit and limits."""
        described = super().describe()
        low, high = self._limits
        described[self.name].update(lower_ctrl_limit=low, upper_ctrl_limit=high)
        return described


class ComputedSignal(_NumberSignal):
    """A number that its device computes at every read; nobody can set it.

    Parameters
    ----------
    attribute : str
        Of the device that the signal belongs to; dots go on from there.
    egu : str
        Unit, as it appears in the documents.
    """

    def __init__(self, *args: Any, attribute: str, egu: str, **kwargs: Any) -> None:
        super().__init__(*args, egu=egu, **kwargs)
        self._fetch = attrgetter(attribute)
        self._metadata.update(write_access=False)

    def get(self, **kwargs: Any) -> float:
        """Compute the value, which is as old as this call."""
        super().put(self._fetch(self.parent), force=True)
        return super().get(**kwargs)
