"""What the training of all networks shares.

Keras, loaded late; the learning rate; fields kept out; what is familiar; a progress bar; versions for cards.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Progress",
    "cosine_optimiser",
    "distinct_fields",
    "import_keras",
    "library_versions",
    "principal_axes",
    "scale_sigma",
    "share_kept_out",
    "shown_progress",
    "tenth_kept_out",
]

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and of how many."""

_HINT = "pip install 'bluesky-autofocus[models]'"


def import_keras() -> tuple[Any, Any]:
    """Return the modules ``keras`` and ``tensorflow``, loading them now: it takes seconds.

    Raises
    ------
    ImportError
        If they are not installed, saying how to, or if Keras was set up for another library than TensorFlow.
    """
    # unless told otherwise, keep TensorFlow from telling about the processor on every start
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras
        import tensorflow
    except ImportError as error:
        raise ImportError(f"training needs TensorFlow: {_HINT} ({error})") from error
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"training needs Keras on TensorFlow; KERAS_BACKEND has set it to {keras.backend.backend()}"
        )
    return keras, tensorflow


def library_versions() -> dict[str, str]:
    """Return the versions that a card states, of what is installed."""
    import keras
    import numpy
    import tensorflow

    return {
        "bluesky-autofocus": version("bluesky-autofocus"),
        "numpy": numpy.__version__,
        "keras": keras.__version__,
        "tensorflow": tensorflow.__version__,
    }


def cosine_optimiser(
    keras: Any,
    variables: Sequence[Any],
    rate: float,
    steps: int,
    *,
    weight_decay: float | None = None,
    warmup_steps: int | None = None,
) -> Any:
    """Return Adam, or AdamW where weights decay, ready for the variables; gradients are limited to norm 1.

    Its rate rises from a twentieth of `rate` and then falls as a cosine to a hundredth of it.

    Parameters
    ----------
    keras : module
        Of `import_keras`.
    variables : sequence of keras.Variable
        To be trained.
    rate : float
        Highest learning rate.
    steps : int
        Of the fall.
    weight_decay : float, optional
        Of AdamW.
    warmup_steps : int, optional
        Of the rise; by default a twentieth of `steps`, at least 20.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        0.05 * rate,
        steps,
        warmup_target=rate,
        warmup_steps=max(20, steps // 20) if warmup_steps is None else warmup_steps,
        alpha=0.01,
    )
    if weight_decay is None:
        optimiser = keras.optimizers.Adam(schedule, clipnorm=1.0)
    else:
        optimiser = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, clipnorm=1.0)
    optimiser.build(variables)
    return optimiser


def distinct_fields(field: NDArray[Any], least: int = 10) -> NDArray[Any]:
    """Return the fields that frames show, ascending.

    Raises
    ------
    ValueError
        If there are fewer than `least`.
    """
    distinct = np.unique(field)
    if len(distinct) < least:
        there = "is 1 field" if len(distinct) == 1 else f"are {len(distinct)} fields"
        raise ValueError(f"there {there}: expected at least {least} to train and validate on")
    return distinct


def tenth_kept_out(distinct: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return a tenth of the fields, at least one."""
    return rng.choice(distinct, max(1, len(distinct) // 10), replace=False)


def share_kept_out(distinct: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return about a share of the fields, ascending: at least one, and never all."""
    count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    return np.sort(rng.choice(distinct, count, replace=False))


def principal_axes(
    x: NDArray[np.floating], explained: float = 0.99
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return what vectors have in common: to be told what is unlike them.

    Parameters
    ----------
    x : ndarray, shape (n, size)
    explained : float
        Share of their variance that lies along the axes.

    Returns
    -------
    mean : ndarray, shape (size,)
    axes : ndarray, shape (n_axes, size)
        Of length 1, that along which they vary most first.
    spread : ndarray, shape (n_axes,)
        Their deviation along each.
    """
    mean = x.mean(axis=0)
    _, values, axes = np.linalg.svd(x - mean, full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    n = int(np.searchsorted(share, explained)) + 1
    return mean, axes[:n], values[:n] / np.sqrt(len(x))


@contextmanager
def shown_progress(progress: "bool | Progress", unit: str = "step") -> Iterator[Progress]:
    """Give a function to be called with the progress.

    Parameters
    ----------
    progress : bool or callable
        True shows a bar on standard error, False nothing; a function is handed through.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        from tqdm import tqdm

        with tqdm(unit=unit) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show


def scale_sigma(error: NDArray[np.float64], raw: NDArray[np.float64]) -> tuple[float, float]:
    """Return floor and scale of sigma: two sigma hold 95 %, and sigma says most about each error.

    Parameters
    ----------
    error, raw : ndarray, shape (n,)
        Errors of what was kept out of training, and the uncertainties stated before calibration.
    """
    best = (np.inf, 0.0, 1.0)
    for floor in np.linspace(0, np.quantile(np.abs(error), 0.9), 16):
        low, high = 0.0, 50.0
        for _ in range(40):  # coverage grows with the scale
            scale = (low + high) / 2
            covered = np.mean(np.abs(error) <= 2 * np.hypot(scale * raw, floor))
            low, high = (scale, high) if covered < 0.95 else (low, scale)
        sigma = np.hypot(high * raw, max(floor, 1e-6))
        loss = float(np.mean(0.5 * (error / sigma) ** 2 + np.log(sigma)))
        best = min(best, (loss, float(floor), float(high)))
    return best[1], best[2]
