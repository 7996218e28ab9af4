"""What the worker of a queueserver finds: a session, its devices, and plans."""

import inspect
from collections.abc import Sequence
from typing import Any

from bluesky_autofocus import plans
from bluesky_autofocus.queueing._plans import queued
from bluesky_autofocus.session import Session

__all__ = ["queue_namespace"]

OF_BLUESKY = ("count", "grid_scan", "rel_scan", "scan")
STUBS_OF_BLUESKY = ("mv", "mvr", "sleep")
OF_SESSION = ("check_instrument",)
"""What takes an analysis that the session makes for each run: its own `check` takes the place."""


def queue_namespace(session: Session) -> dict[str, Any]:
    """Return what a startup script of the queueserver puts into its globals.

    The RunEngine and the catalogue of the session, its devices, all plans of this package that open a run,
    the session's own ``focus``, ``check`` and ``resume``, and a few plans of bluesky's. Stubs are left out:
    they focus within a run that is open, and in a queue none is.

    Parameters
    ----------
    session : Session
        ``open_session("sem", show=None)``.
    """
    from bluesky import plan_stubs as bps
    from bluesky import plans as bp

    return {
        "RE": session.RE,
        "db": session.db,
        "session": session,
        **{name: getattr(bp, name) for name in OF_BLUESKY},
        **{name: getattr(bps, name) for name in STUBS_OF_BLUESKY},
        **{
            name: queued(plan, session.analyses, clock=session.clock)
            for name, plan in _plans_that_open_a_run().items()
        },
        **{plan.__name__: queued(plan, session.analyses) for plan in _plans_of(session)},
        **session.instrument.devices,
    }


def _plans_that_open_a_run() -> dict[str, Any]:
    """Return the plans of this package that open a run: they take its metadata."""
    named = {name: getattr(plans, name) for name in plans.__all__ if name not in OF_SESSION}
    functions = {name: one for name, one in named.items() if inspect.isfunction(one)}
    return {name: one for name, one in functions.items() if "md" in inspect.signature(one).parameters}


def _plans_of(session: Session) -> list[Any]:
    """Return the plans that a session makes of what it knows of its instrument."""

    def focus(method: str | None = None, md: dict[str, Any] | None = None, **options: Any) -> Any:
        """Focus the instrument of this session, as it is focused best.

        Parameters
        ----------
        method : str, optional
            How; by default what suits the instrument.
        md : dict, optional
            Metadata of the run.
        options
            Of `autofocus`, in place of those that suit the instrument: ``range_um``, ``budget`` ...
        """
        chosen = options if method is None else {"method": method, **options}
        return (yield from session.focus(md=md, **chosen))

    def check(
        bounds_um: Sequence[float], planes: int = 21, watch_s: float = 1.0, md: dict[str, Any] | None = None
    ) -> Any:
        """Try the instrument of this session, device by device, within a range.

        Parameters
        ----------
        bounds_um : sequence of float
            Lowest and highest position; the axis is not sent beyond.
        planes : int
            Frames along the range, each way.
        watch_s : float
            How long the axis is watched after a move.
        md : dict, optional
            Metadata of the run.
        """
        report = yield from session.check(bounds_um, planes=planes, watch_s=watch_s, md=md)
        return report.recorded()

    def resume(uid: str, marked: bool = False) -> Any:
        """Go on with a tile scan or a time-lapse that ended early, in a run of its own.

        Parameters
        ----------
        uid : str
            Of any run of it.
        marked : bool
            Whether to visit the tiles again too for whose focus nobody vouches.
        """
        return (yield from session.resume(uid, marked=marked))

    return [focus, check, resume]
