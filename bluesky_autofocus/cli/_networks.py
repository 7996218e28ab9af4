# ruff: noqa: T201 - this is the command line: printing is what it is for
"""What the verbs about networks share: exit status, optics given by options, a model that was trained."""

import dataclasses
import json
from argparse import Namespace

from bluesky_autofocus.models._model import Model
from bluesky_autofocus.optics import LightOptics

__all__ = ["SOME_REFUSED", "given_optics", "save_trained"]

SOME_REFUSED = 1
"""Exit status of ``predict``."""

_OPTION_OF = {"numerical_aperture": "na"}


def given_optics(options: Namespace) -> dict[str, float]:
    """Return those figures of the optics that options say, by their names in `LightOptics`."""
    said = {
        field.name: getattr(options, _OPTION_OF.get(field.name, field.name), None)
        for field in dataclasses.fields(LightOptics)
    }
    return {name: value for name, value in said.items() if value is not None}


def save_trained(model: Model, options: Namespace, **counts: int) -> int:
    """Write a model, print its card, or with ``--json`` what it was trained on and its figures; return 0."""
    card = model.save(options.output)
    path = options.output.resolve()
    if options.json:
        said = {"model": str(path), "hash": card.hash, **counts}
        print(json.dumps({**said, "minutes": card.training.minutes, "figures": card.figures}))
    else:
        print(card)
        print(path)
    return 0
