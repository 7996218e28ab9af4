"""Ask a person where recorded stacks are in focus, or which class of focus each of their frames is of."""

import sys
from argparse import Namespace
from typing import Any

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._labelling._page import on_page
from bluesky_autofocus.cli._labelling._session import Labelling
from bluesky_autofocus.cli._labelling._terminal import in_terminal

__all__ = ["label"]


def label(catalog: Catalog, run: Any, options: Namespace) -> int:
    """Let a person label the fields of a run, or sort its frames; return the exit status."""
    run = _labelled_run(catalog.client, run)
    labelling = Labelling(catalog, run, options)
    if not labelling.shown:
        labelling.say(f"all {labelling.things} are labelled; --relabel shows them again")
        return 0
    try:
        if options.terminal:
            in_terminal(labelling, sys.stderr if options.json else sys.stdout)
        else:
            on_page(labelling, port=options.port, browser=not options.no_browser)
    finally:
        done = len(labelling.labels)
        left = len(labelling.shown) - done
        labelling.say(f"{done} {labelling.things} labelled" + (f", {left} left" if left else ""))
    return 0


def _labelled_run(client: Any, run: Any) -> Any:
    """Return the run that is to be labelled: after labelling, -1 is the run of the last label."""
    return client[run.start["labels_of"]] if "labels_of" in run.start else run
