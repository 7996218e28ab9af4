"""An objective turret of a Micro-Manager core, and the optics that it puts into every Event."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import Status

from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.devices.micromanager._calls import (
    ANSWER_S,
    STATE,
    DeviceLink,
    MicroManagerError,
    listed,
)
from bluesky_autofocus.devices.micromanager._signals import SETTING_S, CoreSignal
from bluesky_autofocus.optics import LightOptics

__all__ = ["ObjectiveTurret"]


class _Position(CoreSignal):
    """The position of a turret, by its label."""

    def __init__(self, *args: Any, parent: Any, **kwargs: Any) -> None:
        super().__init__(*args, parent=parent, link=parent.link, timeout_s=parent.timeout_s, **kwargs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of all positions, in their order."""
        return tuple(str(one) for one in self._link.ask("getStateLabels"))

    def checked(self, value: Any) -> str:
        labels = self.labels
        if isinstance(value, int) and 0 <= value < len(labels):
            return labels[value]
        if value not in labels:
            raise ValueError(
                f"{self.name}: device {self.label!r} has no {value!r}: expected {listed(labels)}"
            )
        return value

    def asked(self) -> str:
        return str(self._link.ask("getStateLabel"))

    def told(self, core: Any, value: str) -> None:
        core.setStateLabel(self.label, value)


class ObjectiveTurret(Device):
    """A turret: ``bps.mv(turret, "Nikon 20X")`` turns it, and every Event has what images depend on.

    The keys are those of `bluesky_autofocus.devices.Objective`. The pixel size is that of the table, or the
    core's where the table has none: it knows the camera's binning.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str
        Of the turret in the configuration.
    objectives : mapping
        What each position has, by its label: a `LightOptics`, or a mapping with its fields, of which
        ``numerical_aperture`` and ``magnification`` must be there. Positions that are not in it are refused.
    wavelength_um : float
        Of the light, where the table says none.
    timeout_s : float
        Longest time that it may take to turn.
    answer_s : float
        Longest wait for what the device answers at once.

    Raises
    ------
    MicroManagerError
        If the configuration has no such turret, or the turret no such position.
    ValueError
        If the table is empty, or an entry makes no sense.
    """

    selected = Cpt(_Position, kind="hinted")
    numerical_aperture = Cpt(ComputedSignal, attribute="optics.numerical_aperture", egu="", value=0.0)
    wavelength_um = Cpt(ComputedSignal, attribute="optics.wavelength_um", egu="um", value=0.0)
    pixel_size_um = Cpt(ComputedSignal, attribute="optics.pixel_size_um", egu="um", value=0.0)
    magnification = Cpt(ComputedSignal, attribute="optics.magnification", egu="", value=0.0)
    refractive_index = Cpt(ComputedSignal, attribute="optics.refractive_index", egu="", value=0.0)

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str,
        objectives: Mapping[str, LightOptics | Mapping[str, float]],
        wavelength_um: float = 0.53,
        timeout_s: float = SETTING_S,
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        self.link, self.timeout_s = DeviceLink(core, label, STATE, answer_s=answer_s), timeout_s
        labels = [str(one) for one in self.link.ask("getStateLabels")]
        if unknown := [one for one in objectives if one not in labels]:
            raise MicroManagerError(
                f"device {label!r} has no position {unknown[0]!r}: expected {listed(labels)}"
            )
        if not objectives:
            raise ValueError(f"objectives is empty: expected the optics of some of {listed(labels)}")
        self._objectives = {
            one: entry if isinstance(entry, LightOptics) else {"wavelength_um": wavelength_um, **entry}
            for one, entry in objectives.items()
        }
        for one, entry in self._objectives.items():
            _optics_of(one, entry, pixel_size_um=1.0)  # what makes no sense is refused now
        super().__init__(prefix, **kwargs)
        self.selected.name = self.name  # the hinted readback carries the device's name, as with EpicsMotor

    @property
    def optics(self) -> LightOptics:
        """What images depend on now.

        Raises
        ------
        MicroManagerError
            If the table has nothing for where the turret stands, or nobody knows the pixel size.
        """
        standing = self.selected.asked()
        if standing not in self._objectives:
            raise MicroManagerError(
                f"device {self.link.label!r} stands at {standing!r}: expected one of those whose optics are "
                f"known, {listed(list(self._objectives))}"
            )
        entry = self._objectives[standing]
        if isinstance(entry, LightOptics) or "pixel_size_um" in entry:
            return _optics_of(standing, entry)
        pixel_size_um = float(self.link.run("the pixel size", lambda core: core.getPixelSizeUm()))
        if not pixel_size_um:
            raise MicroManagerError(
                f"the core knows no pixel size for {standing!r} of device {self.link.label!r}: expected a "
                "pixel_size_um in the table, or a pixel size in the configuration"
            )
        return _optics_of(standing, entry, pixel_size_um=pixel_size_um)

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Refuse a position that the turret does not have, or whose optics are not known.

        Raises
        ------
        ValueError
            Naming it, and those there are.
        """
        if self.selected.checked(value) not in self._objectives:
            raise ValueError(
                f"{self.name}: the optics of {value!r} are not known: "
                f"expected {listed(list(self._objectives))}"
            )

    def set(self, value: str | int) -> Status:
        """Turn to a position, by label or number; the status is done when the turret stands."""
        self.check_value(value)
        return self.selected.set(value)


def _optics_of(label: str, entry: LightOptics | Mapping[str, float], **known: float) -> LightOptics:
    """Return the optics that an entry of a table says.

    Raises
    ------
    ValueError
        If it lacks something, has something else, or a number makes no sense.
    """
    if isinstance(entry, LightOptics):
        return entry
    fields = {field.name for field in dataclasses.fields(LightOptics)}
    if unknown := set(entry) - fields:
        raise ValueError(
            f"objective {label!r} has {listed(sorted(unknown))}: expected {listed(sorted(fields))}"
        )
    if missing := {"numerical_aperture", "magnification"} - set(entry):
        raise ValueError(f"objective {label!r} has no {listed(sorted(missing))}")
    try:
        return LightOptics(**{**known, **entry})
    except ValueError as error:
        raise ValueError(f"objective {label!r}: {error}") from error
