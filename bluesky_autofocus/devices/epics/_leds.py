"""An LED array behind PVs."""

import numpy as np
from ophyd import Component as Cpt
from ophyd import EpicsSignal
from ophyd.status import Status

from bluesky_autofocus.devices._leds import LEDArray
from bluesky_autofocus.devices.epics._connection import asked, completed_put, require_connected

__all__ = ["EpicsLEDArray"]


class EpicsLEDArray(LEDArray):
    """An LED array of two PVs: ``Mask``, an array with 1 for each LED that is on, and ``Brightness``.

    Both are put with completion. The mask has as many values as `geometry` has LEDs. What they are when the
    light is first read or set counts: LEDs that are on stay on, and the brightness stays as it is.
    """

    mask = Cpt(EpicsSignal, "Mask", kind="omitted")
    brightness_pv = Cpt(EpicsSignal, "Brightness", kind="omitted")

    def ask_light(self) -> tuple[tuple[int, ...], float]:
        """Ask the IOC which LEDs are on.

        Raises
        ------
        DisconnectedError
            If the IOC is not there.
        ValueError
            If LEDs are on that `geometry` does not have.
        """
        require_connected(self.name, [self.mask, self.brightness_pv])
        lit = np.flatnonzero(asked(self.name, self.mask))
        count = len(self.geometry)
        if lit.size and lit[-1] >= count:
            raise ValueError(
                f"{self.name}: {self.mask.pvname} has LED {lit[-1]} on: expected a mask of {count} LEDs"
            )
        return tuple(lit.tolist()), float(asked(self.name, self.brightness_pv))

    def show(self, indices: tuple[int, ...], brightness: float) -> Status:
        """Set the brightness, then the mask."""
        mask = np.zeros(len(self.geometry.na_xy), np.uint8)
        mask[list(indices)] = 1
        shown = Status(self.mask)

        def bright(dimmed: Status) -> None:
            try:
                dimmed.wait(0)
                completed_put(self.name, self.mask, mask).add_callback(tell)
            except Exception as error:
                shown.set_exception(error)

        def tell(masked: Status) -> None:
            try:
                masked.wait(0)
            except Exception as error:
                shown.set_exception(error)
            else:
                shown.set_finished()

        completed_put(self.name, self.brightness_pv, brightness).add_callback(bright)
        return shown
