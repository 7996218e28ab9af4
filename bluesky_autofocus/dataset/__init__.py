"""From focal stacks in the catalogue to what a network is trained with.

Runs of the plan `collect_focal_stacks` are found by query; each field's ground truth comes from its stack
under a half annulus, and the features of its other frames are computed where the frames can be read: by
threads of this process or by the workers of a Dask cluster. What travels is where a frame is, and features.
Stacks under ordinary light have labels instead: which plane a person, or a simulator, says is in focus.
Frames may have been sorted into classes of focus too. To learn refocusing from, planes are paired with the
one in focus, those of a public collection too.
"""

from bluesky_autofocus.dataset._bbbc006 import bbbc006_pairs
from bluesky_autofocus.dataset._collections import DatasetError, completed_fields, find_collections
from bluesky_autofocus.dataset._dataset import Dataset, Field
from bluesky_autofocus.dataset._focal_pairs import RecordedPairs, recorded_pairs
from bluesky_autofocus.dataset._key_frames import labelled_cells
from bluesky_autofocus.dataset._labelled_frames import LabelledFrame, labelled_frames
from bluesky_autofocus.dataset._labels import (
    FieldStack,
    class_labels_of,
    field_stacks,
    labels_of,
    true_labels,
)
from bluesky_autofocus.dataset._making import ground_truths, make_dataset
from bluesky_autofocus.dataset._smears import smear_vectors
from bluesky_autofocus.dataset._surfaces import surface_of

__all__ = [
    "Dataset",
    "DatasetError",
    "Field",
    "FieldStack",
    "LabelledFrame",
    "RecordedPairs",
    "bbbc006_pairs",
    "class_labels_of",
    "completed_fields",
    "field_stacks",
    "find_collections",
    "ground_truths",
    "labelled_cells",
    "labelled_frames",
    "labels_of",
    "make_dataset",
    "recorded_pairs",
    "smear_vectors",
    "surface_of",
    "true_labels",
]
