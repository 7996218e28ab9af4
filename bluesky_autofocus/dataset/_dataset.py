"""What a network is trained and judged with."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus._rows import RowsOnDisk
from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.defocus.ground_truth import GroundTruth
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason

__all__ = ["FEATURES", "TABLE", "Dataset", "Field"]

FEATURES = "features.npy"
"""Where a data set on disk has its features."""

TABLE = "dataset.json"
"""Where it has everything else."""

FORMAT = "bluesky_autofocus dataset 1"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a collection, complete, and where its focus is.

    Parameters
    ----------
    run : str
        Uid of the run that holds it.
    number : int
        Of the field within its collection.
    collection, sample : str
        Which collection and which specimen it is of.
    truth : GroundTruth
        Of its stack under the half annulus.
    """

    run: str
    number: int
    collection: str
    sample: str
    truth: GroundTruth

    @property
    def name(self) -> str:
        """Collection and number."""
        return f"{self.collection}/{self.number}"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Features of frames, and how far from focus each was taken.

    Parameters
    ----------
    features : array, shape (n, n_patches, d), float32
        Of each frame; from a file where they are many: index it by a few rows at a time.
    defocus_um : numpy.ndarray, shape (n,)
        Position of the image plane minus that of focus.
    field : numpy.ndarray, shape (n,)
        Index into `fields`.
    pattern : numpy.ndarray, shape (n,)
        Index into `patterns`.
    na_xy : numpy.ndarray, shape (n, 2)
        Direction of the light as it was recorded, NaN where it was not.
    fields : tuple of Field
        What the frames show, ground truth included.
    patterns : tuple of str
        The illuminations.
    optics : LightOptics or None
        With which all of it was recorded.
    left_out : dict
        How many fields were left out, by reason.
    parameters : dict
        How it was made, JSON-able.
    """

    features: Any
    defocus_um: NDArray[np.float32]
    field: NDArray[np.int_]
    pattern: NDArray[np.int_]
    na_xy: NDArray[np.float64]
    fields: tuple[Field, ...]
    patterns: tuple[str, ...]
    optics: LightOptics | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.defocus_um)

    @property
    def sample(self) -> NDArray[np.str_]:
        """Name of the specimen of each frame, shape (n,)."""
        return np.array([field.sample for field in self.fields])[self.field]

    def __str__(self) -> str:
        """One line for a person."""
        used = [self.fields[index] for index in np.unique(self.field)]
        samples = sorted({field.sample for field in used})
        out = ", ".join(f"{reason} {count}" for reason, count in sorted(self.left_out.items()))
        return (
            f"{len(self)} frames of {len(used)} fields of {len(samples)} samples ({', '.join(samples)}); "
            f"{sum(self.left_out.values())} fields left out{f' ({out})' if out else ''}"
        )

    def select(self, rows: NDArray) -> "Dataset":
        """Return the frames of a mask or of indices."""
        rows = np.arange(len(self))[rows]
        features: Any = self.features
        if isinstance(features, RowsOnDisk):
            features = features.select(rows)
        else:
            features = RowsOnDisk(features, rows) if isinstance(features, np.memmap) else features[rows]
        return dataclasses.replace(
            self,
            features=features,
            defocus_um=self.defocus_um[rows],
            field=self.field[rows],
            pattern=self.pattern[rows],
            na_xy=self.na_xy[rows],
        )

    def split(
        self, fraction: float = 0.2, *, by: Literal["field", "sample"] = "field", seed: int = 0
    ) -> tuple["Dataset", "Dataset"]:
        """Return two data sets, to train and to judge with, that have no field in common.

        Parameters
        ----------
        fraction : float
            Of the fields, for the second one.
        by : {"field", "sample"}
            Whether fields of one specimen may be on both sides, then about evenly of each, or whole
            specimens are kept apart: only that tells how a network does on a specimen it has not seen.
        seed : int
            Of what goes where.

        Raises
        ------
        ValueError
            If there are too few fields or samples for two sides.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {fraction!r}")
        if by not in ("field", "sample"):
            raise ValueError(f"by is {by!r}: expected 'field' or 'sample'")
        rng = np.random.default_rng(seed)
        groups: dict[str, list[int]] = {}
        for index in np.unique(self.field).tolist():
            groups.setdefault(self.fields[index].sample, []).append(index)
        total = sum(map(len, groups.values()))
        second: set[int] = set()
        if by == "sample":
            for name in rng.permutation(sorted(groups))[: len(groups) - 1]:
                if len(second) + len(groups[name]) / 2 < fraction * total or not second:
                    second.update(groups[name])
        else:
            # each sample in turn, so that every stretch of this order holds its share of each
            order = [
                (place, name, index)
                for name, indices in sorted(groups.items())
                for place, index in zip(
                    (np.arange(len(indices)) + rng.uniform()) / len(indices),
                    rng.permutation(indices).tolist(),
                    strict=True,
                )
            ]
            second.update(index for *_, index in sorted(order)[: max(1, round(fraction * total))])
        if not 0 < len(second) < total:
            raise ValueError(f"{total} fields of {len(groups)} samples cannot be split by {by}")
        chosen = np.isin(self.field, sorted(second))
        return self.select(~chosen), self.select(chosen)

    def save(self, folder: Path | str) -> None:
        """Write the data set to a folder, to be opened again with `open`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        np.save(Path(folder) / FEATURES, np.asarray(self.features))
        self.write_table(Path(folder))

    def write_table(self, folder: Path) -> None:
        """Write everything but the features; last, so that what was not finished is not taken for whole."""
        table = {
            "format": FORMAT,
            **{name: getattr(self, name).tolist() for name in ("defocus_um", "field", "pattern", "na_xy")},
            "fields": [dataclasses.asdict(field) for field in self.fields],
            "patterns": self.patterns,
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
            "left_out": dict(self.left_out),
            "parameters": dict(self.parameters),
        }
        (folder / TABLE).write_text(json.dumps(table), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path | str) -> "Dataset":
        """Open a data set that was written to a folder; its features are read as they are needed.

        Raises
        ------
        DatasetError
            If there is none, or it was not finished.
        """
        folder = Path(folder)
        try:
            table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
            if table.pop("format") != FORMAT:
                raise ValueError("it has another format")
            features = np.load(folder / FEATURES, mmap_mode="r")
            fields = []
            for field in table["fields"]:
                truth = {**field["truth"], "reason": Reason(field["truth"]["reason"])}
                truth |= {key: tuple(truth[key]) for key in ("positions_um", "scores")}
                fields.append(Field(**{**field, "truth": GroundTruth(**truth)}))
            return cls(
                features=features,
                defocus_um=np.array(table["defocus_um"], np.float32),
                field=np.array(table["field"], int),
                pattern=np.array(table["pattern"], int),
                na_xy=np.array(table["na_xy"], float).reshape(-1, 2),
                fields=tuple(fields),
                patterns=tuple(table["patterns"]),
                optics=None if table["optics"] is None else LightOptics(**table["optics"]),
                left_out=table["left_out"],
                parameters=table["parameters"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"there is no complete data set in {folder}: {error}") from error
