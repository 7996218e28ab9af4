"""What a check of an instrument measures: values, before anything is made of them."""

import dataclasses
import math

from bluesky_autofocus.commissioning._frames import FrameStatistics, PhotonTransfer

__all__ = ["Measured", "Move", "Problem", "Read", "Shot", "Switch"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """That a device failed at something.

    Parameters
    ----------
    device : str
        Its name.
    doing : str
        What it was asked for.
    error : str
        What it said.
    """

    device: str
    doing: str
    error: str


@dataclasses.dataclass(frozen=True)
class Read:
    """One reading of a device.

    Parameters
    ----------
    device : str
        Its name.
    keys : int
        How many values it gave.
    seconds : float
        How long that took.
    not_finite : tuple of str
        Keys of numbers that are none.
    """

    device: str
    keys: int
    seconds: float
    not_finite: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Move:
    """One move of the axis.

    Parameters
    ----------
    from_um, target_um, reached_um : float
        Where it stood, was sent, and read back when it said that it was there.
    seconds : float
        How long that took.
    """

    from_um: float
    target_um: float
    reached_um: float
    seconds: float

    @property
    def error_um(self) -> float:
        """Read back less target."""
        return self.reached_um - self.target_um

    @property
    def upwards(self) -> bool:
        """Which way it went."""
        return self.target_um > self.from_um


@dataclasses.dataclass(frozen=True)
class Shot:
    """One frame.

    Parameters
    ----------
    position_um : float
        Where the axis was read back.
    began_s, ended_s : float
        Time of the clock when it was triggered and when it was there.
    exposure_s : float
        Of the camera, NaN where it does not say.
    sharpness : float
        NaN where the frame has none; `reason` says why.
    reason : str
        ``ok``, or as of `bluesky_autofocus.records.Reason`.
    frame : FrameStatistics
    noise : PhotonTransfer, optional
        By this frame and the one before, where there was one.
    event_uid : str
    """

    position_um: float
    began_s: float
    ended_s: float
    exposure_s: float
    sharpness: float
    reason: str
    frame: FrameStatistics
    noise: PhotonTransfer | None = None
    event_uid: str = ""

    @property
    def latency_s(self) -> float:
        """What a frame takes beside its exposure; the whole time where that is not known."""
        took_s = self.ended_s - self.began_s
        return took_s if math.isnan(self.exposure_s) else round(took_s - self.exposure_s, 6)


@dataclasses.dataclass(frozen=True)
class Switch:
    """One change of the light, and the frames right after it.

    Parameters
    ----------
    pattern : str
        What it was set to.
    lit : bool
        Whether there was to be light.
    seconds : float
        Until the array said that it was so.
    shots : tuple of Shot
        The frames that followed.
    """

    pattern: str
    lit: bool
    seconds: float
    shots: tuple[Shot, ...]


@dataclasses.dataclass
class Measured:
    """All that a check has measured so far.

    Parameters
    ----------
    bounds_um : tuple of float
        Lowest and highest position of the range that was confirmed.
    start_um : float
        Where the axis stood.
    axis, camera, light : str
        Names of the devices; empty where there is none.
    depth_of_field_um, full_scale : float, optional
        As they are known.
    exposure_settable : bool
        Whether the exposure time of the camera can be set, and does not follow from other settings.

    Attributes
    ----------
    limits_um : tuple of float or None
        That the axis states.
    refuses : dict
        Whether the axis refuses positions beyond its limits, by the position; None where it cannot be asked.
    rest_um : list of float
        Readbacks of the axis at rest.
    still, up, down, settling : list of Shot
        Frames with nothing changed between them; along the range upwards, and downwards; and right after a
        move.
    settling_um : list of tuple of float
        Time after a move was said to be done, and readback.
    settled_s : float
        Time of the clock when the move before the frames of `settling` was done.
    returned : bool
        Whether all was put back.
    """

    bounds_um: tuple[float, float]
    start_um: float
    axis: str
    camera: str
    light: str = ""
    depth_of_field_um: float | None = None
    full_scale: float | None = None
    exposure_settable: bool = True
    limits_um: tuple[float, float] | None = None
    refuses: dict[float, bool] | None = None
    problems: list[Problem] = dataclasses.field(default_factory=list)
    reads: list[Read] = dataclasses.field(default_factory=list)
    rest_um: list[float] = dataclasses.field(default_factory=list)
    moves: list[Move] = dataclasses.field(default_factory=list)
    still: list[Shot] = dataclasses.field(default_factory=list)
    up: list[Shot] = dataclasses.field(default_factory=list)
    down: list[Shot] = dataclasses.field(default_factory=list)
    settling: list[Shot] = dataclasses.field(default_factory=list)
    settling_um: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    settled_s: float = math.nan
    switches: list[Switch] = dataclasses.field(default_factory=list)
    returned: bool = True
