"""A night of 10,000 tiles: what is in focus, what that costs, whether memory and catalogue grow as they may.

Through everything that a user has: `tile_scan` with a session's RunEngine, frames in their files, documents
in the spool and the catalogue. Only time is simulated, and what is under the objective: nuclei in widefield
fluorescence, on a slide that is tilted, bent and not flat, drifts as it warms up, and has bubbles whose rims
are in focus elsewhere, places where the specimen was washed off, and a lamp that flickers, drops and fails.

Other ways to do it, and blisters, where the specimen has come off the glass and nothing foretells its
height, are run over 160 tiles.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import numpy as np
from bluesky.utils import MsgGenerator

from benchmarks._night_microscope import night_instrument
from benchmarks._results import Figures, figure, run
from bluesky_autofocus.callbacks import SharpnessAnalysis, TwoExposureAnalysis
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.catalog._spool import Spool, read_spooled
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.defocus.two_exposure import LightTransfer, TwoExposureEstimator
from bluesky_autofocus.instruments import INSTRUMENTS
from bluesky_autofocus.plans import EveryExposures, autofocus_wrapper, tile_scan
from bluesky_autofocus.session import Session, open_session

SEED = 0
NIGHT = (100, 100)
"""Rows and columns."""
PART = (10, 16)
"""Of what is compared."""
PITCH_UM = 151.0
"""Of the tiles, which overlap by a tenth."""
RANGE_UM = 40.0
"""How wide the search looks where nothing is known, or nothing is foreseen."""
SETTLED = 500
"""Frames after which memory is to grow no more: as many as the cache of the newest frames holds."""
LENGTHS = (1000, 2000, 5000, 10_000)
"""Of runs whose size and reading times are compared."""

INSTRUMENTS["night"] = night_instrument


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Scan the night, then a part of it each other way."""
    night, part = ((10, 12), (5, 8)) if quick else (NIGHT, PART)
    settled = 50 if quick else SETTLED
    with _folder() as folder:
        watched = Watched(folder / "documents", settled)
        whole = _scan(folder, night, foreseen, "the night", watched)
        grown = [_grown(folder, watched, n) for n in LENGTHS if n <= night[0] * night[1]]
    rows = [whole]
    for way, plan, blisters in (
        ("foreseen", foreseen, 0),
        ("every tile", fixed(1), 0),
        ("every 10th", fixed(10), 0),
        ("a plane alone", plane, 0),
        ("never again", fixed(10**9), 0),
        ("blisters: foreseen", foreseen, 3),
        ("blisters: every tile", fixed(1), 3),
    ):
        with _folder() as folder:
            rows.append(_scan(folder, part, plan, way, None, blisters))
    figures: Figures = {
        "within_1_dof": figure(whole["within_1_dof"], "", ">= 0.999", "higher"),
        "extra_exposures_per_frame": figure(whole["extra"], "", "<= 0.1", "lower"),
        "rss_growth": figure(watched.growth, "", "<= 0.1", "lower"),
        "marked": figure(whole["marked"], "", "<= 0.05", "lower"),
        "beyond_1_dof_unmarked": figure(whole["beyond_unmarked"], "frames", "<= 10", "lower"),
        "within_1_dof_every_tile": figure(rows[2]["within_1_dof"], "", "of a part", "higher"),
        "extra_every_tile": figure(rows[2]["extra"], "", "of a part", "lower"),
        "within_1_dof_every_10th": figure(rows[3]["within_1_dof"], "", "of a part", "higher"),
        "within_1_dof_plane": figure(rows[4]["within_1_dof"], "", "of a part", "higher"),
        "within_1_dof_never": figure(rows[5]["within_1_dof"], "", "of a part", "higher"),
        "within_1_dof_blisters": figure(rows[6]["within_1_dof"], "", "of a part", "higher"),
        "ms_per_tile": figure(whole["ms_per_tile"], "ms", "of this machine", "lower"),
    }
    if grown:
        first, last = grown[0], grown[-1]
        for key in ("bytes", "documents", "read_s"):
            ratio = (last[key] / last["frames"]) / (first[key] / first["frames"])
            figures[f"{key}_per_frame_ratio"] = figure(ratio, "", "<= 1.2", "lower")
    pages = [{"way": "catalogue", **one} for one in grown]
    memory = [{"way": "memory", "frames": n, "rss_mb": mb} for n, mb in watched.rss_mb[:: 1 if quick else 5]]
    picture = _picture(rows, watched, grown)
    return figures, [*rows, *pages, *memory], picture


# Ways to scan


def foreseen(session: Session, size: tuple[int, int]) -> MsgGenerator[Any]:
    """Scan as the how-to says: by surface and drift, with two exposures where that is not sure enough."""
    microscope = session.instrument.devices["microscope"]
    ratio = SharpnessAnalysis("laplacian_ratio", name="ratio", octaves=False)
    ratio.full_scale = session.instrument.full_scale
    session.use("watch", ratio)
    session.use("two_exposure", _pair(microscope))
    return _tile_scan(
        session,
        size,
        focus="two_exposure",
        focus_options={"verify": False, "budget": 2},
        wider={"focus": "search", "range_um": RANGE_UM, "budget": 10, "analysis": session.sharpness},
        analysis=session.analysis_of("two_exposure"),
        watch=ratio,
        on_failure=("wider", "surface"),
        kind="gaussian_process",
    )


def plane(session: Session, size: tuple[int, int]) -> MsgGenerator[Any]:
    """Focus at nine tiles, lay a plane through them, and believe it."""
    return _tile_scan(
        session,
        size,
        analysis=session.sharpness,
        range_um=RANGE_UM,
        kind="plane",
        survey=9,
        sigma_um=1e3,
        on_failure="surface",
    )


def fixed(every: int) -> Callable[[Session, tuple[int, int]], MsgGenerator[Any]]:
    """Return a plan that searches at each tile, or every so many, and stays where that was in between."""

    def plan(session: Session, size: tuple[int, int]) -> MsgGenerator[Any]:
        microscope = session.instrument.devices["microscope"]
        (rows, columns), (x_um, y_um) = size, _origin_um(size)
        grid = (microscope.y, y_um, -y_um, rows, microscope.x, x_um, -x_um, columns)
        return autofocus_wrapper(
            bp.grid_scan(session.instrument.detectors, *grid, snake_axes=True),
            "search",
            when=EveryExposures(every),
            detectors=session.instrument.detectors,
            axis=microscope.z,
            analysis=session.sharpness,
            range_um=RANGE_UM,
            depth_of_field_um=microscope.depth_of_field_um,
            clock=session.clock,
        )

    return plan


def _tile_scan(session: Session, size: tuple[int, int], **options: Any) -> MsgGenerator[Any]:
    microscope = session.instrument.devices["microscope"]
    return tile_scan(
        session.instrument.detectors,
        microscope.z,
        stage=(microscope.x, microscope.y),
        rows=size[0],
        columns=size[1],
        pitch_um=PITCH_UM,
        origin_um=_origin_um(size),
        depth_of_field_um=microscope.depth_of_field_um,
        travel_um=(-95.0, 95.0),
        clock=session.clock,
        **options,
    )


def _origin_um(size: tuple[int, int]) -> tuple[float, float]:
    rows, columns = size
    return -(columns - 1) / 2 * PITCH_UM, -(rows - 1) / 2 * PITCH_UM


def _pair(microscope: Any) -> TwoExposureAnalysis:
    camera, widefield = microscope.light_camera, microscope.widefield
    estimator = TwoExposureEstimator(
        LightTransfer(widefield.optics, widefield.spherical_waves),
        specimen_sigma_um=0.2,
        unexplained=0.05,
        dark_level=camera.offset,
        full_scale=camera.full_scale,
    )
    return TwoExposureAnalysis(estimator)


# What comes of them


class Watched:
    """What goes on in the process while a run is recorded, and all its documents.

    Parameters
    ----------
    folder : Path
        For the documents.
    settled : int
        Frames after which memory is to grow no more.
    """

    def __init__(self, folder: Path, settled: int) -> None:
        self.spool = Spool(folder)
        self.settled = settled
        self.rss_mb: list[tuple[int, float]] = []
        self.run = ""
        self._primary: set[str] = set()
        self._frames = 0

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        self.spool(name, doc)
        if name == "start":
            self.run = doc["uid"]
        elif name == "descriptor" and doc["name"] == "primary":
            self._primary.add(doc["uid"])
        elif name == "event" and doc["descriptor"] in self._primary:
            self._frames += 1
            if self._frames % 100 == 0 or self._frames == self.settled:
                self.rss_mb.append((self._frames, _rss_mb()))
                print(f"{self._frames} frames, {self.rss_mb[-1][1]:.0f} MB", file=sys.stderr, flush=True)

    @property
    def growth(self) -> float:
        """How much more memory there is in use at the end than after the first frames."""
        before = next(mb for n, mb in self.rss_mb if n >= self.settled)
        return self.rss_mb[-1][1] / before - 1


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Tally:
    """Where the frames that count were taken and where they should have been, and how many there were beside.

    Parameters
    ----------
    microscope : NightMicroscope
    """

    def __init__(self, microscope: Any) -> None:
        self.microscope = microscope
        self.frames: dict[tuple[float, float], dict[str, Any]] = {}
        self.exposures = 0
        self._streams: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        if name == "descriptor":
            self._streams[doc["uid"]] = doc
        elif name == "event":
            of = self._streams[doc["descriptor"]]
            self.exposures += any(key.get("external") for key in of["data_keys"].values())
            if of["name"] == "primary":
                self._frame(doc["data"])

    def _frame(self, data: dict[str, Any]) -> None:
        place = round(data["microscope_x"], 1), round(data["microscope_y"], 1)
        off_um = data["microscope_z"] - data["microscope_truth_focus_um"]
        # of a tile that was taken again the last one counts
        self.frames[place] = {
            "off_dof": off_um / self.microscope.depth_of_field_um,
            "source": data.get("tile_source", ""),
            "marked": bool(data.get("tile_marked", False)),
            "empty": self.microscope.empty(*place),
        }


def _scan(
    folder: Path, size: tuple[int, int], plan: Any, way: str, watched: Watched | None, blisters: int = 0
) -> dict[str, Any]:
    """Scan, and compare what was recorded with the truth."""
    extent_um = max(size) * PITCH_UM
    options = {"catalog": folder / "data", "clock": VirtualClock(), "show": None, "seed": SEED}
    with open_session("night", **options, extent_um=extent_um, blisters=blisters) as session:
        if watched is not None:
            session.RE.subscribe(watched)
        tally = Tally(session.instrument.devices["microscope"])
        session.RE.subscribe(tally)
        began_s, worked_s = time.monotonic(), time.process_time()
        session.RE(plan(session, size))
        took_s, worked_s = time.monotonic() - began_s, time.process_time() - worked_s
        hours = session.clock.now_s() / 3600
    frames = list(tally.frames.values())
    off_dof = np.array([abs(one["off_dof"]) for one in frames if not one["empty"]])
    unmarked = [one for one in frames if not (one["empty"] or one["marked"])]
    row = {
        "way": way,
        "blisters": blisters,
        "tiles": math.prod(size),
        "frames": len(frames),
        "empty": sum(one["empty"] for one in frames),
        "within_1_dof": float(np.mean(off_dof <= 1)),
        "p99_dof": float(np.quantile(off_dof, 0.99)),
        "extra": (tally.exposures - len(frames)) / len(frames),
        "marked": sum(one["marked"] for one in frames if not one["empty"]) / len(off_dof),
        "beyond_unmarked": sum(abs(one["off_dof"]) > 1 for one in unmarked),
        "hours": hours,
        "ms_per_tile": 1e3 * took_s / math.prod(size),
        "cpu_ms_per_tile": 1e3 * worked_s / math.prod(size),
    }
    print(row, file=sys.stderr, flush=True)
    return row | {"tally": tally}


def _grown(folder: Path, watched: Watched, n: int) -> dict[str, Any]:
    """Return how large the catalogue of the first frames of the night is, and how long reading takes."""
    whole, part = watched.spool.path(watched.run), folder / f"{n}.jsonl"
    documents = _first(whole, part, n)
    location = folder / f"catalogue{n}"
    catalog = open_catalog(location)
    writer = catalog.recorder()
    writer.patience_s = 600.0
    began_s = time.monotonic()
    for name, doc in documents:
        writer(name, doc)
    written_s = time.monotonic() - began_s
    began_s = time.monotonic()
    recorded = catalog.client[-1]
    for stream in ("primary", "tile"):
        table = recorded[stream]
        for key in ("tile_index", "tile_focus_um", "tile_sigma_um", "tile_marked"):
            rows = len(table[key].read())
            # some of the frames belong to a tile that was taken again
            if rows < 0.9 * n:
                raise RuntimeError(f"{rows} rows of {key} in {stream} of {n} frames")
    read_s = time.monotonic() - began_s
    catalog.close()
    row = {
        "frames": n,
        "documents": len(documents),
        "spool_bytes": part.stat().st_size,
        "bytes": sum(one.stat().st_size for one in location.rglob("*") if one.is_file()),
        "write_s": written_s,
        "read_s": read_s,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _first(whole: Path, part: Path, n: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the documents of a run as if it had been cut short after so many frames."""
    primary: set[str] = set()
    frames = 0
    with whole.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as kept:
        for line in lines:
            name, doc = json.loads(line)
            if name == "descriptor" and doc["name"] == "primary":
                primary.add(doc["uid"])
            frames += name == "event" and doc["descriptor"] in primary
            if name == "stop" or frames > n:
                break
            kept.write(line)
    return read_spooled(part)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="night-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _picture(rows: list[dict[str, Any]], watched: Watched, grown: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 8), layout="constrained")
    (map_ax, ways_ax), (memory_ax, grown_ax) = picture.subplots(2, 2)
    tally = rows[0]["tally"]
    places_mm = 1e-3 * np.array(list(tally.frames))
    off_dof = np.array([np.nan if one["empty"] else abs(one["off_dof"]) for one in tally.frames.values()])
    drawn = map_ax.scatter(*places_mm.T, c=off_dof, s=3, marker="s", vmin=0, vmax=1, plotnonfinite=True)
    picture.colorbar(drawn, ax=map_ax, label="off focus (depths of field)")
    focused = [one["source"] == "focused" for one in tally.frames.values()]
    map_ax.plot(*places_mm[focused].T, ".", color="red", ms=3, label="focused there")
    map_ax.set(aspect="equal", xlabel="x (mm)", ylabel="y (mm)", title="the night")
    map_ax.legend(loc="upper right", fontsize="small")
    for row in rows:
        ways_ax.plot(row["extra"], 100 * (1 - row["within_1_dof"]), "o")
        ways_ax.annotate(row["way"], (row["extra"], 100 * (1 - row["within_1_dof"])), fontsize="small")
    ways_ax.set_xscale("symlog", linthresh=0.01)
    ways_ax.set_yscale("symlog", linthresh=0.1)
    ways_ax.set(xlabel="exposures for focusing, per frame", ylabel="frames beyond 1 DOF (%)")
    memory_ax.plot(*np.array(watched.rss_mb).T)
    memory_ax.set(xlabel="frames", ylabel="memory in use (MB)", ylim=(0, None))
    for key in ("bytes", "documents", "read_s"):
        if grown:
            n, values = (np.array([one[of] for one in grown]) for of in ("frames", key))
            grown_ax.plot(n, values / values[-1], ".-", label=key)
    grown_ax.set(xlabel="frames", ylabel="of the longest run", xlim=(0, None), ylim=(0, None))
    grown_ax.legend(fontsize="small")
    for row in rows:
        del row["tally"]
    return picture


if __name__ == "__main__":
    run(
        "night",
        measure,
        seed=SEED,
        columns=(
            "way", "tiles", "frames", "empty", "within_1_dof", "p99_dof", "extra", "marked",
            "beyond_unmarked", "hours", "ms_per_tile", "cpu_ms_per_tile", "documents", "bytes", "read_s",
            "rss_mb",
        ),
    )  # fmt: skip
