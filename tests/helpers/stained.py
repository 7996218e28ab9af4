"""Frames of a stained specimen, drawn by hand."""

import cv2
import numpy as np


def smear(size=(300, 400), cells=12, seed=0, blur_px=(0.0, 0.0, 0.0)):
    """Return a frame with stained cells, each colour blurred by its own radius."""
    rng = np.random.default_rng(seed)
    frame = np.full((*size, 3), 225, np.uint8)
    for _ in range(cells):
        centre = int(rng.integers(size[1])), int(rng.integers(size[0]))
        axes = int(rng.integers(10, 25)), int(rng.integers(8, 20))
        cv2.ellipse(frame, centre, axes, float(rng.integers(180)), 0, 360, (110, 70, 150), -1)
    out = frame.astype(np.float32)
    for colour, radius in enumerate(blur_px):
        if radius:
            out[..., colour] = cv2.GaussianBlur(out[..., colour], (0, 0), radius)
    return np.clip(out + rng.normal(0, 1.5, out.shape), 0, 255).astype(np.uint8)


SMEAR = smear()
