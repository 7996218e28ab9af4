"""Zeiss microscopes by way of SmartSEM's remote interface: never run on one, see `SmartSEMControl`."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.devices.sem._control import SEMLimits

__all__ = ["SmartSEMControl"]

DWELL_S = tuple(5e-8 * 2.0**rate for rate in range(15))
"""Of the scan rates 0 to 14 of a Gemini or Merlin column, as SBEMimage has them. Other columns differ."""

_LIVE = "Live"
_POLL_S = 0.02
_SPARE_S = 10.0
"""How much longer than its frame time a frame may take."""


class SmartSEMControl:
    """A Zeiss SEM through the COM object ``CZ.EMApiCtrl.1`` of SmartSEM, as a `SEMControl`.

    **This has never run on a microscope.** It was written from what SBEMimage, SerialFIB and others call, and
    is tested against an object that behaves as theirs would have it. Try it with the gun off first.

    It wants Windows, SmartSEM with its remote API installed and licensed, and ``pywin32``.

    Parameters
    ----------
    frame_shape : tuple of int
        Rows and columns of the image store that is set in SmartSEM.
    dtype : numpy dtype
        Of what it saves as TIFF.
    dwell_s : sequence of float
        Dwell times of the scan rates, from rate 0.
    dispatch : callable, optional
        Returns the COM object; by default SmartSEM's own.
    """

    def __init__(
        self,
        *,
        frame_shape: tuple[int, int] = (768, 1024),
        dtype: Any = np.uint8,
        dwell_s: Sequence[float] = DWELL_S,
        dispatch: Callable[[], Any] | None = None,
    ) -> None:
        self.frame_shape, self.dtype = frame_shape, np.dtype(dtype)
        self.limits = SEMLimits(
            working_distance_m=(1e-3, 50e-3),
            stigmator=(-100.0, 100.0),  # in percent
            dwell_s=(min(dwell_s), max(dwell_s)),
        )
        self._dwell_s = tuple(dwell_s)
        self._dispatch = dispatch or _smartsem
        self._api: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def connect(self) -> None:
        """Connect to the SmartSEM that runs on, or is configured for, this computer."""
        api = self._dispatch()
        _check("InitialiseRemoting", api.InitialiseRemoting())
        self._api, self._folder = api, tempfile.TemporaryDirectory(prefix="smartsem-")
        self._set("DP_FREEZE_ON", 0)  # at the end of the frame

    def disconnect(self) -> None:
        """Let go of SmartSEM."""
        api, self._api = self._api, None
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()
        if api is not None:
            _check("ClosingControl", api.ClosingControl())

    def get_working_distance(self) -> float:
        """Return the working distance in m."""
        return self._get("AP_WD")

    def set_working_distance(self, metres: float) -> None:
        """Set the working distance in m."""
        self._set("AP_WD", metres)

    def get_stigmator(self) -> tuple[float, float]:
        """Return both stigmators in percent."""
        return self._get("AP_STIG_X"), self._get("AP_STIG_Y")

    def set_stigmator(self, x: float, y: float) -> None:
        """Set both stigmators in percent."""
        self._set("AP_STIG_X", x)
        self._set("AP_STIG_Y", y)

    def get_dwell_time(self) -> float:
        """Return the time of the beam on a pixel in s, by the scan rate."""
        rate = int(self._get("DP_SCANRATE"))
        if not 0 <= rate < len(self._dwell_s):
            raise ValueError(f"DP_SCANRATE is {rate}: dwell times are known of 0 to {len(self._dwell_s) - 1}")
        return self._dwell_s[rate]

    def set_dwell_time(self, seconds: float) -> None:
        """Choose the scan rate whose dwell time is nearest, by their ratio."""
        rate = int(np.argmin(np.abs(np.log(np.array(self._dwell_s) / seconds))))
        _check(f"CMD_SCANRATE{rate}", self._connected.Execute(f"CMD_SCANRATE{rate}"))

    def get_field_width(self) -> float:
        """Return the width of the scanned field in m."""
        return self._get("AP_WIDTH")

    def set_field_width(self, metres: float) -> None:
        """Set the magnification by which the field is this wide."""
        self._set("AP_MAG", self._get("AP_MAG") * self.get_field_width() / metres)

    def acquire(self) -> np.ndarray:
        """Scan a frame, have it saved, and read it."""
        import tifffile

        api = self._connected
        _check("CMD_UNFREEZE_ALL", api.Execute("CMD_UNFREEZE_ALL"))
        _check("CMD_FREEZE_ALL", api.Execute("CMD_FREEZE_ALL"))
        frame_s = 1e-3 * self._get("AP_FRAME_TIME")
        late_s = time.monotonic() + 2 * frame_s + _SPARE_S
        while self._ask("DP_FROZEN") == _LIVE:
            if time.monotonic() > late_s:
                raise TimeoutError(f"DP_FROZEN is still {_LIVE!r}, though a frame takes {frame_s:.3g} s")
            time.sleep(_POLL_S)
        path = Path(self._folder.name if self._folder else ".") / "frame.tif"
        _check("Grab", api.Grab(0, 0, 1024, 768, 0, str(path)))  # the screen's; the file has the image store
        return tifffile.imread(path)

    @property
    def _connected(self) -> Any:
        if self._api is None:
            raise ConnectionError("it is not connected")
        return self._api

    def _get(self, parameter: str) -> float:
        return float(self._ask(parameter))

    def _ask(self, parameter: str) -> Any:
        code, value = self._connected.Get(parameter, 0)[:2]
        _check(f"Get({parameter!r})", code)
        return value

    def _set(self, parameter: str, value: float) -> None:
        code = self._connected.Set(parameter, _single(value))
        _check(f"Set({parameter!r}, {value:.9g})", code[0] if isinstance(code, tuple) else code)


def _check(call: str, code: Any) -> None:
    """Raise unless SmartSEM says that a call worked."""
    if code != 0:
        raise RuntimeError(f"{call} was refused with the code {code}")


def _smartsem() -> Any:
    try:
        import pythoncom  # pyright: ignore[reportMissingModuleSource]
        from win32com import client  # pyright: ignore[reportMissingModuleSource]
    except ImportError as error:
        raise ImportError("SmartSEM wants Windows and the package pywin32") from error
    pythoncom.CoInitialize()  # of this thread, which makes all calls
    return client.Dispatch("CZ.EMApiCtrl.1")


def _single(value: float) -> Any:
    """Return a number as the 32-bit float that SmartSEM wants, where there is COM."""
    try:
        import pythoncom  # pyright: ignore[reportMissingModuleSource]
        from win32com.client import VARIANT  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        return float(value)
    return VARIANT(pythoncom.VT_R4, float(value))
