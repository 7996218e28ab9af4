"""LED arrays behind a Micro-Manager core: the pixels of an SLM, or the states of a state device."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ophyd.status import Status

from bluesky_autofocus.devices._leds import LEDArray
from bluesky_autofocus.devices.micromanager._calls import (
    ANSWER_S,
    SLM,
    STATE,
    DeviceLink,
    MicroManagerError,
    listed,
)
from bluesky_autofocus.devices.micromanager._signals import PropertySignal, carry_out
from bluesky_autofocus.leds import Pattern, PatternError, parse_pattern

__all__ = ["SLMLEDArray", "StateLEDArray"]


class SLMLEDArray(LEDArray):
    """An LED array that is an SLM of the core: an LED is a pixel, its grey level the brightness.

    No SLM tells what it shows, so the LEDs are switched off when it is made.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str, optional
        Of the SLM in the configuration; by default the core's current one.
    pixels : sequence, optional
        Row and column of the pixel of each LED, shape (n, 2). By default LEDs are the pixels in the order in
        which one reads, as many as the geometry has.
    answer_s : float
        Longest wait for what the device answers at once.
    **kwargs
        As of `LEDArray`.

    Raises
    ------
    MicroManagerError
        If the configuration has no such SLM, it has too few pixels, or shows nothing.
    ValueError
        If `pixels` has not a pixel of the SLM for each LED.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str | None = None,
        pixels: Sequence[Sequence[int]] | None = None,
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        label = str(label or core.getSLMDevice())
        self._link = DeviceLink(core, label, SLM, answer_s=answer_s)
        super().__init__(prefix, **kwargs)
        self._shape = tuple(int(self._link.ask(f"getSLM{side}")) for side in ("Height", "Width"))
        self._colours = int(self._link.ask("getSLMNumberOfComponents"))
        count, here = len(self.geometry), f"device {label!r} has {self._shape[0]} x {self._shape[1]} pixels"
        if pixels is None:
            if count > self._shape[0] * self._shape[1]:
                raise MicroManagerError(f"{here}: expected one for each of {count} LEDs")
            chosen = np.column_stack(np.unravel_index(np.arange(count), self._shape))
        else:
            chosen = np.asarray(pixels)
            if chosen.shape != (count, 2):
                raise ValueError(f"pixels has shape {chosen.shape}: expected row and column of {count} LEDs")
            if (chosen < 0).any() or (chosen >= self._shape).any():
                raise ValueError(f"{here}: pixels has some beyond")
        self._rows, self._columns = chosen.T
        self.show((), 1.0).wait()

    def show(self, indices: tuple[int, ...], brightness: float) -> Status:
        """Show these LEDs as pixels, all others dark."""
        image = np.zeros(self._shape, np.uint8)
        lit = list(indices)
        image[self._rows[lit], self._columns[lit]] = round(255 * brightness)
        if self._colours > 1:
            image = np.ascontiguousarray(np.repeat(image[..., None], 3, axis=2))

        def display(core: Any) -> None:
            core.setSLMImage(self._link.label, image)
            core.displaySLMImage(self._link.label)

        return carry_out(self, self._link, f"showing {len(lit)} LEDs", display, self.timeout_s)


class StateLEDArray(LEDArray):
    """An LED array that is a state device of the core: some patterns are states, and there are no others.

    What it shows when it is made is taken over; if that is none of the patterns it is switched off.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str
        Of the state device in the configuration.
    states : mapping
        Label or number of the state of each pattern, by its text: ``{"off": "Closed", "leds((0,))": 1}``.
        Directions are in the array's own axes.
    brightness_property : str, optional
        Of the same device, from 0 to its upper limit. Without it the brightness is always 1.
    answer_s : float
        Longest wait for what the device answers at once.
    **kwargs
        As of `LEDArray`.

    Raises
    ------
    MicroManagerError
        If the configuration has no such device or property, or the device no such state.
    PatternError
        If a key of `states` is no pattern.
    ValueError
        If no state is that of ``off``.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str,
        states: Mapping[str, str | int],
        brightness_property: str | None = None,
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        self._link = DeviceLink(core, label, STATE, answer_s=answer_s)
        self._states: dict[tuple[int, ...], int] = {}
        super().__init__(prefix, **kwargs)
        labels = [str(one) for one in self._link.ask("getStateLabels")]
        for pattern, state in states.items():
            number = labels.index(state) if state in labels else state
            if not isinstance(number, int) or not 0 <= number < len(labels):
                raise MicroManagerError(f"device {label!r} has no state {state!r}: expected {listed(labels)}")
            lit = self._array.select(parse_pattern(pattern, self.numerical_aperture))
            self._states[lit] = number
        if () not in self._states:
            raise ValueError(f"states has none for 'off': expected one of {listed(labels)}")
        self._patterns = tuple(states)
        self._intensity: PropertySignal | None = None
        if brightness_property is not None:
            self._intensity = PropertySignal(
                core=core,
                label=label,
                property_name=brightness_property,
                name=f"{self.name}_intensity",
                answer_s=answer_s,
            )
            low, high = self._intensity.limits
            if not low < high:
                raise MicroManagerError(
                    f"property {brightness_property!r} of device {label!r} has no limits: expected an upper "
                    "limit, for a brightness of 1"
                )
        self.learn_light()

    def ask_light(self) -> tuple[tuple[int, ...], float]:
        """Return the LEDs of the state that it is in, and their brightness."""
        state = int(self._link.ask("getState"))
        lit = next((lit for lit, number in self._states.items() if number == state), None)
        if lit is None:
            self.show((), 1.0).wait()
            lit = ()
        if self._intensity is None:
            return lit, 1.0
        return lit, min(max(self._intensity.asked() / self._intensity.limits[1], 0.0), 1.0)

    def select(self, pattern: Pattern | str) -> tuple[int, ...]:
        """Return the numbers of the LEDs of a pattern.

        Raises
        ------
        PatternError
            If it is none, or the device has no state for it.
        """
        lit = super().select(pattern)
        if self._states and lit not in self._states:
            raise PatternError(
                f"device {self._link.label!r} has no state for {pattern!s}: expected one of "
                f"{listed(self._patterns)}"
            )
        return lit

    def show(self, indices: tuple[int, ...], brightness: float) -> Status:
        """Go to the state of these LEDs."""
        state, intensity = self._states[indices], self._intensity
        if intensity is None and brightness != 1:
            raise MicroManagerError(
                f"device {self._link.label!r} cannot be dimmed to {brightness:g}: expected brightness 1, "
                "or the name of its brightness_property"
            )
        level = None if intensity is None else intensity.nearest(brightness * intensity.limits[1])

        def change(core: Any) -> None:
            if intensity is not None:
                intensity.told(core, level)
            core.setState(self._link.label, state)

        return carry_out(self, self._link, f"showing {len(indices)} LEDs", change, self.timeout_s)
