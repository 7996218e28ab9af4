"""Scenes: what an electron microscope would see if it had no blur and no noise.

Every synthetic scene carries the mark of secondary electrons, bright edges, because the yield grows with
the slope of the surface as 1/cos(slope) (Goldstein et al., *Scanning Electron Microscopy and X-Ray
Microanalysis*, chapter on electron-beam interactions), and detail at all sizes down to about one pixel, so
that even a blur of one pixel costs sharpness.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray
from scipy import fft

Image = NDArray[np.float32]
Shape = tuple[int, int]

# A pixel gathers the signal around it, hence this last small blur. It also keeps the scene's spectrum low
# at the sampling limit, without which a shift by part of a pixel would ring along every sharp edge.
_PIXEL_SIGMA_PX = 0.6


def scene(kind: str, *, seed: int, shape: Shape = (1024, 1024)) -> Image:
    """Make a scene from a seed.

    Parameters
    ----------
    kind : str
        One of `KINDS`: ``"grains"`` (a polycrystal with boundaries and pores), ``"particles"`` (a crowd of
        spheres), ``"tissue"`` (a section of brain), ``"wafer"`` (lines, contact holes, debris),
        ``"sparse"`` (few spheres on a nearly empty substrate), or a photograph that comes with
        scikit-image: ``"brick"``, ``"cell"`` (smooth, hence hard to focus), ``"grass"``, ``"gravel"``.
    seed : int
        The same seed gives the same scene. For a photograph it chooses the part shown and its mirroring.
    shape : tuple of int
        Rows and columns, in pixels.

    Returns
    -------
    ndarray of float32, shape `shape`
        Relative signal, from 0 (none) to 1 (the brightest).

    Raises
    ------
    ValueError
        If `kind` is unknown or `shape` is not two positive integers.
    ImportError
        If a photograph is asked for and scikit-image is not installed.
    """
    if kind not in _BUILDERS:
        raise ValueError(f"unknown scene {kind!r}: expected one of {', '.join(KINDS)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape is {shape!r}: expected two positive integers (rows, columns)")
    image = _BUILDERS[kind](np.random.default_rng(seed), shape)
    return np.clip(image, 0, 1).astype(np.float32, copy=False)


def scene_from_image(image: str | Path | ArrayLike, shape: Shape | None = None) -> Image:
    """Make a scene from an image of your own, ideally a sharp one with little noise.

    Parameters
    ----------
    image : path or array_like, shape (H, W), (H, W, 3) or (H, W, 4)
        A file (TIFF, PNG, JPEG, ...; the first page of several) or its pixels, of any real type. Colours
        are in the order red, green, blue; transparency is ignored.
    shape : tuple of int, optional
        Rows and columns of the scene; the image's own when left out. A larger image is cropped around its
        centre and a smaller one is continued by its mirror image. It is never resampled, which would
        soften it.

    Returns
    -------
    ndarray of float32, shape `shape`
        The grey image stretched so that its darkest pixel is 0 and its brightest 1.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not an image, or the pixels are not a finite grey or colour image with contrast.
    """
    pixels = _read(Path(image)) if isinstance(image, str | Path) else np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"image has shape {pixels.shape}: expected (H, W), (H, W, 3) or (H, W, 4)")
    pixels = pixels.astype(np.float64)
    darkest, brightest = pixels.min(), pixels.max()
    if not np.isfinite(brightest - darkest) or brightest == darkest:
        raise ValueError(f"image spans {darkest} to {brightest}: expected finite pixels with some contrast")
    stretched = ((pixels - darkest) / (brightest - darkest)).astype(np.float32)
    return stretched if shape is None else _fit(stretched, shape)


def _read(path: Path) -> NDArray:
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}")
    if path.suffix.lower() in (".tif", ".tiff"):
        return tifffile.imread(path, key=0)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"{path} is not an image that OpenCV can read")
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]  # OpenCV stores blue, green, red


def _fit(image: Image, shape: Shape, where: tuple[float, float] = (0.5, 0.5)) -> Image:
    """Crop (at `where`, 0 to 1 along each axis) and mirror an image to a shape."""
    for axis, wanted in enumerate(shape):
        spare = image.shape[axis] - wanted
        if spare > 0:
            start = round(spare * where[axis])
            image = image.take(range(start, start + wanted), axis=axis)
        elif spare < 0:
            padding = [(0, 0), (0, 0)]
            padding[axis] = (-spare // 2, -spare - -spare // 2)
            image = np.pad(image, padding, mode="symmetric")
    return np.ascontiguousarray(image)


# ---- the kinds -------------------------------------------------------------------------------------------


def _grains(rng: np.random.Generator, shape: Shape) -> Image:
    """A polished and etched polycrystal: grey by orientation, grooves between grains, twins, pores."""
    label, to_boundary = _cells(rng, shape, cell_px=70, warp_px=8)
    count = label.max() + 1
    tilt, period, lamellar = rng.uniform(0, np.pi, count), rng.uniform(3, 9, count), rng.random(count) < 0.35
    y, x = _grid(shape)
    phase = (x * np.cos(tilt)[label] + y * np.sin(tilt)[label]) / period[label]
    image = rng.uniform(0.28, 0.62, count).astype(np.float32)[label]
    image += 0.10 * lamellar[label] * np.sign(np.sin(2 * np.pi * phase))
    image += 0.03 * _fractal(rng, shape, 1.0) + 0.025 * _fractal(rng, shape, 0.3)
    # The groove is dark and both its lips are bright.
    image += 0.22 * np.exp(-(((to_boundary - 3) / 1.5) ** 2)) - 0.35 * np.exp(-((to_boundary / 1.5) ** 2))
    for radius in _sizes(rng, shape, per_megapixel=260, smallest_px=1.2, largest_px=16):
        window, dy, dx = _window(shape, _anywhere(rng, shape), reach=radius + 6)
        distance = np.hypot(dy, dx)
        inside = np.clip(radius - distance + 0.5, 0, 1)
        rim = np.exp(-np.clip(distance - radius, 0, None) / 1.5) * (1 - inside)
        image[window] = image[window] * (1 - inside) + 0.06 * inside + 0.3 * rim
    return _pixelate(image)


def _particles(rng: np.random.Generator, shape: Shape) -> Image:
    """A crowd of spheres; how crowded depends on the seed."""
    image = _substrate(rng, shape, level=0.16)
    _drop_spheres(image, rng, _sizes(rng, shape, rng.uniform(500, 2200), smallest_px=1.5, largest_px=45))
    return _pixelate(image)


def _sparse(rng: np.random.Generator, shape: Shape) -> Image:
    """A few spheres on a substrate that shows almost nothing."""
    image = _substrate(rng, shape, level=0.22, roughness=0.4)
    _drop_spheres(image, rng, _sizes(rng, shape, 40, smallest_px=1.5, largest_px=14))
    return _pixelate(image)


def _tissue(rng: np.random.Generator, shape: Shape) -> Image:
    """A stained section of brain: membranes, mitochondria and vesicles, dark on a pale cytoplasm."""
    label, to_membrane = _cells(rng, shape, cell_px=75, warp_px=22)
    count = label.max() + 1
    image = rng.uniform(0.62, 0.78, count).astype(np.float32)[label]
    image += 0.035 * _fractal(rng, shape, 0.8) + 0.03 * _fractal(rng, shape, 0.2)

    for _ in range(_number(rng, shape, 200)):
        length, width, turn = rng.uniform(16, 40), rng.uniform(9, 15), rng.uniform(0, np.pi)
        row, column = _anywhere(rng, shape)
        if to_membrane[int(row), int(column)] < width:
            continue  # a mitochondrion lies within its cell
        window, dy, dx = _window(shape, (row, column), reach=length + 4)
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        inward_px = (1 - np.hypot(along / length, across / width)) * width
        inward_px = np.minimum(inward_px, to_membrane[window] - 4)
        texture = 0.46 + 0.10 * np.sin(along * 0.9 + 1.5 * np.sin(across * 0.5))  # the cristae
        texture -= 0.25 * np.exp(-(((inward_px - 1) / 1.2) ** 2))
        body = np.clip(inward_px + 0.5, 0, 1)
        image[window] += body * (texture - image[window])

    # Vesicles crowd in some of the cells only: the endings of axons.
    ending = rng.random(count) < 0.3
    for _ in range(_number(rng, shape, 9000)):
        row, column = _anywhere(rng, shape)
        at = int(row), int(column)
        if ending[label[at]] and to_membrane[at] > 7 and image[at] > 0.55:
            radius = rng.uniform(3.2, 4.6)
            window, dy, dx = _window(shape, (row, column), reach=radius + 3)
            image[window] -= 0.28 * np.exp(-(((np.hypot(dy, dx) - radius) / 0.9) ** 2))

    image -= 0.5 * np.exp(-((to_membrane / rng.uniform(1.4, 2.0)) ** 2))
    return _pixelate(image)


def _wafer(rng: np.random.Generator, shape: Shape) -> Image:
    """Resist lines with rough edges above, contact holes below, and some debris over both."""
    y, x = _grid(shape)
    image = _substrate(rng, shape, level=0.24)

    pitch = rng.uniform(22, 40)
    line = (x / pitch).astype(int) * np.ones_like(y, dtype=int)
    rows = y.astype(int) * np.ones_like(x, dtype=int)
    left, right = (1.6 * _wander(rng, shape[0], int(shape[1] / pitch) + 1)[line, rows] for _ in range(2))
    within = x - line * pitch
    inward_px = np.minimum(within - 0.25 * pitch - left, 0.75 * pitch + right - within)
    lines = image + 0.24 * np.clip(inward_px + 0.5, 0, 1) + 0.5 * np.exp(-np.abs(inward_px) / 1.6)

    spacing, hole_px = pitch * 1.5, pitch * rng.uniform(0.32, 0.42)
    dy = (y + 0.5 * spacing) % spacing - 0.5 * spacing
    dx = (x + 0.5 * spacing) % spacing - 0.5 * spacing
    outward_px = np.hypot(dy, dx) - hole_px - 0.7 * _fractal(rng, shape, 1.2)
    holes = image + 0.2 - 0.36 * np.clip(0.5 - outward_px, 0, 1)
    holes += 0.45 * np.exp(-np.abs(outward_px) / np.where(outward_px < 0, 1.0, 2.2))

    # The lines end half a row of holes before the first row.
    first_hole = (shape[0] // 2 // spacing + 0.5) * spacing
    lines = np.where(y < first_hole - 0.5 * spacing, lines, image)
    image = np.where(y < first_hole, lines, holes).astype(np.float32)
    _drop_spheres(image, rng, _sizes(rng, shape, 45, smallest_px=1.5, largest_px=18))
    return _pixelate(image)


def _photograph(name: str) -> Callable[[np.random.Generator, Shape], Image]:
    def build(rng: np.random.Generator, shape: Shape) -> Image:
        try:
            from skimage import data
        except ImportError as error:
            raise ImportError(
                f"the scene {name!r} comes with scikit-image: pip install 'bluesky-autofocus[simulation]'"
            ) from error
        image = scene_from_image(getattr(data, name)())
        flips = rng.choice([1, -1], 2)
        return _fit(image[:: flips[0], :: flips[1]], shape, where=(rng.random(), rng.random()))

    return build


_BUILDERS: dict[str, Callable[[np.random.Generator, Shape], Image]] = {
    "grains": _grains,
    "particles": _particles,
    "sparse": _sparse,
    "tissue": _tissue,
    "wafer": _wafer,
    # Only photographs inside scikit-image's wheel: nothing is downloaded.
    **{name: _photograph(name) for name in ("brick", "cell", "grass", "gravel")},
}

KINDS: tuple[str, ...] = tuple(_BUILDERS)
"""The kinds of scene that `scene` makes."""


# ---- the parts they are made of --------------------------------------------------------------------------


def _grid(shape: Shape) -> tuple[Image, Image]:
    """Row and column coordinates that broadcast to `shape`."""
    return np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None, :]


def _pixelate(image: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _PIXEL_SIGMA_PX), np.float32)


def _fractal(rng: np.random.Generator, shape: Shape, steepness: float) -> Image:
    """Noise of unit deviation whose amplitude falls with frequency to the power `steepness`."""
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :])
    frequency[0, 0] = np.inf  # the mean carries nothing
    spectrum = np.asarray(fft.rfft2(rng.standard_normal(shape, np.float32)))
    spectrum *= frequency.astype(np.float32) ** -steepness
    noise = np.asarray(fft.irfft2(spectrum, s=shape))
    return noise / max(noise.std(), np.finfo(np.float32).tiny)


def _wander(rng: np.random.Generator, length: int, count: int) -> NDArray:
    """`count` rough edges of unit deviation along `length` pixels, shape (count, length)."""
    steps = rng.standard_normal((count, length)).astype(np.float32)
    # A Gaussian of 6 px divides the deviation of white noise by sqrt(2 sqrt(pi) 6) = 4.6.
    return 4.6 * cv2.GaussianBlur(steps, (0, 0), sigmaX=6, sigmaY=1e-3)


def _cells(rng: np.random.Generator, shape: Shape, cell_px: float, warp_px: float) -> tuple[NDArray, Image]:
    """Voronoi cells with wavy walls: the label of each pixel and its distance to the nearest wall."""
    count = max(2, round(shape[0] * shape[1] / cell_px**2))
    # Seeds gather in places, so that small cells lie among large ones.
    seeds = rng.random((count, 2)) ** rng.uniform(0.8, 1.25, 2)
    empty = np.ones(shape, np.uint8)
    empty[tuple((seeds * shape).astype(int).T)] = 0
    _, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)

    y, x = _grid(shape)
    warp = [warp_px * cv2.GaussianBlur(_fractal(rng, shape, 1.4), (0, 0), 3) for _ in range(2)]
    label = cv2.remap(
        label.astype(np.float32), x + warp[0], y + warp[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    ).astype(int)
    wall = np.zeros(shape, bool)
    wall[:, 1:] |= label[:, 1:] != label[:, :-1]
    wall[1:, :] |= label[1:, :] != label[:-1, :]
    to_wall = cv2.distanceTransform((~wall).astype(np.uint8), cv2.DIST_L2, 5)
    # Where there is no wall at all the distance comes out as the largest float.
    return label, np.minimum(to_wall, sum(shape)).astype(np.float32, copy=False)


def _substrate(rng: np.random.Generator, shape: Shape, level: float, roughness: float = 1.0) -> Image:
    """A flat surface of a given brightness with fine relief."""
    relief = 0.02 * _fractal(rng, shape, 1.0) + 0.02 * _fractal(rng, shape, 0.3)
    return np.asarray(level + roughness * relief, np.float32)


def _number(rng: np.random.Generator, shape: Shape, per_megapixel: float) -> int:
    return int(rng.poisson(per_megapixel * shape[0] * shape[1] / 2**20))


def _sizes(
    rng: np.random.Generator, shape: Shape, per_megapixel: float, smallest_px: float, largest_px: float
) -> NDArray:
    """Radii spread over the octaves, more of the small than of the large; the largest first."""
    number = max(1, _number(rng, shape, per_megapixel))
    octaves = rng.beta(1.2, 2.0, number)
    return np.sort(smallest_px * (largest_px / smallest_px) ** octaves)[::-1]


def _anywhere(rng: np.random.Generator, shape: Shape) -> tuple[float, float]:
    return rng.uniform(0, shape[0]), rng.uniform(0, shape[1])


def _window(
    shape: Shape, centre: tuple[float, float], reach: float
) -> tuple[tuple[slice, slice], Image, Image]:
    """The part of an image within `reach` of a point, and the rows and columns from that point."""
    rows, columns = (
        slice(max(0, int(at - reach)), min(size, int(at + reach) + 2))
        for at, size in zip(centre, shape, strict=True)
    )
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre[0])
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(centre[1])
    return (rows, columns), dy, dx


def _drop_spheres(image: Image, rng: np.random.Generator, radii: NDArray) -> None:
    """Lay spheres on `image`, in place: a shadow around the foot, a dim top, a bright rim."""
    for radius in radii:
        shape = image.shape[0], image.shape[1]
        window, dy, dx = _window(shape, _anywhere(rng, shape), reach=1.6 * radius + 3)
        distance = np.hypot(dy, dx)
        inside = np.clip(radius - distance + 0.5, 0, 1)
        shadow = 0.55 * np.exp(-np.clip(distance - radius, 0, None) / (0.25 * radius + 1))
        slope = np.clip(distance / radius, 0, 1)  # the sine of the sphere's slope
        signal = rng.uniform(0.26, 0.42) / np.sqrt(1.12 - slope**2)
        image[window] = image[window] * (1 - shadow) * (1 - inside) + signal * inside
