"""Microscopes of Thermo Fisher and TESCAN by way of `fibsem`, which knows their interfaces."""

import importlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from bluesky_autofocus.devices.sem._control import SEMLimits

__all__ = ["FibsemControl"]

_MICROSCOPES = {
    "thermo": ("fibsem.microscope", "ThermoMicroscope", 7520),
    "tescan": ("fibsem.microscopes.tescan", "TescanMicroscope", 8300),
    "demo": ("fibsem.microscopes.simulator", "DemoMicroscope", 7520),
}
"""By vendor: module and class of fibsem, and the port that its own `setup_session` connects to."""


class FibsemControl:
    """The electron beam of a `fibsem.microscope.FibsemMicroscope`, as a `SEMControl`.

    Run with fibsem 0.5.3 and its demonstration microscope. Of the others what fibsem does with their
    interfaces was read, not run. On a TESCAN it cannot set stigmators, and says so in its log only, which is
    an error here; and it turns the beam on when anything is set, and when it connects.

    Parameters
    ----------
    open_microscope : callable
        Returns the connected microscope; called again to connect again.
    resolution : tuple of int
        Columns and rows of a frame, one that the microscope has.
    dwell_s : float
        Time of the beam on a pixel, at first.
    dtype : numpy dtype
        Of the frames: 8 bits unless the microscope is set up otherwise.
    limits : SEMLimits, optional
        What fibsem does not tell. By default a working distance of 1 to 40 mm.
    """

    def __init__(
        self,
        open_microscope: Callable[[], Any],
        *,
        resolution: tuple[int, int] = (1536, 1024),
        dwell_s: float = 1e-6,
        dtype: Any = np.uint8,
        limits: SEMLimits | None = None,
    ) -> None:
        columns, rows = resolution
        self.frame_shape, self.dtype = (int(rows), int(columns)), np.dtype(dtype)
        self.limits = limits or SEMLimits(working_distance_m=(1e-3, 40e-3))
        self._open, self._dwell_s = open_microscope, float(dwell_s)
        self._microscope: Any = None

    @classmethod
    def of(
        cls, vendor: Literal["thermo", "tescan", "demo"], ip_address: str | None = None, **options: Any
    ) -> "FibsemControl":
        """Return the control of a microscope that fibsem knows how to connect.

        In contrast to fibsem's own `setup_session` the shifts of the beams are left as they are: resetting
        them would move the field.

        Parameters
        ----------
        vendor : {"thermo", "tescan", "demo"}
            Whose.
        ip_address : str, optional
            Of the microscope's computer; that of fibsem's configuration file by default.
        **options
            As of `FibsemControl`.

        Raises
        ------
        ValueError
            If there is no such vendor, naming those there are.
        """
        if vendor not in _MICROSCOPES:
            raise ValueError(f"vendor is {vendor!r}: expected one of {', '.join(_MICROSCOPES)}")
        module, name, port = _MICROSCOPES[vendor]

        def open_microscope() -> Any:
            from fibsem import utils

            system = utils.load_microscope_configuration().system
            microscope = getattr(importlib.import_module(module), name)(system)
            address = ip_address or system.info.ip_address
            microscope.connect_to_microscope(address, port, reset_beam_shift=False)
            return microscope

        return cls(open_microscope, **options)

    def connect(self) -> None:
        """Open the microscope."""
        from fibsem.structures import BeamType

        self._beam = BeamType.ELECTRON
        self._microscope = self._open()

    def disconnect(self) -> None:
        """Let go of the microscope."""
        microscope, self._microscope = self._microscope, None
        if microscope is not None:
            microscope.disconnect()

    @property
    def _connected(self) -> Any:
        if self._microscope is None:
            raise ConnectionError("it is not connected")
        return self._microscope

    def get_working_distance(self) -> float:
        """Return the working distance in m."""
        return float(self._connected.get_working_distance(self._beam))

    def set_working_distance(self, metres: float) -> None:
        """Set the working distance in m."""
        self._connected.set_working_distance(metres, self._beam)

    def get_stigmator(self) -> tuple[float, float]:
        """Return both stigmators, from -1 to 1."""
        at = self._connected.get_stigmation(self._beam)
        return float(at.x), float(at.y)

    def set_stigmator(self, x: float, y: float) -> None:
        """Set both stigmators, from -1 to 1."""
        from fibsem.structures import Point

        self._connected.set_stigmation(Point(x, y), self._beam)

    def get_dwell_time(self) -> float:
        """Return the time of the beam on a pixel in s, which goes with each frame."""
        return self._dwell_s

    def set_dwell_time(self, seconds: float) -> None:
        """Set it for the frames to come."""
        self._dwell_s = float(seconds)

    def get_field_width(self) -> float:
        """Return the width of the scanned field in m."""
        return float(self._connected.get_field_of_view(self._beam))

    def set_field_width(self, metres: float) -> None:
        """Set the width of the scanned field in m."""
        self._connected.set_field_of_view(metres, self._beam)

    def acquire(self) -> np.ndarray:
        """Scan a frame."""
        from fibsem.structures import ImageSettings

        rows, columns = self.frame_shape
        settings = ImageSettings(
            resolution=(columns, rows),
            dwell_time=self._dwell_s,
            hfw=self.get_field_width(),
            autocontrast=False,  # brightness that changes between frames is no sharpness
            beam_type=self._beam,
            save=False,
        )
        return self._connected.acquire_image(settings).data
