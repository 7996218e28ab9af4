# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Make out-of-focus frames in-focus: TIFF files into files, runs into runs."""

import dataclasses
import json
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._networks import SOME_REFUSED, given_optics
from bluesky_autofocus.cli._predicting import check_pixel_size, frames_in, pixel_size_said
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.refocus import Refocuser, RefocusModel, load_model, refocus_rows
from bluesky_autofocus.models.refocus.classical import RichardsonLucy, Wiener
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.stacks import StackError
from bluesky_autofocus.widefield import Widefield

__all__ = ["check", "refocus"]

LARGE_PX = 1 << 26
"""Images of more pixels are read and written by rows."""


def check(options: Namespace) -> None:
    """Find what would fail later."""
    if options.method == "network":
        if options.defocus_um is not None:
            raise ValueError("--defocus-um is for a deconvolution: a network finds out by itself")
    else:
        if options.weights is not None:
            raise ValueError(f"--weights has no effect with --method {options.method}")
        if options.defocus_um is None or not math.isfinite(options.defocus_um):
            raise ValueError(f"--method {options.method} needs --defocus-um, got {options.defocus_um}")
    if options.output is not None and not options.output.is_dir():
        raise ValueError(f"there is no folder {options.output} to write to")


def refocus(options: Namespace, catalog: Callable[[], Catalog], find_run: Callable[[Any, str], Any]) -> int:
    """Refocus files and runs; return 0 if all results are believed, else 1."""
    refocuser = _refocuser(options)
    files = [Path(name) for name in options.source if Path(name).is_file()]
    missing = [name for name in options.source if not Path(name).is_file()]
    looks_like_file = [name for name in missing if "/" in name or Path(name).suffix]
    if looks_like_file:
        raise StackError(f"there is no file {looks_like_file[0]}")
    believed = [_refocus_file(refocuser, path, options) for path in files]
    if missing:
        opened = catalog()
        try:
            believed += [
                _refocus_run(refocuser, find_run(opened.client, name), opened, options) for name in missing
            ]
        finally:
            opened.close()
    return 0 if all(believed) else SOME_REFUSED


def _refocuser(options: Namespace) -> Refocuser:
    optics = given_optics(options)
    if options.method == "network":
        model = load_model(options.weights)
        model.full_scale = options.full_scale
        model.check_values({name: value for name, value in optics.items() if name != "wavelength_um"})
        return model
    known = load_model(None).optics if not optics else LightOptics()
    kind = Wiener if options.method == "wiener" else RichardsonLucy
    widefield = Widefield(
        dataclasses.replace(known, **optics), reach_um=max(40.0, 1.1 * abs(options.defocus_um))
    )
    return kind(widefield, options.defocus_um)


def _refocus_file(refocuser: Refocuser, path: Path, options: Namespace) -> bool:
    folder = options.output or path.parent
    output = folder / f"{path.stem}-refocused.tif"
    large = _large_image(path)
    if large is not None:
        check_pixel_size(path, pixel_size_said(path), refocuser.check_values)
        return _refocus_large(refocuser, path, large, output, options)
    made, sigmas, believed = [], [], True
    for number, frame in enumerate(frames_in(path, refocuser.check_values)):
        try:
            one = refocuser.refocus(frame)
        except ValueError as error:
            raise ValueError(f"{path}, page {number}: {error}") from error
        made.append(one.frame)
        sigmas.append(one.sigma)
        believed &= one.accepted
        said = {
            "file": str(path),
            "frame": number,
            "output": str(output),
            "defocus_um": one.defocus_um,
            "mismatch": one.mismatch,
            "accepted": one.accepted,
            "reason": str(one.reason),
        }
        _say(refocuser, said, options)
    by = _description(refocuser, path)
    _write(output, made, by)
    if options.sigma:
        _write(folder / f"{path.stem}-sigma.tif", sigmas, f"standard uncertainty of what was {by}")
    return believed


def _description(refocuser: Refocuser, path: Path) -> str:
    """Return what a TIFF says of itself: nobody is to take it for one that a camera took."""
    said = f"computed from {path.name} by {refocuser.name} {refocuser.model_hash[:12]}".rstrip()
    # all that the text of a TIFF may have
    return said.encode("ascii", "replace").decode()


def _write(path: Path, frames: list[np.ndarray], description: str) -> None:
    """Write frames as the pages of a TIFF."""
    colours = "rgb" if frames[0].ndim == 3 else "minisblack"
    pages = np.stack(frames) if len(frames) > 1 else frames[0]
    tifffile.imwrite(path, pages, photometric=colours, compression="zlib", description=description)


def _large_image(path: Path) -> Any:
    """Return a large image as an array that lies in a file, or None where it is not large."""
    if not path.suffix.lower().startswith(".tif"):
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            if page.imagelength * page.imagewidth < LARGE_PX:
                return None
            pages = len(tiff.series[0].pages)
        if pages > 1:
            raise StackError(f"{path} has {pages} pages: expected one where they are of {LARGE_PX} pixels")
        try:
            return tifffile.memmap(path, page=0, mode="r")
        except ValueError:
            # compressed or in tiles: decoded into a file that goes away with the array
            return tifffile.imread(path, key=0, out="memmap")
    except StackError:
        raise
    except Exception as error:
        raise StackError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _refocus_large(refocuser: Refocuser, path: Path, source: Any, output: Path, options: Namespace) -> bool:
    if not isinstance(refocuser, RefocusModel):
        raise ValueError(f"{path} has {source.shape}: a deconvolution takes up to {LARGE_PX} pixels")
    if options.sigma:
        raise ValueError(f"{path}: --sigma is for images of up to {LARGE_PX} pixels")
    colours = "rgb" if source.ndim == 3 else "minisblack"
    try:
        refocuser.check_frame(source)
        target = tifffile.memmap(
            output,
            shape=source.shape,
            dtype=source.dtype.newbyteorder("="),
            photometric=colours,
            description=_description(refocuser, path),
            bigtiff=source.nbytes > 1 << 31,
        )
        with shown_progress(not options.json, unit="row") as show:
            found = refocus_rows(refocuser, source, target, progress=show)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    target.flush()
    said = {
        "file": str(path),
        "frame": 0,
        "output": str(output),
        "defocus_um": found.defocus_um,
        "mismatch": found.mismatch,
        "accepted": found.accepted,
        "reason": ", ".join(sorted({str(one) for one in found.reasons})) or "ok",
        "parts": found.parts,
        "parts_refused": len(found.reasons),
    }
    _say(refocuser, said, options)
    return found.accepted


def _refocus_run(refocuser: Refocuser, run: Any, catalog: Catalog, options: Namespace) -> bool:
    from bluesky_autofocus.callbacks import LiveRefocus, analyse

    streams = options.stream
    start = run.metadata["start"]
    uid = start["uid"]
    if "refocused_run" in start:
        # found by -1 or by its scan_id, which is that of the run with the frames
        raise ValueError(
            f"run {uid[:8]} holds refocused frames: give the one that they are of, "
            f"{start['refocused_run'][:8]}"
        )
    unknown = [name for name in streams or () if name not in run]
    if unknown:
        raise ValueError(f"run {uid[:8]} has no stream {unknown[0]!r}: it has {', '.join(run)}")
    live = LiveRefocus(refocuser, catalog.recorder(), catalog.frame_directory, streams=streams)
    readings = analyse(run, live, streams=streams)
    if not any(readings.values()):
        raise ValueError(f"run {uid[:8]} has no frames")
    believed = True
    for stream, of_stream in readings.items():
        for one in of_stream:
            believed &= one.accepted
            said = {
                "run": uid,
                "stream": stream,
                "seq_num": one.seq_num,
                "computed_run": live.runs[-1],
                "defocus_um": one.value,
                "accepted": one.accepted,
                "reason": str(one.reason),
            }
            _say(refocuser, said, options)
    return believed


def _say(refocuser: Refocuser, said: dict[str, Any], options: Namespace) -> None:
    if options.json:
        # JSON has no number for what was not found
        clean = {key: None if value != value else value for key, value in said.items()}
        known = {"method": refocuser.name, "model_hash": refocuser.model_hash}
        print(json.dumps({**known, **clean}), flush=True)
        return
    what = f"{said['file']} [{said['frame']}]" if "file" in said else f"{said['stream']} {said['seq_num']}"
    if not said["accepted"]:
        left = "not all of it is believed" if "parts" in said else "left as it was"
        told = f"{left} ({said['reason']})"
    elif said["reason"] == "still_sharp":
        told = "in focus, left as it was"
    else:
        told = f"refocused from {said['defocus_um']:.1f} um"
    where = said.get("output") or f"run {said['computed_run'][:8]}"
    print(f"{what}: {told} -> {where}", flush=True)
