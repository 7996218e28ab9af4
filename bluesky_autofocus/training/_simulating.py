"""What all simulated data share: fields computed in parallel, and kept under a name that says it all."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from platformdirs import user_cache_path
from tqdm import tqdm

__all__ = ["CACHE", "FieldRecipe", "key_of", "simulated"]

CACHE = Path(os.environ.get("BLUESKY_AUTOFOCUS_CACHE") or user_cache_path("bluesky-autofocus"))


class FieldRecipe(Protocol):
    """Some fields; their seeds are consecutive."""

    @property
    def first_seed(self) -> int: ...  # noqa: D102 - of the first field

    @property
    def count(self) -> int: ...  # noqa: D102 - of the fields

    @property
    def key(self) -> str: ...  # noqa: D102 - what they are kept under


R = TypeVar("R", bound=FieldRecipe)
T = TypeVar("T")


def key_of(kind: str, recipe: FieldRecipe, said: Any) -> str:
    """Return a name for the cache.

    Parameters
    ----------
    kind : str
        Of the specimens.
    recipe : FieldRecipe
        Which fields.
    said : object
        All that what is kept depends on, JSON-able.
    """
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{recipe.first_seed}-{recipe.count}-{digest[:12]}"


def simulated(
    of_field: Callable[[tuple[R, int]], T], recipe: R, *, chunksize: int = 1, show: bool = True
) -> Iterator[tuple[int, T]]:
    """Yield the seed of each field of a recipe and what a function makes of it, computed on all cores.

    Parameters
    ----------
    of_field : callable
        Of a module, since other processes look it up there. Takes the recipe and a seed.
    recipe : FieldRecipe
        Which fields.
    chunksize : int
        Fields that a process is given at a time.
    show : bool
        Whether to show a bar.
    """
    seeds = range(recipe.first_seed, recipe.first_seed + recipe.count)
    # "spawn": a library that has started threads cannot be forked
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        found = pool.imap(of_field, [(recipe, seed) for seed in seeds], chunksize)
        yield from zip(
            seeds, tqdm(found, recipe.key, recipe.count, disable=not show, mininterval=5), strict=True
        )
