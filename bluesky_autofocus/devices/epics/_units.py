"""Lengths are in um; what a PV has is converted by the unit that it says it has."""

import math
from typing import Any

from ophyd import DerivedSignal

__all__ = ["UM_PER_UNIT", "InMicrometres"]

UM_PER_UNIT = {
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
}
"""Units of length as IOCs spell them; two code points look like a Greek mu."""


class InMicrometres(DerivedSignal):
    """A PV that holds a length, in um.

    Parameters
    ----------
    derived_from : Signal or str
        The PV.

    Raises
    ------
    ValueError
        At every use, while the unit is no known unit of length.
    """

    _unit: str | None = None

    def declare_unit(self, unit: str | None) -> None:
        """Say the unit of the PV, where the PV itself does not (EGU), or does wrongly.

        Raises
        ------
        ValueError
            If it is no known unit of length.
        """
        if unit is not None and unit not in UM_PER_UNIT:
            raise ValueError(f"unit is {unit!r}: expected one of {', '.join(UM_PER_UNIT)}")
        self._unit = unit

    @property
    def um_per_unit(self) -> float:
        """The unit of the PV in um."""
        unit = self._unit or self._derived_from.metadata.get("units") or ""
        if unit not in UM_PER_UNIT:
            raise ValueError(
                f"{self.name}: the unit of {self._derived_from.pvname} is {unit!r}, which is no known unit "
                "of length: set its EGU, or give its unit"
            )
        return UM_PER_UNIT[unit]

    def forward(self, value: float) -> float:
        """Convert from um."""
        return value / self.um_per_unit

    def inverse(self, value: float) -> float:
        """Convert to um."""
        return float(value) * self.um_per_unit

    def _derived_value_callback(self, value: Any, **kwargs: Any) -> None:
        # the first value may come before the unit does
        if self._unit or self._derived_from.metadata.get("units"):
            super()._derived_value_callback(value, **kwargs)

    def describe(self) -> dict[str, Any]:
        """Describe it as a length in um."""
        described: dict[str, Any] = super().describe()
        data_key, digits = described[self.name], round(math.log10(self.um_per_unit))
        data_key.update(
            source=f"PV:{self._derived_from.pvname}", units="um", dtype="number", dtype_numpy="<f8"
        )
        for limit in {"lower_ctrl_limit", "upper_ctrl_limit"} & set(data_key):
            data_key[limit] = self.inverse(data_key[limit])
        if isinstance(data_key.get("precision"), int):
            data_key["precision"] = max(data_key["precision"] - digits, 0)
        return described
