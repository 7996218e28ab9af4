# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Tell the defocus of recorded frames: ``predict single-shot`` and ``predict two-led``."""

import dataclasses
import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from bluesky_autofocus.cli._networks import SOME_REFUSED, given_optics
from bluesky_autofocus.defocus import DefocusEstimate, DefocusEstimator, TwoLEDFilter
from bluesky_autofocus.leds import Single
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.stacks import UM_PER_UNIT, StackError, _read_image, _read_tiff

__all__ = ["check_pixel_size", "frames_in", "pixel_size_said", "predict"]


def predict(options: Namespace) -> int:
    """Print what is found in each frame; return the exit status: 0 if all is accepted, else 1."""
    if options.method == "key-frame":
        from bluesky_autofocus.cli._key_frame import predict_key_frame

        return predict_key_frame(options)
    if options.method == "hh-net":
        from bluesky_autofocus.cli._hh_net import predict_hh_net

        return predict_hh_net(options)
    led_given = options.led_na is not None or options.led_angle_deg is not None
    estimator: DefocusEstimator
    channels: tuple[int | None, ...] = (options.channel,)
    if options.method == "single-shot":
        from bluesky_autofocus.models.single_shot._loading import load_model

        estimator = model = load_model(options.weights)
        if options.full_scale is not None:
            model.full_scale = options.full_scale
        optics = _optics(options, model.optics)
        if led_given or given_optics(options):
            model.check(optics, [_led(options, model.leds[0]).na_xy])
    else:
        optics, led = _optics(options, LightOptics()), _led(options, Single(0.4, 0.0))
        estimator = TwoLEDFilter(
            optics,
            led.na,
            led.angle_deg,
            bias_um=options.bias_um,
            camera_offset=options.camera_offset,
            full_scale=options.full_scale,
            second_wavelength_um=options.second_wavelength_um,
        )
        if options.second_channel is not None:
            channels = (options.channel, options.second_channel)
        elif len(options.frames) % 2:
            raise ValueError(
                f"two-led takes frames in pairs, under the LED and under the opposite one: got "
                f"{len(options.frames)} files"
            )
    accepted = True
    for files, number, estimate in _estimates(estimator, optics, options.frames, channels):
        accepted &= estimate.accepted
        if options.json:
            print(json.dumps(_said(options.method, estimator, files, number, estimate)), flush=True)
        else:
            print(f"{', '.join(map(str, files))} [{number}]: {_told(estimate)}", flush=True)
    return 0 if accepted else SOME_REFUSED


def _optics(options: Namespace, default: LightOptics) -> LightOptics:
    return dataclasses.replace(default, **given_optics(options))


def _led(options: Namespace, default: Single) -> Single:
    return Single(
        default.na if options.led_na is None else options.led_na,
        default.angle_deg if options.led_angle_deg is None else options.led_angle_deg,
    )


def _estimates(
    estimator: DefocusEstimator, optics: LightOptics, files: Sequence[Path], channels: Sequence[int | None]
) -> Iterator[tuple[tuple[Path, ...], int, DefocusEstimate]]:
    """Yield what is said of each frame, or pair of frames or of channels, page by page."""
    together = estimator.frames_needed // len(channels)
    for first in range(0, len(files), together):
        chosen = tuple(files[first : first + together])
        stacks = [_pages(file, channel) for file in chosen for channel in channels]
        for file in chosen:
            _check_pixel_size(file, estimator, optics)
        if len({len(stack) for stack in stacks}) > 1:
            pages = ", ".join(f"{file} {len(stack)}" for file, stack in zip(chosen, stacks, strict=False))
            raise ValueError(f"files of a pair must have as many pages: {pages}")
        for number, frames in enumerate(zip(*stacks, strict=True)):
            try:
                estimate = estimator.estimate(*frames)
            except ValueError as error:
                raise ValueError(f"{', '.join(map(str, chosen))}, page {number}: {error}") from error
            yield chosen, number, estimate


def _pages(file: Path, channel: int | None) -> np.ndarray:
    """Return the frames of a TIFF, shape (n, H, W)."""
    if not file.is_file():
        raise StackError(f"there is no file {file}")
    try:
        frames, _ = _read_tiff(file, channel)
    except StackError:
        raise
    # tifffile and its decoders raise what they please for damaged files
    except Exception as error:
        raise StackError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    if frames.ndim == 4:
        if channel is None or not 0 <= channel < frames.shape[3]:
            raise StackError(
                f"{file} is in colour: say which channel (--channel), 0 .. {frames.shape[3] - 1}; "
                f"got {channel}"
            )
        frames = frames[..., channel]
    if frames.dtype.kind not in "uif":
        raise StackError(f"{file} has pixels of type {frames.dtype}: expected grey levels")
    return frames


def _check_pixel_size(file: Path, estimator: DefocusEstimator, optics: LightOptics) -> None:
    """Refuse a file that says itself that its pixels are of another size."""
    size_um = pixel_size_said(file)
    if size_um is not None:
        try:
            there = dataclasses.replace(optics, pixel_size_um=size_um)
            estimator.check(there, [led.na_xy for led in estimator.leds])
        except ValueError as error:
            raise type(error)(f"{file}: as the file says, {error}") from error


def frames_in(path: Path, check: Callable[[Mapping[str, float]], None]) -> NDArray[Any]:
    """Return the frames of a file, shape (n, H, W) or (n, H, W, 3), if its pixels are as large as wanted.

    Parameters
    ----------
    path : path
        A TIFF, each page a frame, or another image, which is one.
    check : callable
        Of a model: takes what figures of the optics are known, and raises where they do not fit.

    Raises
    ------
    StackError
        If there is no such file, or it cannot be read.
    ValueError
        If the pixel size that the file states does not fit.
    """
    if not path.is_file():
        raise StackError(f"there is no file {path}")
    try:
        if not path.suffix.lower().startswith(".tif"):
            return _read_image(path)[None]
        frames, _ = _read_tiff(path, None)
        size_um = pixel_size_said(path)
    except StackError:
        raise
    # tifffile and its decoders raise what they please for damaged files
    except Exception as error:
        raise StackError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    check_pixel_size(path, size_um, check)
    return frames


def check_pixel_size(path: Path, size_um: float | None, check: Callable[[Mapping[str, float]], None]) -> None:
    """Raise what `check` does, naming the file, if the pixel size that a file states does not fit."""
    if size_um is None:
        return
    try:
        check({"pixel_size_um": size_um})
    except ValueError as error:
        raise type(error)(f"{path}: as the file says, {error}") from error


def pixel_size_said(file: Path) -> float | None:
    """Return the pixel size in um that a TIFF states, None where it states none."""
    with tifffile.TiffFile(file) as tiff:
        said = tiff.ome_metadata
    if not said:
        return None
    for element in ElementTree.fromstring(said).iter():
        if element.tag.endswith("}Pixels") and "PhysicalSizeX" in element.attrib:
            size_um = float(element.attrib["PhysicalSizeX"]) * UM_PER_UNIT.get(
                element.attrib.get("PhysicalSizeXUnit", "µm"), math.nan
            )
            return size_um if math.isfinite(size_um) and size_um > 0 else None
    return None


def _said(
    method: str, estimator: DefocusEstimator, files: Sequence[Path], number: int, estimate: DefocusEstimate
) -> dict[str, Any]:
    return {
        "method": method,
        **({"file": str(files[0])} if len(files) == 1 else {"files": [str(file) for file in files]}),
        "frame": number,
        # JSON has no number for what was refused
        "defocus_um": None if math.isnan(estimate.defocus_um) else estimate.defocus_um,
        "sigma_um": None if math.isnan(estimate.sigma_um) else estimate.sigma_um,
        "accepted": estimate.accepted,
        "reason": str(estimate.reason),
        "model_hash": estimator.model_hash,
    }


def _told(estimate: DefocusEstimate) -> str:
    if not estimate.accepted:
        return f"refused ({estimate.reason})"
    return f"defocus {estimate.defocus_um:+.3f} +- {estimate.sigma_um:.3f} um"
