"""Names of the sharpness metrics: each name stands for one function of a prepared grey frame."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

MetricFunction = Callable[..., float]
Normaliser = Callable[[float, float], float]


class UnknownMetricError(ValueError):
    """Raised for a name under which no metric is registered."""


@dataclass(frozen=True)
class Entry:
    """A registered function and how brightness is taken out of its score."""

    function: MetricFunction
    normaliser: Normaliser


_entries: dict[str, Entry] = {}


def per_squared_mean(score: float, mean: float) -> float:
    """Normalise a score that is quadratic in the intensity, as nearly all are."""
    return score / mean**2


def per_mean(score: float, mean: float) -> float:
    """Normalise a score that is linear in the intensity."""
    return score / mean


def less_log_squared_mean(score: float, mean: float) -> float:
    """Normalise a score that is the logarithm of a power."""
    return score - 2 * log(mean)


def already_relative(score: float, mean: float) -> float:
    """Leave a score that does not depend on the brightness."""
    return score


def register(
    name: str, *, normaliser: Normaliser = per_squared_mean
) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as the sharpness metric `name`.

    Parameters
    ----------
    name : str
        Name under which `metric` finds the function.
    normaliser : callable, optional
        ``normaliser(score, mean) -> float`` takes the brightness out of a score, given the mean of the
        frame. The default divides by the square of the mean, right for a score quadratic in the intensity.

    Returns
    -------
    callable
        A decorator that returns its function unchanged. The function takes one grey frame, shape (H, W),
        of dtype uint8, uint16 or float32, and returns a float that is larger for a sharper frame. If it
        has a parameter ``passband_cycles_per_px``, `metric` accepts a passband for it.

    Raises
    ------
    ValueError
        If another function already has the name. Defining the same function again, as when a notebook
        cell runs twice, replaces it.

    Examples
    --------
    >>> @register("range")
    ... def value_range(grey):
    ...     return float(grey.max()) - float(grey.min())
    """

    def decorate(function: MetricFunction) -> MetricFunction:
        known = _entries.get(name)
        if known is not None and _identity(known.function) != _identity(function):
            raise ValueError(
                f"the sharpness metric {name!r} is already {'.'.join(_identity(known.function))}"
            )
        _entries[name] = Entry(function, normaliser)
        return function

    return decorate


def _identity(function: MetricFunction) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def names() -> tuple[str, ...]:
    """Return the names of all registered metrics in alphabetical order."""
    return tuple(sorted(_entries))


def lookup(name: str) -> Entry:
    """Return what is registered as `name`; raise `UnknownMetricError` if nothing is."""
    try:
        return _entries[name]
    except KeyError:
        raise UnknownMetricError(
            f"unknown sharpness metric {name!r}; known are {', '.join(names())}"
        ) from None
