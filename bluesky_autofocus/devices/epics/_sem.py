"""A SEM put together from its PVs."""

import copy
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from bluesky_autofocus.devices._camera import HoldsCamera
from bluesky_autofocus.devices.epics._camera import EpicsScanCamera
from bluesky_autofocus.devices.epics._connection import Setting
from bluesky_autofocus.devices.epics._positioner import StoppableFocusPositioner

__all__ = ["EpicsSEM"]


class _MadeBy(Cpt):
    """A component whose keyword arguments its device gives when it is made."""

    def create_component(self, instance: Any) -> Any:
        made = copy.copy(self)
        made.kwargs = {**self.kwargs, **instance.component_options[self.attr]}
        return Cpt.create_component(made, instance)


class EpicsSEM(HoldsCamera, Device):
    """A SEM: working distance, magnification, stigmators, dwell time. As a detector it is its camera.

    Everything that shapes a frame is read into its Event; so are the size of a pixel and the convergence of
    the beam.

    Parameters
    ----------
    prefix : str
        Of all PVs.
    frame_directory : path
        Where frames are written.
    axis, camera : dict, optional
        Options of the `StoppableFocusPositioner` and the `EpicsScanCamera`.
    """

    working_distance = _MadeBy(StoppableFocusPositioner, "WD", kind="hinted")
    magnification = Cpt(Setting, "Magnification", kind="normal")
    stigmator_x = Cpt(Setting, "Stig:X", limits=True, kind="normal")
    stigmator_y = Cpt(Setting, "Stig:Y", limits=True, kind="normal")
    dwell_time = Cpt(Setting, "Dwell", limits=True, kind="normal")
    pixel_size_um = Cpt(EpicsSignalRO, "PixelSize", kind="normal")
    convergence_mrad = Cpt(EpicsSignalRO, "Convergence", kind="normal")
    camera = _MadeBy(EpicsScanCamera, "", kind="hinted")

    def __init__(
        self,
        prefix: str = "",
        *,
        frame_directory: Path | str,
        axis: dict[str, Any] | None = None,
        camera: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.component_options = {
            "working_distance": axis or {},
            "camera": {"frame_directory": frame_directory, **(camera or {})},
        }
        super().__init__(prefix, **kwargs)
