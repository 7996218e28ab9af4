"""Pictures that show what a single-shot network looks at, and what the choice of LEDs does to it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_autofocus.models.single_shot.features import StripFeatures

__all__ = ["illumination_study_picture", "on_spectrum", "saliency", "saliency_picture"]

Gradient = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


def saliency(model_or_gradient: Any, vectors: ArrayLike) -> NDArray[np.float64]:
    """Return how strongly a prediction depends on each part of the spectrum: mean |d prediction / d |F||.

    Parameters
    ----------
    model_or_gradient : PublishedModel, DenseNetwork or callable
        Something with ``gradient(vectors)``, or that function itself: vectors, shape (n, size), to the
        derivatives of the prediction, of the same shape.
    vectors : array_like, shape (n, size) or (n, n_patches, size)
        Examples.

    Returns
    -------
    ndarray, shape (size,)
        For `on_spectrum` and `saliency_picture`.

    Raises
    ------
    ValueError
        If there is no example.
    """
    gradient: Gradient = getattr(model_or_gradient, "gradient", model_or_gradient)
    x = np.asarray(vectors, np.float32)
    x = x.reshape(-1, x.shape[-1])
    if not len(x):
        raise ValueError("there are no vectors to average over")
    total = np.zeros(x.shape[1])
    for part in np.array_split(x, math.ceil(len(x) / 256)):  # 32 MB each at the published size
        total += np.abs(gradient(part)).sum(axis=0, dtype=np.float64)
    return total / len(x)


def on_spectrum(
    values: ArrayLike, features: StripFeatures
) -> tuple[NDArray[np.float64], NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Lay values of strip features out on the spectrum, both halves of it.

    Parameters
    ----------
    values : array_like, shape (size,)
        One for each feature.
    features : StripFeatures
        To which they belong.

    Returns
    -------
    picture : ndarray, shape (2 * width - 1, 2 * half_length)
        Rows across the LED's axis, columns along it. The half that features leave out is the other one
        turned about the centre; what lies beyond the strip there is NaN.
    across, along : ndarray
        Frequencies of rows and columns in cycles per um, ascending.
    """
    strip = np.asarray(values, float).reshape(features.shape)  # (along from -half_length, across from 0)
    half, width = features.half_length, features.width
    picture = np.full((2 * width - 1, 2 * half), np.nan)
    picture[width - 1 :] = strip.T
    # the magnitude at -f is that at f; frequency -half_length has no counterpart on the grid
    picture[: width - 1, 1:] = strip.T[:0:-1, :0:-1]
    step = 1 / (features.patch_px * features.optics.pixel_size_um)
    return picture, np.arange(1 - width, width) * step, np.arange(-half, half) * step


def saliency_picture(
    values: ArrayLike, features: StripFeatures, path: Path | str | None = None, *, title: str = ""
) -> Any:
    """Draw a saliency over the spectrum, with the edges of the two circles of light.

    Parameters
    ----------
    values : array_like, shape (size,)
        From `saliency`.
    features : StripFeatures
        Of the vectors.
    path : path, optional
        Where to save the picture.
    title : str
        Above it.

    Returns
    -------
    matplotlib.figure.Figure
        Made without a display.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    picture, across, along = on_spectrum(values, features)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    step = along[1] - along[0]
    extent = (along[0] - step / 2, along[-1] + step / 2, across[0] - step / 2, across[-1] + step / 2)
    image = axes.imshow(
        picture,
        extent=extent,
        origin="lower",
        vmin=0,
        vmax=float(np.nanquantile(picture, 0.999)),
        cmap="magma",
    )
    optics = features.optics
    radius = optics.numerical_aperture / optics.wavelength_um
    x, y = (na / optics.wavelength_um for na in features.na_xy)
    centre = (y, x) if features.vertical else (x, y)
    for sign in (-1, 1):
        place = (sign * centre[0], sign * centre[1])
        axes.add_patch(Circle(place, radius, fill=False, color="tab:cyan", linestyle="--", linewidth=1))
    axes.set(xlim=extent[:2], ylim=extent[2:], title=title)
    axes.set_xlabel("frequency along the LED's axis (cycles per um)")
    axes.set_ylabel("across")
    figure.colorbar(image, ax=axes, label="mean |gradient| (um)")
    return _saved(figure, path)


def illumination_study_picture(
    rows: Sequence[Mapping[str, Any]],
    path: Path | str | None = None,
    *,
    numerical_aperture: float | None = None,
    depth_of_field_um: float | None = None,
) -> Any:
    """Draw the error against the angle of a single LED, and for patterns of LEDs.

    Parameters
    ----------
    rows : sequence of dict
        Each with ``na_xy``, the directions of the LEDs, and ``rmse_um``; ``name`` for patterns of several
        LEDs; ``study`` ("angle" or "pattern") where a single LED is to be among the patterns. Without it
        single LEDs belong to the angles.
    path : path, optional
        Where to save the picture.
    numerical_aperture : float, optional
        Of the objective: where darkfield begins.
    depth_of_field_um : float, optional
        For a second scale.

    Returns
    -------
    matplotlib.figure.Figure
        Made without a display.

    Raises
    ------
    ValueError
        If there is no row.
    """
    from matplotlib.figure import Figure

    angles = [row for row in rows if row.get("study", "angle" if len(row["na_xy"]) == 1 else "") == "angle"]
    patterns = sorted((row for row in rows if row not in angles), key=lambda row: row["rmse_um"])
    if not rows:
        raise ValueError("there are no rows to draw")
    parts = [bool(angles), bool(patterns)]
    figure = Figure(figsize=(5.5 * sum(parts), max(3.6, 0.32 * len(patterns) + 1.2)), layout="constrained")
    panels = iter(np.atleast_1d(np.array(figure.subplots(1, sum(parts)))))
    if angles:
        _draw_angles(next(panels), angles, numerical_aperture, depth_of_field_um)
    if patterns:
        _draw_patterns(next(panels), patterns)
    return _saved(figure, path)


def _draw_angles(
    axes: Any,
    rows: Sequence[Mapping[str, Any]],
    numerical_aperture: float | None,
    depth_of_field_um: float | None,
) -> None:
    points = sorted((float(np.hypot(*row["na_xy"][0])), float(row["rmse_um"])) for row in rows)
    axes.plot(*zip(*points, strict=True), "o-")
    if numerical_aperture is not None:
        axes.axvline(numerical_aperture, color="tab:gray", linestyle=":", label="NA of the objective")
        axes.legend(loc="best", fontsize="small")
    axes.set(xlabel="NA of the LED", ylabel="RMSE (um)", title="one LED", yscale="log")
    if depth_of_field_um is not None:
        second = axes.secondary_yaxis(
            "right", functions=(lambda um: um / depth_of_field_um, lambda dof: dof * depth_of_field_um)
        )
        second.set_ylabel("RMSE (DOF)")


def _draw_patterns(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(rows))[::-1]
    axes.barh(places, [row["rmse_um"] for row in rows], color="0.75")
    axes.set_yticks(places, [str(row.get("name", "")) for row in rows], fontsize="small")
    axes.set(xlabel="RMSE (um)", title="patterns")
    # a map of the LEDs at the root of each bar: a circle of NA 1 with a dot for each LED
    for place, row in zip(places, rows, strict=True):
        inset = axes.inset_axes((0.0, place - 0.45, 0.9, 0.9), transform=_data_height(axes))
        xy = np.asarray(row["na_xy"], float).reshape(-1, 2)
        inset.scatter(xy[:, 0], -xy[:, 1], s=3, color="tab:red")
        inset.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), aspect="equal", xticks=[], yticks=[])
        inset.patch.set_alpha(0.6)
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _data_height(axes: Any) -> Any:
    """Return a transform: left edge and width as a tenth of the axes, heights in data."""
    from matplotlib.transforms import Affine2D, blended_transform_factory

    return blended_transform_factory(Affine2D().scale(0.1, 1) + axes.transAxes, axes.transData)


def _saved(figure: Any, path: Path | str | None) -> Any:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
