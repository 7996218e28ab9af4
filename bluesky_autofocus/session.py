"""What an IPython profile, the command line and the queueserver share: a RunEngine, all attached."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky import RunEngine, SupplementalData
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.callbacks.core import make_callback_safe
from bluesky.utils import FailedStatus

from bluesky_autofocus.callbacks import (
    DoseLedger,
    FieldDose,
    FocusMapAnalysis,
    FocusTable,
    FrameCheckAnalysis,
    LiveRefocus,
    SharpnessAnalysis,
)
from bluesky_autofocus.catalog import Catalog, open_catalog
from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.instruments import Instrument, make_instrument
from bluesky_autofocus.plans import autofocus, axis_limits_wrapper, check_instrument, disk_guard_wrapper
from bluesky_autofocus.plans._disk import RESERVE_BYTES
from bluesky_autofocus.plans._trial import exposure_time_of, is_settable
from bluesky_autofocus.prediction import FocusSurface
from bluesky_autofocus.retention import PruneAfterRun, Pruning, policy_named, prune

if TYPE_CHECKING:
    from bluesky_autofocus.configuration import Configuration

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
    _pages: dict[Any, int] = dataclasses.field(default_factory=dict, repr=False)

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
        """Let an analysis judge the frames of a method: subscribe it in place of the present one.

        It is told the grey level at which the camera saturates, where it says none.
        """
        _tell_full_scale(analysis, self.instrument.full_scale)
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

    def check(self, bounds_um: Sequence[float], **options: Any) -> Any:
        """Return the plan that tries this instrument, device by device, within a range.

        Parameters
        ----------
        bounds_um : sequence of float
            Lowest and highest position; the axis is not sent beyond.
        options
            Of `check_instrument`.
        """
        # what was made for this plan alone sees its documents and no others
        analysis = FrameCheckAnalysis(self.sharpness.metric.name, full_scale=self.sharpness.full_scale)
        known = {
            "leds": self.instrument.devices.get("leds"),
            "depth_of_field_um": self.instrument.focus_options.get("depth_of_field_um"),
            "full_scale": self.instrument.full_scale,
            "clock": self.clock,
        }
        low_um, high_um = bounds_um
        plan = check_instrument(
            self.instrument.detectors,
            self.instrument.axis,
            bounds_um=(low_um, high_um),
            analysis=analysis,
            **{**known, **options},
        )
        return bpp.subs_wrapper(plan, analysis)

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

        def forget() -> None:
            self.RE.unsubscribe(self._pages.pop(page))

        page = Monitor(port=port, address=address, on_close=forget)
        self._pages[page] = self.RE.subscribe(page)
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
            "check": self.check,
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
        """Write what is left, let the instrument and the catalogue go, serve no page any more."""
        for page in list(self._pages):
            page.close()
        with contextlib.ExitStack() as always:
            always.callback(self.catalog.close)
            always.callback(self.instrument.close)
            if self.pruning is not None:
                self.pruning.wait()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_session(
    instrument: str | None = None,
    *,
    config: "Configuration | str | PathLike[str] | None" = None,
    catalog: str | Path | None = None,
    clock: Clock | None = None,
    metric: str | None = None,
    show: Callable[[str], None] | None = print,
    retention: str | None = None,
    reserve_bytes: int | None = None,
    **options: Any,
) -> Session:
    """Open the catalogue, make the instrument, attach everything to a RunEngine.

    Parameters
    ----------
    instrument : str, optional
        One of `bluesky_autofocus.instruments.INSTRUMENTS`; "sem" where there is no `config` either.
    config : path or Configuration, optional
        In place of the name: a file that describes the instrument, see `read_configuration`. What else is
        given here wins over what it says.
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
    reserve_bytes : int, optional
        What is to stay free of the disk, by default 256 MiB: a plan is stopped before an exposure for which
        there is no room beside (`disk_guard_wrapper`).
    options
        Of the instrument.

    Raises
    ------
    CatalogError
        If the catalogue cannot be opened.
    ValueError
        If there is no such instrument, metric or retention, or the configuration makes no sense.
    """
    described: Configuration | None = None
    if config is not None:
        described = _read(config, instrument)
        instrument, options = described.instrument.name, {**described.instrument.options, **options}
        catalog = described.session.catalog if catalog is None else catalog
        metric = metric or described.focus.metric
        retention = retention or described.session.retention
        reserve_bytes = described.session.reserve_bytes if reserve_bytes is None else reserve_bytes
    instrument = instrument or "sem"
    if retention is not None:
        policy_named(retention)
    sharpness = SharpnessAnalysis(metric) if metric else SharpnessAnalysis()
    clock = clock or WallClock()
    opened = open_catalog(catalog)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(opened.close)
        made = make_instrument(instrument, opened.frame_directory, clock, **options)
        on_failure.callback(made.close)
        if described is not None:
            made = described.applied_to(made)
            for one in made.analyses.values():
                _tell_full_scale(one, described.camera.full_scale, anew=True)
        for one in (sharpness, *made.analyses.values()):
            _tell_full_scale(one, made.full_scale)
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        opened.subscribe(run_engine)
        run_engine.md["instrument"] = _described(instrument, clock, options)
        if described is not None:
            tables = described.tables()
            del tables["instrument"]  # its options may have been others
            run_engine.md["instrument"]["configuration"] = tables
            _configure(run_engine, made, described, _source_of(config))
        different = dict.fromkeys((sharpness, *made.analyses.values()))
        tokens = {one: run_engine.subscribe(one) for one in different}
        supplemental = SupplementalData()
        run_engine.preprocessors.append(partial(_with_supplemental, supplemental=supplemental))
        if show is not None:
            run_engine.subscribe(make_callback_safe(FocusTable(show)))
        if retention is not None:
            run_engine.md["retention"] = retention
        pruning = PruneAfterRun(opened.client)
        tokens[pruning] = run_engine.subscribe(pruning)
        reserve = RESERVE_BYTES if reserve_bytes is None else reserve_bytes
        run_engine.preprocessors.append(
            partial(disk_guard_wrapper, detectors=made.detectors, reserve_bytes=reserve)
        )
        on_failure.pop_all()
    return Session(run_engine, opened, clock, made, sharpness, supplemental, tokens, pruning)


def _read(config: Any, instrument: str | None) -> "Configuration":
    from bluesky_autofocus.configuration import Configuration, read_configuration

    if instrument is not None:
        raise ValueError(f"give either an instrument, {instrument!r}, or a config that names one, {config!r}")
    return config if isinstance(config, Configuration) else read_configuration(config)


def _source_of(config: Any) -> str:
    """Return what errors call a configuration."""
    return str(config) if isinstance(config, str | PathLike) else "configuration"


def _tell_full_scale(analysis: Any, full_scale: float | None, *, anew: bool = False) -> None:
    """Tell an analysis, and what it judges frames with, at which grey level the camera saturates.

    What they were made with stays, unless they are to be told anew. Without it they take the largest of the
    type, and believe a saturated camera of 12 bits.
    """
    if full_scale is None:
        return
    judging: tuple[Any, ...] = (analysis, *(getattr(analysis, name, None) for name in ("estimator", "model")))
    for one in judging:
        if hasattr(one, "full_scale") and (anew or one.full_scale is None):
            one.full_scale = full_scale


def _configure(run_engine: RunEngine, instrument: Instrument, config: "Configuration", source: str) -> None:
    """Set what a configuration says of the devices themselves."""
    from bluesky_autofocus.configuration import ConfigurationError

    if config.axis.limits_um is not None:
        run_engine.preprocessors.append(
            partial(axis_limits_wrapper, axis=instrument.axis, limits_um=config.axis.limits_um)
        )
    wanted_s = config.camera.exposure_s
    if wanted_s is None:
        return
    key = f"{source}: camera.exposure_s is {wanted_s:g}"
    camera = instrument.detectors[0]
    exposure = exposure_time_of(camera)
    if exposure is None:
        raise ConfigurationError(f"{key}, and {camera.name} has no exposure time to set: leave it out")
    if not is_settable(exposure):
        raise ConfigurationError(
            f"{key}, and {exposure.name} can only be read, since it follows from other settings: leave it out"
        )
    try:
        run_engine(bps.mv(exposure, wanted_s))
    except FailedStatus as error:
        if isinstance(error.__cause__, ValueError):  # as limits are told
            raise ConfigurationError(f"{key}: {error.__cause__}") from error
        raise


def _with_supplemental(plan: Any, supplemental: SupplementalData) -> Any:
    """Add what is read, monitored or flown beside a plan.

    Where there is nothing to add the plan stays as it is: `bluesky.preprocessors.plan_mutator` keeps every
    message until the plan has ended, and of a night these are hundreds of megabytes.
    """
    if supplemental.baseline or supplemental.monitors or supplemental.flyers:
        return (yield from supplemental(plan))
    return (yield from plan)


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


def start_interactive(instrument: str | None = None, **options: Any) -> tuple[dict[str, Any], str]:
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
