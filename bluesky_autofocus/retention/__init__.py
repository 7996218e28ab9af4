"""Keep the disk: which frames of a run stay, and deleting the others without breaking its documents."""

from bluesky_autofocus.retention._automatic import PruneAfterRun
from bluesky_autofocus.retention._choosing import runs_older_than
from bluesky_autofocus.retention._policies import (
    POLICIES,
    Policy,
    RecordedReading,
    RecordedRun,
    RecordedVerdict,
    keep_all,
    keep_in_focus,
    policy_named,
    readings_only,
)
from bluesky_autofocus.retention._pruning import (
    PrunedFrames,
    Pruning,
    RunOpenError,
    deleted_frames,
    prune,
    pruning_history,
    require_ended,
)
from bluesky_autofocus.retention._references import Reference, references_to

__all__ = [
    "POLICIES",
    "Policy",
    "PruneAfterRun",
    "PrunedFrames",
    "Pruning",
    "RecordedReading",
    "RecordedRun",
    "RecordedVerdict",
    "Reference",
    "RunOpenError",
    "deleted_frames",
    "keep_all",
    "keep_in_focus",
    "policy_named",
    "prune",
    "pruning_history",
    "readings_only",
    "references_to",
    "require_ended",
    "runs_older_than",
]
