"""Collecting focal stacks from the command line, and going on after it was killed."""

import json
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from bluesky_autofocus.callbacks import CollectionProgress
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.dataset import find_collections, labelled_frames, make_dataset
from bluesky_autofocus.models.hh_net import ClassTable
from bluesky_autofocus.records import CLASS_INDICES
from bluesky_autofocus.simulation import CLASS_WIDTH_UM

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

SMALL = ["--kind", "tissue", "--frame-px", "256", "--range-um", "12", "--step-um", "3", "--json"]
PLANES = 9


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def spectrum(frame):
    return np.abs(np.fft.rfft2(frame))[None, 1:3, 0].astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("collected")


@pytest.fixture(scope="module")
def killed(folder):
    """Begin a collection of four fields, and kill it when two of them are complete; return its id."""
    command = [sys.executable, "-m", "bluesky_autofocus", "collect", "--fields", "4", *SMALL]
    process = subprocess.Popen(
        [*command, "--sample", "slide 7", "--catalog", str(folder)], stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1].get("field") == 1:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait(30) != 0
    assert lines[0] == {"collection": lines[0]["collection"], "sample": "slide 7", "fields": 4, "missing": 4}
    return lines[0]["collection"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_and_resumed_it_records_only_what_is_missing(killed, folder, capsys):
    assert main(["collect", "--resume", killed, "--catalog", str(folder), "--json"]) == 0
    first, *fields, last = said(capsys)
    # it may have got a little further before it was dead
    assert first["missing"] == len(fields) in (1, 2)
    assert [line["field"] for line in fields] == [2, 3][-len(fields) :]
    assert last == {"collection": killed, "complete": True}

    assert main(["collect", "--resume", killed, "--catalog", str(folder), "--json"]) == 0
    assert [line.get("missing") for line in said(capsys)] == [0, None]

    catalog = open_catalog(folder)
    try:
        runs = find_collections(catalog.client, collections=[killed])
        assert [run.start["sample"] for run in runs] == ["slide 7", "slide 7"]
        assert runs[1].start["resume_of"] == runs[0].start["uid"]
        assert runs[0].stop["exit_status"] == "abort"
        complete = [run["field"].read(["field_number"])["field_number"].values.tolist() for run in runs]
        assert sorted(sum(complete, [])) == [0, 1, 2, 3]
        places = [tuple(place) for place in runs[0].start["positions"]]
        assert len(set(places)) == 4
        assert runs[1].start["positions"] == runs[0].start["positions"]

        dataset = make_dataset(catalog.client, spectrum, show=None)
        assert len(dataset) + PLANES * sum(dataset.left_out.values()) == 4 * PLANES
        assert sum(dataset.left_out.values()) <= 1
        assert dataset.optics.numerical_aperture == 0.5
        assert np.allclose(dataset.na_xy, [0.4, 0.0], atol=1e-6)
        means = runs[0]["stack"].read(["microscope_camera_mean", "field_pattern"])
        for pattern in (0, 1):
            of_pattern = means["microscope_camera_mean"].values[means["field_pattern"].values == pattern]
            assert 5000 < of_pattern.mean() < 12_000  # equally bright, and not saturated
    finally:
        catalog.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--resume", "nothing"], "no run of collect_focal_stacks in the catalogue"),
        (["--fields", "0"], "--fields must be at least 1"),
        (["--range-um", "0"], "--range-um must be positive"),
        (["--fields", "1", "--kind", "cheese"], "kind is 'cheese'"),
        (["--instrument", "smear", "--kind", "cells"], "--kind is for --instrument microscope, got 'cells'"),
        (["--instrument", "smear", "--pattern", "off"], "--pattern is for --instrument microscope"),
        (["--fields", "1", "--step-um", "-1"], "step_um must be positive"),
        (["--fields", "1", "--frame-px", "256", "--pattern", "moonlight"], "no illumination pattern"),
        (["--fields", "1", "--frame-px", "256", "--pattern", "off"], "must give light"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, error, folder, capsys):
    assert main(["collect", *arguments, "--catalog", str(folder)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("bluesky-autofocus: ")
    assert error in line


def test_of_a_smear_each_class_of_focus_is_collected_in_colour(folder, capsys):
    small = ["--fields", "2", "--frame-px", "160", "--step-um", "6", "--sample", "blood", "--seed", "4"]
    arguments = ["--catalog", str(folder), "--json"]
    assert main(["collect", "--instrument", "smear", *small, *arguments]) == 0
    first, *fields, last = said(capsys)
    assert (first["sample"], [line["field"] for line in fields], last["complete"]) == ("blood", [0, 1], True)

    # nothing is missing, which it can tell without being told the instrument again
    assert main(["collect", "--resume", first["collection"], *arguments]) == 0
    assert said(capsys)[0]["missing"] == 0

    catalog = open_catalog(folder)
    try:
        (run,) = find_collections(catalog.client, samples=["blood"])
        assert run.start["patterns"] == [""]
        assert run["stack", "microscope_camera_image"].shape == (16, 160, 160, 3)
        frames = labelled_frames(catalog.client, [run.start["uid"]], ClassTable.of_width(CLASS_WIDTH_UM))
    finally:
        catalog.close()
    assert Counter(frame.index for frame in frames).keys() == set(CLASS_INDICES)
    assert {frame.source for frame in frames} == {"truth"}


class Bar:
    def __init__(self, **options):
        self.options, self.n, self.closed = options, 0, False

    def update(self, more):
        self.n += more

    def close(self):
        self.closed = True


def test_the_progress_bar_counts_exposures_once():
    bars, complete = [], []
    progress = CollectionProgress(lambda **options: bars.append(Bar(**options)) or bars[0], complete.append)
    hints = {"dimensions": [(["z"], "stack")]}
    progress("start", {"uid": "r", "time": 0.0, "collection": "c", "num_points": 4, "hints": hints})
    for name in ("stack", "field"):
        progress("descriptor", {"uid": name, "name": name, "run_start": "r"})
    for seq_num in (1, 2, 2, 3):
        progress("event", {"descriptor": "stack", "seq_num": seq_num, "time": 1.0, "data": {}})
    progress("event", {"descriptor": "field", "seq_num": 1, "time": 1.0, "data": {"field_number": 7}})
    assert (bars[0].n, bars[0].options["total"], complete) == (3, 4, [7])
    progress("stop", {"run_start": "r"})
    assert bars[0].closed
    other = CollectionProgress(bars.append)
    other("start", {"uid": "r", "time": 0.0, "num_points": 4})  # some other plan
    assert len(bars) == 1
