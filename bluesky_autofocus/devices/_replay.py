"""A recorded focus stack as an instrument: an axis that stops at its planes, a camera that shows them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd.status import MoveStatus

from bluesky_autofocus.devices._axis import SimulatedAxis
from bluesky_autofocus.devices._camera import SimulatedCamera
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.stacks import FocusStack

__all__ = ["ReplayedAxis", "replayed_instrument"]


class ReplayedAxis(SimulatedAxis):
    """An axis that can only stand where a plane was recorded.

    A move goes to the plane nearest to where it was sent, and the readback says which that is, so nothing
    is interpolated and no frame is shown for a position at which it was not taken. The limits are the
    first and the last plane.

    Parameters
    ----------
    stack : FocusStack
        The recorded planes.
    position_um : float, optional
        It starts at the plane nearest to this; at the first one by default.

    Raises
    ------
    ValueError
        If `position_um` lies outside the stack.
    """

    plane = Cpt(ComputedSignal, attribute="plane_index", egu="", value=0, kind="normal")

    def __init__(
        self, prefix: str = "", *, stack: FocusStack, position_um: float | None = None, **kwargs: Any
    ) -> None:
        self.stack = stack
        first, last = float(stack.positions_um[0]), float(stack.positions_um[-1])
        start = first if position_um is None else position_um
        if first <= start <= last:  # else it is for the axis to refuse
            start = float(stack.positions_um[stack.plane_at(start)])
        super().__init__(prefix, limits=(first, last), position_um=start, **kwargs)

    @property
    def plane_index(self) -> int:
        """Index of the plane that the camera shows."""
        return self.stack.plane_at(self.load_um)

    def set(
        self,
        new_position: float,
        *,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
        wait: bool = False,
    ) -> MoveStatus:
        """Go to the plane nearest to a position within the stack."""
        self.check_value(new_position)
        index = self.stack.plane_at(new_position)
        return super().set(
            float(self.stack.positions_um[index]), timeout=timeout, moved_cb=moved_cb, wait=wait
        )


def replayed_instrument(
    stack: FocusStack, frame_directory: Path | str, *, position_um: float | None = None, **axis_options: Any
) -> tuple[SimulatedCamera, ReplayedAxis]:
    """Make a camera and an axis out of a recorded focus stack.

    Parameters
    ----------
    stack : FocusStack
        What was recorded.
    frame_directory : path
        Where the camera writes its frames.
    position_um : float, optional
        Where the axis stands at first.
    axis_options
        `mechanics` and `clock` of the axis.

    Returns
    -------
    camera : SimulatedCamera
        Named "camera".
    z : ReplayedAxis
        Named "z".
    """
    frames = stack.frames
    if frames.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        frames = frames.astype(np.float32)
    z = ReplayedAxis(name="z", stack=stack, position_um=position_um, **axis_options)

    def render() -> np.ndarray:
        return frames[z.plane_index]

    camera = SimulatedCamera(
        name="camera",
        render=render,
        frame_directory=frame_directory,
        frame_shape=frames.shape[1:],
        dtype=frames.dtype,
        clock=z.clock,
    )
    return camera, z
