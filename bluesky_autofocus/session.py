"""What an IPython profile, the command line and the queueserver share: a RunEngine, all attached."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bluesky import RunEngine, SupplementalData
from bluesky.callbacks.core import make_callback_safe

from bluesky_autofocus.callbacks import FocusTable, LiveRefocus, SharpnessAnalysis
from bluesky_autofocus.catalog import Catalog, open_catalog
from bluesky_autofocus.clock import Clock, WallClock
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.instruments import Instrument, make_instrument
from bluesky_autofocus.plans import autofocus

__all__ = ["Session", "open_session"]


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

    def focus(self, **options: Any) -> Any:
        """Return the plan that focuses this instrument; options of `autofocus` as you wish."""
        method = options.setdefault("method", self.instrument.method)
        sensible = self.instrument.method_options.get(method, self.instrument.focus_options)
        chosen = {"analysis": self.analysis_of(method), **sensible, **options}
        places = ("bounds_um", "range_um", "positions_um")
        if any(place in options for place in places):  # one way to say where is enough
            for place in places:
                if place not in options:
                    chosen.pop(place, None)
        return autofocus(self.instrument.detectors, self.instrument.axis, **chosen)

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
        return live

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
            "bp": bp,
            "bps": bps,
            "BlurTrigger": BlurTrigger,
            "SharpnessAnalysis": SharpnessAnalysis,
            "analyse": callbacks.analyse,
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
        """Write what is left and let the catalogue go."""
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
    options
        Of the instrument.

    Raises
    ------
    CatalogError
        If the catalogue cannot be opened.
    ValueError
        If there is no such instrument or metric.
    """
    sharpness = SharpnessAnalysis(metric) if metric else SharpnessAnalysis()
    clock = clock or WallClock()
    opened = open_catalog(catalog)
    with _closing_on_failure(opened):
        made = make_instrument(instrument, opened.frame_directory, clock, **options)
        sharpness.full_scale = made.full_scale
        run_engine = RunEngine()
        install_frame_routing(run_engine)
        opened.subscribe(run_engine)
        different = dict.fromkeys((sharpness, *made.analyses.values()))
        tokens = {one: run_engine.subscribe(one) for one in different}
        supplemental = SupplementalData()
        run_engine.preprocessors.append(supplemental)
        if show is not None:
            run_engine.subscribe(make_callback_safe(FocusTable(show)))
    return Session(run_engine, opened, clock, made, sharpness, supplemental, tokens)


@contextlib.contextmanager
def _closing_on_failure(catalog: Catalog) -> Iterator[None]:
    try:
        yield
    except BaseException:
        catalog.close()
        raise


def start_interactive(instrument: str, **options: Any) -> tuple[dict[str, Any], str]:
    """Return the namespace and the banner of an interactive session.

    Adds what only a person needs: best-effort tables and plots, progress bars, a live focus curve.
    """
    import matplotlib
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky.utils import ProgressBarManager

    from bluesky_autofocus.callbacks import LiveFocusCurve

    session = open_session(instrument, **options)
    bec = BestEffortCallback()
    session.RE.subscribe(bec)
    if matplotlib.get_backend().lower() in ("agg", "pdf", "svg", "ps"):
        bec.disable_plots()  # no screen to draw on
    else:
        session.RE.subscribe(make_callback_safe(LiveFocusCurve()))
    run_engine: Any = session.RE  # bluesky types the hook as None
    run_engine.waiting_hook = ProgressBarManager()
    for line in session.catalog.repaired:
        print(f"recovered run {line}, which had not ended properly")  # noqa: T201 - tells the person at the shell
    return {**session.namespace(), "bec": bec, "peaks": bec.peaks}, session.banner()
