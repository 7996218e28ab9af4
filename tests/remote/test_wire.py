"""What travels is data: readings come back to the last bit, and nothing is run that came over a network."""

import json
import math
import pickle

import numpy as np
import pytest

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.callbacks._focus_class import _ClassReading
from bluesky_autofocus.callbacks._two_exposure import _PairReading
from bluesky_autofocus.models.hh_net import ClassEstimate
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.remote import MadeBy
from bluesky_autofocus.remote._wire import decode_reading, encode_reading, pack, settings_of, unpack

ESTIMATE = ClassEstimate(
    index=2,
    name="blurred",
    probabilities=(0.1, 0.2, 0.7),
    certainty=0.5,
    expected_index=1.9,
    sigma_index=0.3,
    defocus_um=12.1,
    sigma_um=0.7,
    measured=True,
    patches=9,
    accepted=True,
    reason=Reason.OK,
)


@pytest.mark.parametrize(
    "reading",
    [
        Reading("uid", 0.1 + 0.2, 1 / 3, "um", seq_num=4),
        Reading.refused(Reason.SATURATED, "um"),
        _ClassReading("uid", 12.1, 0.7, "um", estimate=ESTIMATE),
        _PairReading("uid", 0.2, 0.1, "um", straight_um=math.pi),
    ],
    ids=lambda reading: type(reading).__name__,
)
def test_a_reading_comes_back_as_it_was(reading):
    back = decode_reading(encode_reading(reading))
    assert type(back) is type(reading) and repr(back) == repr(reading)
    assert repr(back.recorded()) == repr(reading.recorded())
    assert back.reason is reading.reason


def test_the_contrast_in_each_octave_comes_with_it():
    frame = np.random.default_rng(0).poisson(900, (128, 128)).astype(np.uint16)
    reading = SharpnessAnalysis().analyse_frame(frame)
    back = MadeBy.of(decode_reading(encode_reading(reading)), "host:1")
    assert back.bands.frequencies == reading.bands.frequencies
    for part in ("energies", "noises", "samples"):
        assert (getattr(back.bands, part) == getattr(reading.bands, part)).all()
    assert back.recorded() | {"sigma": 0} == reading.recorded() | {"made_by": "host:1", "sigma": 0}
    with pytest.raises(AttributeError):
        back.nonesuch  # noqa: B018


@pytest.mark.parametrize(
    "kind",
    ["os:system", "subprocess:Popen", "bluesky_autofocus.session:Session", "bluesky_autofocus.records:math"],
)
def test_nothing_is_built_but_values_of_this_package(kind):
    with pytest.raises(ValueError, match="a reading holds no"):
        decode_reading(json.dumps({"is": kind, "fields": {}, "value": "true"}))


@pytest.mark.parametrize("text", ["nonsense", "{}", "[]", "3", '{"is": "bluesky_autofocus.records:Reading"}'])
def test_what_is_no_reading_is_an_error(text):
    with pytest.raises(ValueError):
        decode_reading(text)


def test_documents_come_back_as_they_were():
    frame = np.arange(12, dtype=np.uint16).reshape(3, 4)
    doc = {"uid": "a", "data": {"camera_image": frame, "z": np.float64(0.1), "text": "é"}, "n": [1, 2, None]}
    back = unpack(pack(doc))
    assert (back["data"].pop("camera_image") == doc["data"].pop("camera_image")).all()
    assert back == doc


def test_nothing_is_unpickled():
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    for message in (pickle.dumps(Trap()), pack({"trap": Trap()})):
        try:
            unpack(message)
        except ValueError:
            continue
    with pytest.raises(ValueError, match="no array of object"):
        unpack(pack({"__ndarray__": ["|O", [1], pickle.dumps(Trap())]}))


def test_settings_differ_by_what_readings_depend_on():
    assert settings_of(SharpnessAnalysis()) == settings_of(SharpnessAnalysis())
    assert settings_of(SharpnessAnalysis()) != settings_of(SharpnessAnalysis(full_scale=4095))
