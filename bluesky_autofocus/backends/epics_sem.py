"""A scanning electron microscope behind an EPICS IOC, over Channel Access."""

from collections.abc import Sequence
from pathlib import Path

from bluesky_autofocus.backends.epics import CONNECTION_S
from bluesky_autofocus.clock import Clock
from bluesky_autofocus.instruments import Instrument

__all__ = ["instrument"]


def instrument(
    frame_directory: Path,
    clock: Clock,
    *,
    prefix: str,
    depth_of_field_um: float,
    limits_um: Sequence[float] | None = None,
    unit: str | None = None,
    tolerance_um: float = 0.5,
    arrival_s: float = 0.5,
    timeout: float = 60.0,
    overhead_s: float = 10.0,
    full_scale: float | None = None,
    range_um: float | None = None,
) -> Instrument:
    """Connect a scanning electron microscope.

    Parameters
    ----------
    frame_directory : path
        Where frames go.
    clock : Clock
        Not used: here time passes by itself.
    prefix : str
        What all its PVs begin with; see `EpicsSEM`.
    depth_of_field_um : float
        Range of working distance in which the blur stays within one pixel, at the magnification that is used.
    limits_um : sequence of float, optional
        Lowest and highest working distance; the lower one is the safe floor. Narrows the limits of the IOC.
    unit : str, optional
        Of the working distance, where its PVs do not say.
    tolerance_um : float
        How far from its target a move may end.
    arrival_s : float
        How long the readback may take to follow, after the controller has said that a move is over.
    timeout : float
        Longest duration of a move in s.
    overhead_s : float
        How much longer than the exposure time a frame may take until it is there.
    full_scale : float, optional
        Grey level at which the detector saturates, where that is not the largest of its type.
    range_um : float, optional
        How far around the working distance focus is looked for; by default 40 depths of field.

    Raises
    ------
    TimeoutError
        If a PV is not there, naming it.
    ValueError
        If the working distance has no limits, or its unit is not known, or a number makes no sense.
    """
    from bluesky_autofocus.devices.epics import EpicsSEM

    device = EpicsSEM(
        prefix,
        name="sem",
        frame_directory=frame_directory,
        axis={
            "limits_um": None if limits_um is None else tuple(limits_um),
            "unit": unit,
            "tolerance_um": tolerance_um,
            "arrival_s": arrival_s,
            "timeout": timeout,
        },
        camera={"overhead_s": overhead_s, "connection_s": CONNECTION_S},
    )
    device.wait_for_connection(timeout=CONNECTION_S)
    device.working_distance.check_value(device.working_distance.position)
    return Instrument(
        name="epics_sem",
        devices={"sem": device},
        detectors=[device],
        axis=device.working_distance,
        focus_options={
            "range_um": range_um or 40 * depth_of_field_um,
            "depth_of_field_um": depth_of_field_um,
        },
        full_scale=full_scale,
    )
