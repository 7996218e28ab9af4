"""Make a Micro-Manager core and load a configuration into it."""

import logging
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluesky_autofocus.devices.micromanager._calls import MicroManagerError
from bluesky_autofocus.simulation.served import ServedMicroscope

__all__ = ["open_core", "simulated_core", "unload"]

UNLOADING_S = 5.0
"""Longest wait for devices to be shut down."""

PATH_VARIABLE = "MICROMANAGER_PATH"
"""Names Micro-Manager's folder; pymmcore-plus knows it too."""


def open_core(config: Path | str, *, adapter_paths: Sequence[Path | str] = ()) -> Any:
    """Return a Micro-Manager core with a configuration loaded. Its devices are shut down at exit.

    Parameters
    ----------
    config : path
        A ``.cfg`` that Micro-Manager's hardware wizard has made.
    adapter_paths : sequence of path
        Folders with device adapters. Without any, that of the configuration, and what the environment
        variable ``MICROMANAGER_PATH`` names.

    Returns
    -------
    pymmcore.CMMCore

    Raises
    ------
    MicroManagerError
        If there is no such file or folder, or a line of it fails: an adapter that is not there or of another
        version, a device that does not answer.
    ImportError
        If pymmcore is not installed.
    """
    try:
        import pymmcore
    except ImportError as error:
        raise ImportError(
            "Micro-Manager needs pymmcore: pip install bluesky-autofocus[micromanager]"
        ) from error

    path = Path(config).expanduser()
    if not path.is_file():
        raise MicroManagerError(
            f"there is no configuration file {str(path)!r}: expected a Micro-Manager .cfg"
        )
    folders = [Path(folder).expanduser() for folder in adapter_paths]
    for folder in folders:
        if not folder.is_dir():
            raise MicroManagerError(f"there is no folder {str(folder)!r}: expected one with device adapters")
    if not folders:
        folders = [path.resolve().parent]
        if os.environ.get(PATH_VARIABLE):
            folders.append(Path(os.environ[PATH_VARIABLE]))
    core: Any = pymmcore.CMMCore()
    names = [str(folder) for folder in folders]
    # libraries that adapters load in turn are looked for by the system, on Windows along PATH
    known = os.environ.get("PATH", "").split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*(name for name in names if name not in known), *known])
    core.setDeviceAdapterSearchPaths(names)
    try:
        core.loadSystemConfiguration(str(path))
    except Exception as error:
        adapters = [str(adapter) for adapter in core.getDeviceAdapterNames()]
        core.unloadAllDevices()
        raise MicroManagerError(
            f"configuration {str(path)!r} was not loaded: {str(error).strip()}. There are {len(adapters)} "
            f"device adapters in {', '.join(names)}; this pymmcore takes those of {core.getAPIVersionInfo()}"
        ) from error
    unload_at_exit(core)
    return core


def simulated_core(microscope: ServedMicroscope | None = None, *, velocity_um_s: float = 200.0) -> Any:
    """Return a Micro-Manager core whose devices are those of a simulated microscope.

    They are ``Camera``, ``Z``, ``XY``, ``LEDs`` (an SLM), ``Lamp`` (a shutter, open at first) and
    ``Objective``, written in Python for pymmcore-plus.

    Parameters
    ----------
    microscope : ServedMicroscope, optional
        What stands behind them; by default it stands 12 um out of focus.
    velocity_um_s : float
        Of the Z stage.

    Returns
    -------
    pymmcore_plus.experimental.unicore.UniMMCore

    Raises
    ------
    ImportError
        If pymmcore-plus is not installed.
    """
    root = logging.getLogger()
    level = root.level
    try:
        from bluesky_autofocus.devices.micromanager._simulated import make_core
    except ImportError as error:
        raise ImportError(
            "the simulated microscope inside Micro-Manager needs pymmcore-plus: "
            "pip install bluesky-autofocus[micromanager-simulated]"
        ) from error
    finally:
        root.setLevel(level)  # importing pymmcore-plus sets it to DEBUG, for all libraries
    return make_core(microscope or ServedMicroscope(), velocity_um_s)


def unload(core: Any) -> None:
    """Shut a core's devices down: cameras stop, shutters close. An adapter that hangs is not waited for."""
    unloading = threading.Thread(target=core.unloadAllDevices, name="micromanager-unload", daemon=True)
    unloading.start()
    unloading.join(UNLOADING_S)


def unload_at_exit(core: Any) -> None:
    """Shut a core's devices down when the process ends: cameras stop, shutters close."""
    reference, ending = weakref.ref(core), threading.Event()

    def unload() -> None:
        ending.wait()
        if (still_there := reference()) is not None:
            still_there.unloadAllDevices()

    # a thread of its own, so that an adapter that hangs does not keep the process; made now, since Python
    # makes none when it ends
    unloading = threading.Thread(target=unload, name="micromanager-unload", daemon=True)
    unloading.start()

    def end() -> None:
        ending.set()
        unloading.join(UNLOADING_S)

    weakref.finalize(core, end)
