"""Plans that Ctrl-C ends in order: the instrument is put back, and the run has its end."""

from typing import Any

__all__ = ["INTERRUPTED", "completed"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def completed(run_engine: Any, plan: Any) -> bool:
    """Run a plan; after Ctrl-C abort it, and return False."""
    from bluesky.utils import RunEngineInterrupted  # takes a while, and most verbs run no plan

    try:
        run_engine(plan)
    except RunEngineInterrupted:
        run_engine.abort("interrupted at the keyboard")
        return False
    return True
