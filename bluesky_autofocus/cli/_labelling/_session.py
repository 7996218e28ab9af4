# ruff: noqa: T201 - this is the command line: printing is what it is for
"""What is to be labelled, and the labels that were recorded, whatever it is asked on.

Each label is a run of its own. The catalogue's writer stores the Events of a run when the run ends: in one
long run labels would be on disk, in the spool, but nobody could read them before its end.
"""

import contextlib
import dataclasses
import getpass
import json
import signal
import sys
from argparse import Namespace
from collections.abc import Hashable, Iterator
from typing import Any

from bluesky import RunEngine

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._labelling._shown import Shown, ShownStack, shuffled_frames
from bluesky_autofocus.dataset import class_labels_of, field_stacks, labels_of
from bluesky_autofocus.models.hh_net.classes import NAMES
from bluesky_autofocus.plans import record_labels
from bluesky_autofocus.records import ClassLabel, FocusLabel

__all__ = ["Labelling"]


class Labelling:
    """What a person is asked, what is to be labelled, and the labels that were recorded.

    Parameters
    ----------
    catalog : Catalog
        Where labels go.
    run : databroker.client.BlueskyRun
        That holds the stacks or frames.
    options : Namespace
        Of the command.

    Raises
    ------
    ValueError
        If the run holds no stacks or frames, or not all of the fields that were asked for.
    """

    def __init__(self, catalog: Catalog, run: Any, options: Namespace) -> None:
        self.uid = run.start["uid"]
        self.as_json = options.json
        stacks = field_stacks(run, still=options.classes)
        wanted = list(stacks) if options.field is None else list(dict.fromkeys(options.field))
        unknown = [number for number in wanted if number not in stacks]
        if unknown:
            known = ", ".join(map(str, stacks))
            raise ValueError(
                f"--field {unknown[0]} is no complete field of run {self.uid[:8]}: it has {known}"
            )
        self.labeller = options.labeller or _user()
        self.shown: list[Shown]
        if options.classes:
            self.question, self.things, self.choices = "Which class of focus is it?", "frames", NAMES
            done: Any = class_labels_of(catalog.client, self.uid)
            self.shown = shuffled_frames([stacks[number] for number in wanted])
        else:
            # the choice is which picture
            self.question, self.things, self.choices = "Which plane is in focus?", "fields", ()
            done = labels_of(catalog.client, self.uid, person_only=True)
            self.shown = [ShownStack(stacks[number]) for number in wanted]
        if not options.relabel:
            self.shown = [one for one in self.shown if one.place not in done]
        self.labels: dict[Hashable, FocusLabel | ClassLabel] = {}
        # it would take a Ctrl-C for the wish to pause, and label on
        self._run_engine = RunEngine(context_managers=[])
        catalog.subscribe(self._run_engine)

    def title(self, number: int) -> str:
        """Return what the number-th thing that is shown is called."""
        return self.shown[number].title(number + 1, len(self.shown))

    def answers(self, number: int) -> int:
        """Return how many answers there are to the number-th thing that is shown."""
        return len(self.choices) or len(self.shown[number].captions)

    def record(self, number: int, answer: int | None) -> None:
        """Record a label; when this returns it is on disk. To be called by the main thread.

        Parameters
        ----------
        number : int
            Of what is shown.
        answer : int or None
            Which of its pictures, or which of `choices`. None: it is not usable.
        """
        shown = self.shown[number]
        made = shown.label(answer)
        with _interrupts_later():
            self._run_engine(record_labels([made], labels_of=self.uid, labeller=self.labeller))
            self.labels[shown.place] = made
            if self.as_json:
                said = {
                    # JSON has no number for what is not known
                    key: None if value != value else value
                    for key, value in dataclasses.asdict(made).items()
                }
                print(json.dumps({"labels_of": self.uid, "labeller": self.labeller, **said}), flush=True)

    def said(self, number: int) -> str:
        """Return how the number-th thing that is shown was labelled; empty if it was not yet."""
        shown = self.shown[number]
        made = self.labels.get(shown.place)
        if made is None:
            return ""
        return f"labelled {shown.said(made)}" if made.usable else "unusable"

    def say(self, line: str) -> None:
        """Tell the person something; with --json, beside the results."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let a Ctrl-C wait for what is done within."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, ImportError, KeyError) as error:
        raise ValueError("this machine does not say who you are: give --labeller NAME") from error
