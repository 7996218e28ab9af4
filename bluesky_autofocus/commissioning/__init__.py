"""What is made of the measurements when a new instrument is tried device by device: pure, no messages."""

from bluesky_autofocus.commissioning._axis import (
    Displacement,
    Settling,
    Speed,
    backlash,
    lost_motion,
    settling,
    speed,
    spread,
)
from bluesky_autofocus.commissioning._focus import ContrastCurve, Flank, contrast_curve, flank
from bluesky_autofocus.commissioning._frames import FrameStatistics, PhotonTransfer, photon_transfer
from bluesky_autofocus.commissioning._measured import Measured, Move, Problem, Read, Shot, Switch
from bluesky_autofocus.commissioning._report import CheckReport, Finding, Grade, Suggestion, assess

__all__ = [
    "CheckReport",
    "ContrastCurve",
    "Displacement",
    "Finding",
    "Flank",
    "FrameStatistics",
    "Grade",
    "Measured",
    "Move",
    "PhotonTransfer",
    "Problem",
    "Read",
    "Settling",
    "Shot",
    "Speed",
    "Suggestion",
    "Switch",
    "assess",
    "backlash",
    "contrast_curve",
    "flank",
    "lost_motion",
    "photon_transfer",
    "settling",
    "speed",
    "spread",
]
