"""An XY stage of a Micro-Manager core: two axes that share one command."""

from typing import Any

from ophyd import Device

from bluesky_autofocus.devices._microscope import _MadeBy
from bluesky_autofocus.devices.micromanager._axis import MOVE_S, SHORT_UM, StageAxis
from bluesky_autofocus.devices.micromanager._calls import ANSWER_S, XY_STAGE, DeviceLink

__all__ = ["XYStage"]


class _Pair:
    """Where both coordinates of an XY stage are to be: they are told by one command."""

    def __init__(self, link: DeviceLink) -> None:
        self.link = link
        self._target_um: list[float] | None = None

    def tell(self, core: Any, coordinate: int, position_um: float) -> None:
        """Move one coordinate; the other one stays, or goes on to where it was told to go.

        It is only called on the thread of the adapter, which is the lock of the target.
        """
        label = self.link.label
        here_um = [float(one) for one in core.getXYPosition(label)]
        target_um = here_um
        if self._target_um is not None and core.deviceBusy(label):
            target_um = self._target_um
        target_um[coordinate] = position_um
        self._target_um = target_um
        core.setXYPosition(label, *target_um)

    def stopped(self) -> None:
        """Forget where it was to go."""
        self._target_um = None


class _Coordinate(StageAxis):
    """X or Y of an XY stage. Stopping one stops both."""

    def __init__(self, prefix: str = "", *, pair: _Pair, coordinate: int, **kwargs: Any) -> None:
        self._pair, self._coordinate = pair, coordinate
        super().__init__(prefix, link=pair.link, **kwargs)

    def _tell(self, core: Any, position_um: float) -> None:
        self._pair.tell(core, self._coordinate, position_um)

    def _asked_um(self) -> float:
        return float(self._link.ask("getXYPosition")[self._coordinate])

    def _tell_to_stop(self, core: Any) -> None:
        self._pair.stopped()
        super()._tell_to_stop(core)


class XYStage(Device):
    """A stage that moves the specimen sideways: its axes ``x`` and ``y`` can be moved at the same time.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str, optional
        Of the stage in the configuration; by default the core's XY stage.
    x_limits, y_limits : tuple of float
        Lowest and highest position in um.
    move_s, short_um, answer_s : float
        As of `ZStage`.

    Raises
    ------
    MicroManagerError
        If the configuration has no such stage, or it does not tell its position.
    ValueError
        If a number makes no sense.
    """

    x = _MadeBy(_Coordinate, kind="hinted")
    y = _MadeBy(_Coordinate, kind="hinted")

    def __init__(
        self,
        prefix: str = "",
        *,
        core: Any,
        label: str | None = None,
        x_limits: tuple[float, float],
        y_limits: tuple[float, float],
        move_s: float = MOVE_S,
        short_um: float = SHORT_UM,
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        link = DeviceLink(core, label or core.getXYStageDevice(), XY_STAGE, answer_s=answer_s)
        both = {"pair": _Pair(link), "move_s": move_s, "short_um": short_um}
        self.component_options = {
            "x": {**both, "coordinate": 0, "limits": x_limits},
            "y": {**both, "coordinate": 1, "limits": y_limits},
        }
        super().__init__(prefix, **kwargs)
