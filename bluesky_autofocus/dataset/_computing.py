"""Compute on one of Dask's schedulers: threads of this process, or a cluster."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

__all__ = ["Computer"]

FIELDS_A_WORKER = 4
"""So many tasks a worker are under way together; the results of more would have to be held at once."""


class Computer:
    """Computes on one of Dask's schedulers, a few tasks at a time."""

    def __init__(self, scheduler: Any, workers: int | None) -> None:
        self.scheduler, self.workers = scheduler, workers
        self._stack = ExitStack()

    def __enter__(self) -> "Computer":
        try:
            import dask  # noqa: F401 - only to say what is missing
        except ImportError as error:
            raise ImportError(
                "data sets are computed with Dask: pip install 'bluesky-autofocus[models]'"
            ) from error
        if isinstance(self.scheduler, str) and "://" in self.scheduler:
            from distributed import Client

            self.scheduler = self._stack.enter_context(Client(self.scheduler, set_as_default=False))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def map(
        self,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Any]:
        """Yield the results in order."""
        import dask

        options: dict[str, Any] = {"scheduler": self.scheduler}
        if isinstance(self.scheduler, str):
            workers = self.workers or os.cpu_count() or 1
            options["num_workers"] = workers
        else:
            threads: Any = self.scheduler.nthreads()
            workers = max(1, sum(threads.values()))
        size = FIELDS_A_WORKER * workers
        for first in range(0, len(arguments), size):
            tasks = [dask.delayed(function, pure=False)(one) for one in arguments[first : first + size]]  # type: ignore[attr-defined]
            yield from dask.compute(*tasks, **options)  # type: ignore[attr-defined]
            if progress is not None:
                progress(min(first + size, len(arguments)), len(arguments))
