"""What the training of all networks shares: Keras, loaded late, a progress bar, versions for the card."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Progress", "import_keras", "library_versions", "scale_sigma", "shown_progress"]

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
