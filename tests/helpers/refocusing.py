"""A tiny network that changes nothing, and something that refocuses without one."""

import math
import time

import cv2
import numpy as np

from bluesky_autofocus.models.card import FeatureRecord, ModelCard, ModelInputs, TrainingRecord
from bluesky_autofocus.models.refocus import Refocused, UNetModel
from bluesky_autofocus.models.refocus._channels import CHANNELS_IN
from bluesky_autofocus.models.refocus._network import shapes_of
from bluesky_autofocus.models.refocus._spectrum import RINGS
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

CHANNELS = (3, 4, 5)
OPTICS = LightOptics(numerical_aperture=0.45, wavelength_um=0.46, pixel_size_um=0.656, magnification=20.0)
PARAMETERS = {
    "channels": CHANNELS,
    "modalities": ("fluorescence",),
    "defocus_um": 32.0,
    "spherical_waves": 0.0,
    "sigma_scale": 0.1,
    "sigma_floor": 0.0,
    "strangeness_limit": 1.0,
    "mismatch_limit": 10.0,
}


def network_arrays(channels=CHANNELS, seed=0):
    """Return the arrays of a network with random weights whose last layer gives nothing."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(0, 0.2, shape) for name, shape in shapes_of(CHANNELS_IN, channels).items()}
    return arrays | {name: np.zeros_like(arrays[name]) for name in ("last.kernel", "last.bias")}


def make_arrays(channels=CHANNELS, seed=0):
    """Return the arrays of a model that gives each frame back, and takes all for in focus and familiar."""
    arrays = {f"network.{name}": array for name, array in network_arrays(channels, seed).items()}
    arrays |= {
        "defocus.mean": np.zeros(RINGS + 1),
        "defocus.deviation": np.ones(RINGS + 1),
        "defocus.kernel0": np.zeros((RINGS + 1, 1)),
        "defocus.bias0": np.zeros(1),
        "familiar.mean": np.zeros(channels[-1]),
        "familiar.axes": np.eye(channels[-1]),
        "familiar.spread": np.full(channels[-1], 1e3),
    }
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def make_card(colour="each", parameters=None, **changes):
    """Return the card of the tiny model."""
    said = {
        "name": "tiny",
        "architecture": UNetModel.architecture,
        "version": "1",
        "inputs": ModelInputs.of(OPTICS, illumination="", patch_px=0, colour=colour),
        "features": FeatureRecord("levels"),
        "valid_range_um": (-32.0, 32.0),
        "training": TrainingRecord("none"),
        "figures": {},
        "valid_for": "tests",
        "licence": "BSD-3-Clause",
        "architecture_parameters": {**PARAMETERS, **(parameters or {})},
    }
    return ModelCard(**{**said, **changes})


def make_model(colour="each", arrays=None, **parameters):
    """Return the tiny model, some of its arrays and parameters replaced."""
    return UNetModel(make_card(colour, parameters), make_arrays() | (arrays or {}))


def blobs(shape=(160, 192), seed=0, sigma_px=2.0, dtype=np.uint16, noise=8.0):
    """Return a frame of bright blobs on a dark ground, with a little noise."""
    rng = np.random.default_rng(seed)
    frame = np.zeros(shape, np.float32)
    for _ in range(shape[0] * shape[1] // 700):
        centre = int(rng.integers(shape[1])), int(rng.integers(shape[0]))
        cv2.circle(frame, centre, int(rng.integers(4, 9)), float(rng.uniform(0.5, 1.0)), -1)
    top = 200.0 if dtype == np.uint8 else 3000.0
    frame = cv2.GaussianBlur(frame, (0, 0), sigma_px) * (0.8 * top) + 0.1 * top
    frame += rng.normal(0, noise * top / 3000, shape)
    return frame.astype(dtype) if np.issubdtype(dtype, np.floating) else np.rint(frame).astype(dtype)


class Sharpener:
    """Doubles the contrast; refuses black frames, and takes grey ones of its optics only."""

    name = "sharpener"
    model_hash = "beef"
    parameters = {"gain": 2.0, "offset": None}

    def __init__(self, delay_s=0.0):
        self.delay_s = delay_s
        self.checked = []

    def check_values(self, optics):
        self.checked.append(dict(optics))
        if optics.get("pixel_size_um", 0.656) != 0.656:
            raise ValueError(f"pixel_size_um is {optics['pixel_size_um']:g}: sharpener was made for 0.656")

    def refocus(self, frame):
        time.sleep(self.delay_s)
        if frame.ndim != 2:
            raise ValueError(f"the frame has shape {frame.shape}: expected (H, W)")
        nothing = np.full(frame.shape, np.nan, np.float32)
        if not frame.any():
            return Refocused(frame.copy(), nothing, math.nan, math.nan, False, Reason.BLACK)
        mean = float(frame.mean())
        sharper = np.clip(2 * (frame.astype(np.float32) - mean) + mean, 0, 60_000)
        sigma = np.full(frame.shape, 3.0, np.float32)
        return Refocused(sharper.astype(frame.dtype), sigma, mean / 100, 0.25)
