"""Who refers to frames of a run: what was computed from them, labelled, or is trained with."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Reference", "references_to"]

COMPUTED = ("refocused_run",)
"""Keys of start documents that name the run that a computed one was made from. Its streams say of which
frames: ``of_stream``, ``of_seq_num``."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Why frames of a run must not go.

    Parameters
    ----------
    why : str
        For a person.
    frames : frozenset of (str, int), optional
        Which: stream and number of each. None: all of the run.
    """

    why: str
    frames: frozenset[tuple[str, int]] | None = None

    def __contains__(self, frame: tuple[str, int]) -> bool:
        return self.frames is None or frame in self.frames


def references_to(client: Any, run: Any) -> list[Reference]:
    """Return who refers to frames of a run.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        ``db``: referring runs are looked for in the same catalogue.
    run : databroker.client.BlueskyRun
        Of it.
    """
    return [*_training(run), *_labels(client, run), *_computed(client, run)]


def _training(run: Any) -> Iterator[Reference]:
    if "collection" in run.start:
        yield Reference(f"it belongs to the collection {run.start['collection']}, to train networks with")


def _labels(client: Any, run: Any) -> Iterator[Reference]:
    from tiled.queries import Key

    labelled = len(client.search(Key("labels_of") == run.start["uid"]))
    if labelled:
        yield Reference(f"its frames were labelled, in {labelled} run{'' if labelled == 1 else 's'}")


def _computed(client: Any, run: Any) -> Iterator[Reference]:
    from tiled.queries import Key

    for key in COMPUTED:
        for computed in client.search(Key(key) == run.start["uid"]).values():
            name = f"run {computed.start['uid'][:8]}"
            if computed.metadata.get("stop") is None:
                yield Reference(f"{name} is being computed from it")
                continue
            streams = list(computed.values())
            if all("of_stream" in stream.metadata["data_keys"] for stream in streams):
                frames = frozenset(frame for stream in streams for frame in _referred(stream))
                yield Reference(f"{name} was computed from {len(frames)} of its frames", frames)
            else:
                yield Reference(f"{name} was computed from it")


def _referred(stream: Any) -> Iterator[tuple[str, int]]:
    table = stream.read(["of_stream", "of_seq_num"])
    columns = (np.asarray(table[key].values) for key in ("of_stream", "of_seq_num"))
    for name, number in zip(*columns, strict=True):
        yield str(name), int(number)
