"""Model cards and files: what is written is read back, and nothing else is."""

import dataclasses
import hashlib
import random
import threading

import h5py
import numpy as np
import pytest

from bluesky_autofocus.models import ModelCard, ModelFileError, read_model, write_model
from bluesky_autofocus.models import _file as model_file
from bluesky_autofocus.models.card import SCHEMA_VERSION, FeatureRecord, ModelInputs, TrainingRecord
from bluesky_autofocus.optics import LightOptics

ARRAYS = {
    "kernel0": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias0": np.full(4, -0.5, np.float16),
    "level": np.array(3.5, np.float32),
}


def make_card(**changes) -> ModelCard:
    said = {
        "name": "a model",
        "architecture": "dense",
        "version": "1",
        "inputs": ModelInputs.of(
            LightOptics(), illumination="single(na=0.4, angle_deg=0)", patch_px=512, led_na_xy=[(0.4, 0.0)]
        ),
        "features": FeatureRecord("strip_magnitude", {"extent": np.array([0.9, 0.1])}),
        "valid_range_um": (-30, 30.0),
        "training": TrainingRecord("120 simulated stacks", 120, 7320, seed=3, minutes=1.5),
        "figures": {"rmse_um": np.float32(1.5), "frames": np.int64(7)},
        "valid_for": "cells on glass",
        "licence": "BSD-3-Clause",
        "created": "2026-01-02T03:04:05+00:00",
    }
    return ModelCard(**{**said, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.h5"


@pytest.fixture
def written(path):
    return write_model(path, make_card(), ARRAYS)


def rewrite(path, change) -> None:
    """Change a file as someone would who knows its format, checksum included."""
    with h5py.File(path, "r+") as file:
        change(file)
    content = path.read_bytes()[512:]
    header = f"bluesky-autofocus model, schema 1, sha256 {hashlib.sha256(content).hexdigest()}\n".encode()
    path.write_bytes(header.ljust(512, b"\0") + content)


def test_what_is_written_is_read_back(path, written):
    card, arrays = read_model(path)
    assert card == make_card() == written
    assert card.hash == written.hash and len(card.hash) == 64
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_a_card_holds_plain_values_and_gives_its_optics():
    card = make_card()
    assert card.features.parameters == {"extent": (0.9, 0.1)}
    assert type(card.figures["rmse_um"]) is float and type(card.figures["frames"]) is int
    assert card.inputs.optics == LightOptics()
    assert ModelCard.from_dict(card.to_dict()) == card


def test_a_card_without_optics_says_what_is_missing():
    with pytest.raises(ValueError, match="does not state numerical_aperture, wavelength_um"):
        _ = ModelInputs(illumination="", patch_px=0, pixel_size_um=0.1, magnification=20.0).optics


def test_a_card_prints_what_a_person_wants_to_know(written):
    said = str(written)
    for fact in (
        "a model 1 (dense)",
        "cells on glass",
        "-30 .. 30 um",
        "rmse_um 1.5",
        "seed 3",
        written.hash,
    ):
        assert fact in said
    assert "not written yet" in str(make_card())


def test_the_hash_is_of_card_and_arrays_and_nothing_else(path, written, tmp_path):
    again = write_model(tmp_path / "other.h5", make_card(), dict(reversed(ARRAYS.items())))
    assert again.hash == written.hash
    assert (tmp_path / "other.h5").stat().st_size == path.stat().st_size
    hashes = {
        write_model(path, make_card(version="2"), ARRAYS).hash,
        write_model(path, make_card(), {**ARRAYS, "bias0": ARRAYS["bias0"] + np.float16(1)}).hash,
        write_model(path, make_card(), {**ARRAYS, "bias0": ARRAYS["bias0"].reshape(2, 2)}).hash,
        write_model(path, make_card(), {**ARRAYS, "more": ARRAYS["level"]}).hash,
    }
    assert len(hashes | {written.hash}) == 5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"figures": {"rmse_um": np.nan}}, "figures: nan cannot be written"),
        ({"figures": {"model": object()}}, "figures: <object"),
        ({"valid_range_um": (30, -30)}, "valid_range_um"),
        ({"valid_range_um": (1, 2, 3)}, "valid_range_um"),
    ],
)
def test_a_card_takes_only_what_can_be_written(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_card(**changes)


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        ("kernel", np.zeros(3), "kernel is of type float64"),
        ("kernel", np.array(["a"], dtype=object), "kernel is of type object"),
        ("kernel", np.array([np.inf], np.float32), "not finite"),
        ("a/b", np.zeros(3, np.float32), "no name for an array"),
    ],
)
def test_only_plain_arrays_are_written_and_nothing_is_left_behind(path, written, name, array, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_model(path, make_card(version="2"), {name: array})
    assert read_model(path)[0] == written
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_model(path, written, monkeypatch):
    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(model_file.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_model(path, make_card(version="2"), ARRAYS)
    assert read_model(path)[0] == written
    assert list(path.parent.iterdir()) == [path]


def test_a_model_of_no_arrays_and_one_large_array_can_be_written(path):
    assert read_model(path.parent / write_and_name(path, {}))[1] == {}
    large = np.random.default_rng(0).standard_normal((2000, 500)).astype(np.float32)
    write_model(path, make_card(), {"large": large})
    np.testing.assert_array_equal(read_model(path)[1]["large"], large)


def write_and_name(path, arrays) -> str:
    write_model(path, make_card(), arrays)
    return path.name


def test_no_file_and_a_folder_are_no_models(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot read the model .*missing\.h5: No such file") as caught:
        read_model(tmp_path / "missing.h5")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ModelFileError, match="cannot read the model"):
        read_model(tmp_path)


def test_other_files_are_no_models(path):
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(600)):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.h5: not a model of bluesky-autofocus"):
            read_model(path)


def test_damage_anywhere_is_noticed(path, written):
    """Each byte counts: some damaged files would keep the HDF5 library busy for ever."""
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="not a model|damaged|newer"):
            read_model(path)
    for length in (0, 100, 511, 512, 600, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_model(path)


def test_a_newer_file_is_refused_before_it_is_opened(path, written):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"schema 1,", b"schema 2,", 1).ljust(512, b"\0"))
    with pytest.raises(ModelFileError, match=rf"of schema 2, newer than {SCHEMA_VERSION}.*update"):
        read_model(path)


def test_altered_weights_are_noticed_though_the_checksum_fits(path, written):
    def change(file):
        file["arrays/kernel0"][0, 0] = 99

    rewrite(path, change)
    with pytest.raises(ModelFileError, match="do not match the hash"):
        read_model(path)


def test_nothing_outside_the_file_is_read(path, written, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones(3, np.float32)
    links = (h5py.SoftLink("/card"), h5py.ExternalLink("other.h5", "/secret"))
    for link in links:
        write_model(path, make_card(), ARRAYS)

        def change(file, link=link):
            file["arrays/more"] = link

        rewrite(path, change)
        with pytest.raises(ModelFileError, match="more is a link elsewhere"):
            read_model(path)


def add_filtered(file) -> None:
    file["arrays"].create_dataset("more", data=np.zeros(100, np.float32), compression="gzip")


def add_huge(file) -> None:
    file["arrays"].create_dataset("more", shape=(2**40,), dtype=np.float32)


def add_objects(file) -> None:
    file["arrays"].create_dataset("more", data=["text"], dtype=h5py.string_dtype())


def add_group(file) -> None:
    file["arrays"].create_group("more")


def drop_arrays(file) -> None:
    del file["arrays"]


def text_card(file) -> None:
    del file["card"]
    file["card"] = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (add_filtered, "not stored plainly"),
        (add_huge, "more than 1024 MiB"),
        (add_objects, "of type object"),
        (add_group, "not an array"),
        (drop_arrays, "no model's"),
        (text_card, "its card is not text"),
    ],
)
def test_what_a_model_file_does_not_hold_is_refused(path, written, change, complaint):
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=complaint):
        read_model(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda said: said.pop("licence"), "the card lacks licence"),
        (lambda said: said.update(mood="good"), "unknown entries: mood"),
        (lambda said: said.update(name=3), "the card: name is 3, a int"),
        (lambda said: said.update(inputs=[]), "the card's entry 'inputs' is not a JSON object"),
        (lambda said: said["inputs"].pop("patch_px"), "'inputs' lacks patch_px"),
        (lambda said: said["inputs"].update(patch_px="512"), "patch_px is '512', a str"),
        (lambda said: said["inputs"].update(patch_px=-1), "patch_px, planes are -1"),
        (lambda said: said["inputs"].update(led_na_xy=[3]), "entry 'inputs'"),
        (lambda said: said.update(valid_range_um=[2, 1]), "valid_range_um"),
        (lambda said: said["training"].update(seed=True), "seed is True, a bool"),
    ],
)
def test_a_card_that_does_not_fit_the_schema_says_where(change, complaint):
    said = make_card().to_dict()
    change(said)
    with pytest.raises(ModelFileError, match=complaint):
        ModelCard.from_dict(said)


def test_a_reader_meets_the_old_model_or_the_new_one(path, written):
    stop = threading.Event()
    met, failed = set(), []

    def look():
        while not stop.is_set():
            try:
                met.add(read_model(path)[0].version)
            except ModelFileError as error:
                failed.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(40):
        write_model(path, make_card(version=str(number)), ARRAYS)
    stop.set()
    reader.join()
    assert not failed and met


def test_models_of_other_networks_fit_the_schema(path):
    """Several planes in colour, no LED, no range in um."""
    card = make_card(
        inputs=ModelInputs(illumination="", patch_px=256, planes=7, plane_spacing_um=0.25, colour="rgb"),
        valid_range_um=None,
    )
    write_model(path, card, ARRAYS)
    assert read_model(path)[0] == card
    assert dataclasses.asdict(card)["inputs"]["planes"] == 7
