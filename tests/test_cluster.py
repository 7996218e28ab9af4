"""Features computed by the two workers of a Dask cluster: as they are computed here, to the last bit."""

import contextlib
import io

import numpy as np
import pytest

from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.cli import main
from bluesky_autofocus.dataset import labelled_frames, smear_vectors
from bluesky_autofocus.models.hh_net import ClassTable
from bluesky_autofocus.models.hh_net.vectors import PatchVectors

distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as started:
        yield started


def run(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main([str(argument) for argument in arguments])
    return status, said.getvalue()


def collected(folder, *options):
    status, said = run("collect", "--catalog", folder, "--json", *options)
    assert status == 0, said
    return folder


def test_of_stained_smears(cluster, tmp_path):
    folder = collected(
        tmp_path / "smears", "--instrument", "smear", "--fields", 2, "--frame-px", 128, "--step-um", 6
    )
    catalog = open_catalog(folder)
    try:
        frames = labelled_frames(catalog.client, [catalog.client[-1].start["uid"]], ClassTable.of_width(6.0))
        vectors, done = PatchVectors(100, ("handcrafted",)), []
        here, _ = smear_vectors(frames, vectors, most_patches=4)
        there, left_out = smear_vectors(
            frames,
            vectors,
            most_patches=4,
            scheduler=cluster.scheduler_address,
            progress=lambda *number: done.append(number),
        )
        assert len(cluster.scheduler_info["workers"]) == 2
        assert not left_out and done[-1] == (len(frames), len(frames))
        for name, values in vars(here).items():
            assert np.array_equal(values, getattr(there, name), equal_nan=True), name
    finally:
        catalog.close()


def test_of_frames_under_one_led_for_the_verb_that_trains(cluster, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    from bluesky_autofocus.models.single_shot import train

    folder = collected(
        tmp_path / "stacks", "--fields", 3, "--frame-px", 256, "--range-um", 9, "--step-um", 3
    )  # fmt: skip
    given = []

    def record(powers, defocus_um, groups, features, **options):
        given.append((powers, defocus_um, groups))
        raise ValueError("far enough")

    monkeypatch.setattr(train, "train_default", record)
    verb = ("train", "single-shot", "--catalog", folder, "--patch-px", 128, "--output", tmp_path / "m.h5")
    for where in ((), ("--cluster", cluster.scheduler_address)):
        status, said = run(*verb, "--json", *where)
        assert status == 2 and "far enough" in said, said
    here, there = given
    for one, other in zip(here, there, strict=True):
        assert len(one) > 0 and np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["single-shot", "--cluster", "2"], "--cluster is the address of a Dask scheduler"),
        (["hh-net", "--cluster", "tcp://127.0.0.1:1"], "--cluster has no effect without --run"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, said, tmp_path):
    pytest.importorskip("tensorflow")
    status, found = run("train", *arguments, "--catalog", tmp_path, "--output", tmp_path / "m.h5")
    assert status == 2 and said in found
