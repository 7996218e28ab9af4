"""What an IPython profile, the command line and the queueserver share: a RunEngine, all attached."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bluesky import RunEngine, SupplementalData
from bluesky import preprocessors as bpp
from bluesky.callbacks.core import make_callback_safe

from bluesky_autofocus.callbacks import (
    DoseLedger,
    FieldDose,
    FocusMapAnalysis,
    FocusTable,
    LiveRefocus,
    SharpnessAnalysis,
)
from bluesky_autofocus.catalog import Catalog, open_catalog
from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.instruments import Instrument, make_instrument
from bluesky_autofocus.plans import autofocus, disk_guard_wrapper
from bluesky_autofocus.plans._disk import RESERVE_BYTES
from bluesky_autofocus.prediction import FocusSurface
from bluesky_autofocus.retention import PruneAfterRun, Pruning, policy_named, prune

__all__ = ["Session", "open_session"]

LEAST_POINTS = 3
"""Runs of fewer have no progress bar."""


@dataclasses.dataclass
class Session:
    """A RunEngine that records in databroker, an instrument, and what focuses it.

    Made by `open_session`; `close` it, or use it in a ``with`` statement.
    """

    RE: RunEngine
    catalog: Catalog
    clock: Clock
    instrument: Instrument
    sharpness: SharpnessAnalysis
    sd: SupplementalData
    tokens: dict[Any, int] = dataclasses.field(default_factory=dict, repr=False)
    pruning: PruneAfterRun | None = dataclasses.field(default=None, repr=False)
    _pages: list[Any] = dataclasses.field(default_factory=list, repr=False)

    @property
    def db(self) -> Any:
        """Databroker's catalogue."""
        return self.catalog.client

    @property
    def analyses(self) -> dict[str, Any]:
        """What judges frames, by the name that it has in the documents; all of it is subscribed."""
        return {one.name: one for one in (self.sharpness, *self.instrument.analyses.values())}

    def analysis_of(self, method: str) -> Any:
        """Return what judges the frames of a focusing method."""
        return self.instrument.analyses.get(method, self.sharpness)

    def use(self, method: str, analysis: Any) -> None:
        """Let an analysis judge the frames of a method: subscribe it in place of the present one."""
        old = self.instrument.analyses.get(method)
        self.instrument.analyses[method] = analysis
        # one may serve several methods, and sharpness those that have none of their own
        if old in self.tokens and old not in (self.sharpness, *self.instrument.analyses.values()):
            self.RE.unsubscribe(self.tokens.pop(old))
        if analysis not in self.tokens:
            self.tokens[analysis] = self.RE.subscribe(analysis)

    def focus(self, *, roi: Sequence[float] | None = None, **options: Any) -> Any:
        """Return the plan that focuses this instrument; options of `autofocus` as you wish.

        Parameters
        ----------
        roi : sequence, optional
            Go by the sharpness of this region alone: (row_start, row_stop, col_start, col_stop), integers in
            pixels or floats as fractions of the frame.

        Raises
        ------
        ValueError
            If the roi is none, or the method does not go by sharpness.
        """
        method = options.setdefault("method", self.instrument.method)
        sensible = self.instrument.method_options.get(method, self.instrument.focus_options)
        chosen = {"analysis": self.analysis_of(method), **sensible, **options}
        analysis = self._with_tiles(chosen["analysis"]) if method == "map" else chosen["analysis"]
        if roi is not None:
            analysis = self._in_region(analysis, method, roi)
        places = ("bounds_um", "range_um", "positions_um")
        if any(place in options for place in places):  # one way to say where is enough
            for place in places:
                if place not in options:
                    chosen.pop(place, None)
        made = analysis is not chosen["analysis"]
        chosen["analysis"] = analysis
        plan = autofocus(self.instrument.detectors, self.instrument.axis, **chosen)
        # what was made for this plan alone sees its documents and no others
        return bpp.subs_wrapper(plan, analysis) if made else plan

    def _with_tiles(self, analysis: Any) -> Any:
        if analysis is not self.sharpness:
            return analysis
        return FocusMapAnalysis(self.sharpness.metric.name, full_scale=self.sharpness.full_scale)

    def _in_region(self, analysis: Any, method: str, roi: Sequence[float]) -> SharpnessAnalysis:
        if not isinstance(analysis, SharpnessAnalysis):
            raise ValueError(f"{method!r} goes by {analysis.name!r} and not by sharpness: it takes no roi")
        return analysis.of_region(roi)

    def named(self, name: str) -> Any:
        """Return the device, the part of one, or the analysis that documents call so.

        Raises
        ------
        ValueError
            If there is none.
        """
        if name in self.analyses:
            return self.analyses[name]
        for device in self.instrument.devices.values():
            for part in (device, *_parts_of(device)):
                if part.name == name:
                    return part
        raise ValueError(f"there is no device and no analysis {name!r} in this session")

    def resume(self, uid: str | int, *, marked: bool = False) -> Any:
        """Return the plan that goes on with a tile scan or a time-lapse that ended early, in a new run.

        Parameters
        ----------
        uid : str or int
            Of any run of it; as for ``db[uid]``.
        marked : bool
            Whether to visit the tiles again too for whose focus nobody vouches.

        Raises
        ------
        NotResumableError
            If the run was made by another plan, has not ended, or nothing is left of it.
        """
        from bluesky_autofocus import plans
        from bluesky_autofocus.resuming import NotResumableError, resumption_of

        left = resumption_of(self.db, self.db[uid], marked=marked)
        if not left.missing:
            raise NotResumableError(f"nothing is left: all {left.total} tiles are there")
        for name, parameters in left.analyses.items():
            if name not in self.analyses and "metric" in parameters:
                self.use(name, SharpnessAnalysis(**parameters))
        args, kwargs = left.decoded(self.named)
        return getattr(plans, left.plan)(*args, clock=self.clock, **kwargs)

    def refocus(self, refocuser: Any = None, **options: Any) -> LiveRefocus:
        """Refocus blurred frames of all runs from now on, as they come, and record the results beside them.

        Parameters
        ----------
        refocuser : Refocuser, optional
            By default the model that comes with the package.
        options
            Of `LiveRefocus`: which frames, of which streams.

        Returns
        -------
        LiveRefocus
            ``.wait()`` waits for the frames of runs that have ended; `RE.unsubscribe(live.token)` ends it.
        """
        if refocuser is None:
            from bluesky_autofocus.models.refocus import load_model

            refocuser = load_model()
            refocuser.full_scale = self.instrument.full_scale
        live = LiveRefocus(refocuser, self.catalog.recorder(), self.catalog.frame_directory, **options)
        live.token = self.RE.subscribe(live)
        if self.pruning is not None:
            # it reads frames after the run has ended, and refers to them
            self.pruning.first.append(live.wait)
            self.RE.unsubscribe(self.tokens[self.pruning])
            self.tokens[self.pruning] = self.RE.subscribe(self.pruning)
        return live

    def prune(
        self, run: Any = -1, *, keep: str = "in-focus", dry_run: bool = False, referred: bool = False
    ) -> Pruning:
        """Delete those frames of a recorded run that are not to be kept; all else of it stays.

        Parameters
        ----------
        run : BlueskyRun, str or int
            A run, or what ``db[run]`` finds one by.
        keep : str
            "all", "in-focus", or "readings" and no frame at all.
        dry_run : bool
            Only tell what would go.
        referred : bool
            Let those go too that other runs refer to: that were refocused or labelled, or collected.

        Returns
        -------
        Pruning
            What went, or would.

        Raises
        ------
        ValueError, OSError
            As `bluesky_autofocus.retention.prune` does.
        """
        found = self.db[run] if isinstance(run, str | int) else run
        return prune(self.db, found, keep, dry_run=dry_run, referred=referred)

    def monitor(self, port: int = 0, address: str = "127.0.0.1") -> Any:
        """Serve a page that shows the run that goes on, to people in another room, until the session closes.

        Parameters
        ----------
        port : int
            0 takes a free one.
        address : str
            Which network it listens to; "0.0.0.0" is all of them, by default only this machine.

        Returns
        -------
        bluesky_autofocus.monitor.Monitor
            ``.url`` is the address of the page, ``.close()`` ends it.

        Raises
        ------
        ImportError
            If there is no Bokeh; naming what to install.
        ValueError
            If the port cannot be listened to.
        """
        from bluesky_autofocus.monitor import Monitor

        page = Monitor(port=port, address=address)
        self.RE.subscribe(page)
        self._pages.append(page)
        return page

    def doses(self, *runs: str | int, **options: Any) -> list[FieldDose]:
        """Return what each field was exposed to, by the runs that are named or all of the catalogue.

        Parameters
        ----------
        runs : str or int
            As for ``db[run]``.
        options
            Of `DoseLedger`: by which keys a field is known, and how large it is.
        """
        recorded = [self.db[run] for run in runs] if runs else self.db.values()
        return DoseLedger.of(recorded, **options).fields

    def surface(self, uid: str | int) -> FocusSurface:
        """Return the newest focus surface that a run has recorded, to begin another one with.

        Parameters
        ----------
        uid : str or int
            Of the run, as for `db`: uid, its first characters, scan_id, or -1 for the newest.

        Raises
        ------
        DatasetError
            If the run has recorded none.
        """
        from bluesky_autofocus.dataset import surface_of

        return surface_of(self.db[uid])

    def namespace(self) -> dict[str, Any]:
        """Return the names that an interactive session starts with."""
        from bluesky import plan_stubs as bps
        from bluesky import plans as bp

        from bluesky_autofocus import callbacks, leds, plans, report
        from bluesky_autofocus.search import BlurTrigger

        return {
            "RE": self.RE,
            "db": self.db,
            "sd": self.sd,
            **self.analyses,
            "session": self,
            "focus": self.focus,
            "refocus": self.refocus,
            "prune": self.prune,
            "monitor": self.monitor,
            "resume": self.resume,
            "bp": bp,
            "bps": bps,
            "BlurTrigger": BlurTrigger,
            "FocusMapAnalysis": FocusMapAnalysis,
            "SharpnessAnalysis": SharpnessAnalysis,
            "analyse": callbacks.analyse,
            "focus_map": callbacks.focus_map,
            "write_report": report.write_report,
            **{name: getattr(leds, name) for name in ("Annulus", "HalfAnnulus", "LEDs", "Line", "Single")},
            **{name: getattr(plans, name) for name in plans.__all__ if name.islower()},
            **self.instrument.devices,
        }

    def banner(self) -> str:
        """Return a few lines that say what to type."""
        axis, method = self.instrument.axis, self.instrument.method
        device = next(name for name in self.instrument.devices if axis.name.startswith(name))
        path = device if device == axis.name else f"{device}.{axis.name.removeprefix(device + '_')}"
        others = [name for name in self.instrument.method_options if name != method]
        other = f"method='{others[0]}') works too" if others else "method='sweep') looks everywhere"
        typed = [
            ("RE(focus())", f"focus; focus({other}, autofocus? tells all options"),
            (f"RE(bps.mv({path}, {axis.position:.0f}))", "move (um); any plan records: RE(bp.scan(...))"),
        ]
        if "leds" in self.instrument.devices:
            typed.append(
                ("RE(bps.mv(leds, Single(0.4, 0)))", "one LED; any pattern: 'half_annulus_top', 'off'")
            )
        reading = f"reading_{self.analysis_of(method).name}"
        what = "the focus curve" if self.analysis_of(method) is self.sharpness else "what was read"
        typed += [
            ("db[-1]['verdict'].read()", "what was concluded; db[-1] is the newest run"),
            (f"db[-1]['{reading}'].read()", f"{what}; db[-1]['focus_{method}'] holds the frames"),
            ("write_report(db[-1], 'focus.html')", "a page with the curve and the frames"),
        ]
        devices = ", ".join(self.instrument.devices)
        head = f"bluesky_autofocus, {self.instrument.name}: {devices} connected, {path} focuses. Type"
        return "\n".join([head, *(f"  {what:36s} {why}" for what, why in typed)])

    def close(self) -> None:
        """Write what is left, let the catalogue go, serve no page any more."""
        for page in self._pages:
            page.close()
        if self.pruning is not None:
            self.pruning.wait()
        self.catalog.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_session(
    instrument: str = "sem",
    *,
    catalog: str | Path | None = None,
    clock: Clock | None = None,
    metric: str | None = None,
    show: Callable[[str], None] | None = print,
    retention: str | None = None,
    reserve_bytes: int = RESERVE_BYTES,
    **options: Any,
) -> Session:
    """Open the catalogue, make the instrument, attach everything to a RunEngine.

    Parameters
    ----------
    instrument : str
        One of `bluesky_autofocus.instruments.INSTRUMENTS`.
    catalog : str or path, optional
        See `open_catalog`.
    clock : Clock, optional
        By default real time.
    metric : str, optional
        Sharpness metric; the noise-robust default if not given.
    show : callable or None
        What prints each exposure's line while focusing; None for silence.
    retention : str, optional
        Which frames of each run stay once it has ended well, where its own metadata do not say: "all",
        "in-focus" or "readings". By default all.
    reserve_bytes : int
        What is to stay free of the disk: a plan is stopped before an exposure for which there is no room
        beside (`disk_guard_wrapper`).
    options
        Of the instrument.

    Raises
    ------
    CatalogError
        If the catalogue cannot be opened.
    ValueError
        If there is no such instrument, metric or retention.
    """
    if retention is not None:
        policy_named(retention)
    sharpness = SharpnessAnalysis(metric) if metric else SharpnessAnalysis()
    clock = clock or WallClock()
    opened = open_catalog(catalog)
    with _closing_on_failure(opened):
        made = make_instrument(instrument, opened.frame_directory, clock, **options)
        sharpness.full_scale = made.full_scale
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        opened.subscribe(run_engine)
        run_engine.md["instrument"] = _described(instrument, clock, options)
        different = dict.fromkeys((sharpness, *made.analyses.values()))
        tokens = {one: run_engine.subscribe(one) for one in different}
        supplemental = SupplementalData()
        run_engine.preprocessors.append(supplemental)
        if show is not None:
            run_engine.subscribe(make_callback_safe(FocusTable(show)))
        if retention is not None:
            run_engine.md["retention"] = retention
        pruning = PruneAfterRun(opened.client)
        tokens[pruning] = run_engine.subscribe(pruning)
        run_engine.preprocessors.append(
            partial(disk_guard_wrapper, detectors=made.detectors, reserve_bytes=reserve_bytes)
        )
    return Session(run_engine, opened, clock, made, sharpness, supplemental, tokens, pruning)


def _described(instrument: str, clock: Clock, options: dict[str, Any]) -> dict[str, Any]:
    """Return what start documents say of the instrument, so that it can be made again."""
    return {
        "name": instrument,
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        # 0 where time passes only in waits
        "clock_speed": clock.speed if isinstance(clock, WallClock) else 0.0,
    }


def _parts_of(device: Any) -> Iterator[Any]:
    """Yield what a device is made of, at all depths."""
    if hasattr(device, "walk_signals"):
        yield from (part for _, part in device.walk_subdevices(include_lazy=True))
        yield from (walked.item for walked in device.walk_signals(include_lazy=True))


@contextlib.contextmanager
def _closing_on_failure(catalog: Catalog) -> Iterator[None]:
    try:
        yield
    except BaseException:
        catalog.close()
        raise


def start_interactive(instrument: str, **options: Any) -> tuple[dict[str, Any], str]:
    """Return the namespace and the banner of an interactive session.

    Adds what only a person needs: best-effort tables and plots, progress bars, live plots of focusing.
    """
    import matplotlib
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky.utils import ProgressBarManager
    from tqdm import tqdm

    from bluesky_autofocus.callbacks import LiveView, RunProgress

    options.setdefault("show", tqdm.write)  # lines above the progress bar, not through it
    session = open_session(instrument, **options)
    bec = BestEffortCallback()
    session.RE.subscribe(bec)
    if matplotlib.get_backend().lower() in ("agg", "pdf", "svg", "ps"):
        bec.disable_plots()  # no screen to draw on
    else:
        session.RE.subscribe(LiveView())
    session.RE.subscribe(make_callback_safe(RunProgress(least=LEAST_POINTS)))
    run_engine: Any = session.RE  # bluesky types the hook as None
    run_engine.waiting_hook = ProgressBarManager()
    for line in session.catalog.repaired:
        print(f"recovered run {line}, which had not ended properly")  # noqa: T201 - tells the person at the shell
    return {**session.namespace(), "bec": bec, "peaks": bec.peaks}, session.banner()
