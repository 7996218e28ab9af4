"""Turn a solver inside out: instead of calling our function, it asks for a value and waits."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

__all__ = ["inverted"]

T = TypeVar("T")


def inverted(solve: Callable[[Callable[[float], float]], T]) -> Generator[float, float, T]:
    """Run a solver so that each of its function evaluations becomes one step of a generator.

    A solver from a library calls the function it minimises; a bluesky plan must yield messages to evaluate
    it. The solver therefore runs in a greenlet of its own, which is left at every evaluation and re-entered
    with the value. It is the library's solver that runs, unchanged, C code included.

    Parameters
    ----------
    solve : callable
        Called once with the function to evaluate, ``f(x) -> y``; returns the solver's result.

    Yields
    ------
    float
        The next x to evaluate; send its y.

    Returns
    -------
    object
        What `solve` returned.

    Notes
    -----
    Closing the generator, or throwing into it, ends the solver: nothing is left running.
    """

    def evaluate(x: float) -> float:
        # the parent is whoever drives the generator at this moment, see below
        parent: Any = getcurrent().parent
        return parent.switch((False, float(x)))

    def run() -> tuple[bool, Any]:
        return True, solve(evaluate)

    solver = greenlet(run)
    try:
        finished, answer = solver.switch()
        while not finished:
            value = yield answer
            solver.parent = getcurrent()
            finished, answer = solver.switch(value)
        return answer
    finally:
        if not solver.dead:
            # On another thread than the solver's it cannot be entered; it ends when that thread goes on.
            with contextlib.suppress(ValueError):
                solver.parent = getcurrent()
                # raises GreenletExit inside the solver's pending evaluation
                solver.throw()
