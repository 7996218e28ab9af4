"""Options of the verbs about networks; what these do is loaded when they are used."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bluesky_autofocus.optics import LightOptics

__all__ = ["add_predict", "add_train"]

AddOptions = Callable[[argparse.ArgumentParser], None]

_OPTICS = {
    "--pixel-size-um": "pixel in the sample plane, binning included",
    "--na": "numerical aperture of the objective",
    "--wavelength-um": "of the light, in vacuum",
    "--refractive-index": "of the immersion",
}

_CLUSTER = "of a Dask scheduler, tcp://HOST:PORT, whose workers compute the features (default: here)"


def add_predict(verbs: Any, add_json: AddOptions) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser("predict", help="tell the defocus, or the plane in focus, of recorded frames")
    methods = verb.add_subparsers(dest="method", required=True, metavar="METHOD")
    single = methods.add_parser("single-shot", help="from each frame, by a network")
    single.add_argument("frames", type=Path, nargs="+", metavar="FRAME.tif", help="TIFFs of a page or more")
    single.add_argument("--weights", type=Path, help="a model file (default: what comes with the package)")
    _add_options(single, "default: what the model was made for, else checked against it")
    add_json(single)
    two = methods.add_parser("two-led", help="from each two frames under opposite LEDs, without a network")
    two.add_argument(
        "frames",
        type=Path,
        nargs="+",
        metavar="FRAME.tif",
        help="in pairs: under the LED, under the opposite one",
    )
    default = LightOptics()
    _add_options(
        two,
        f"default: {default.pixel_size_um:g} um, NA {default.numerical_aperture:g}, "
        f"{default.wavelength_um:g} um, LED at NA 0.4 and 0 degrees",
    )
    two.add_argument("--bias-um", type=float, default=0.0, help="known constant error, to be taken off")
    two.add_argument(
        "--second-channel",
        type=int,
        help="the opposite LED is of another colour and in this channel of the same frames",
    )
    two.add_argument("--second-wavelength-um", type=float, help="of the opposite LED, where it differs")
    two.add_argument("--camera-offset", type=float, default=100.0, help="grey level without light")
    add_json(two)
    key = methods.add_parser("key-frame", help="which plane of a focal stack is in focus, by a network")
    key.add_argument("frames", type=Path, nargs="+", metavar="STACK", help="TIFFs, or folders of images")
    key.add_argument("--weights", type=Path, help="a model file (default: what comes with the package)")
    key.add_argument("--step-um", type=float, help="distance of the planes, where the stack does not say")
    key.add_argument("--every", type=int, default=1, help="take only every so many planes")
    key.add_argument(
        "--window", type=int, metavar="N", help="look at every N planes in a row (default: at all at once)"
    )
    for option in ("--pixel-size-um", "--na"):
        key.add_argument(option, type=float, help=f"{_OPTICS[option]}; checked against the model's card")
    key.add_argument("--magnification", type=float, help="of the objective; checked against the model's card")
    key.add_argument("--channel", type=int, help="which channel of frames that have several")
    key.add_argument("--full-scale", type=float, help="grey level at which the camera saturates")
    add_json(key)
    smear = methods.add_parser("hh-net", help="the class of focus of colour frames of a stained smear")
    smear.add_argument(
        "frames", type=Path, nargs="+", metavar="FRAME", help="TIFFs of a page or more, or PNGs"
    )
    smear.add_argument("--weights", type=Path, help="a model file (default: what comes with the package)")
    smear.add_argument(
        "--vote", choices=("hard", "linear", "certainty"), default="certainty", help="how patches vote"
    )
    smear.add_argument(
        "--grey", choices=("refuse", "repeat"), default="refuse",
        help="repeat: take a grey frame for one of colours, which tells nothing of the side",
    )  # fmt: skip
    for option in ("--pixel-size-um", "--na"):
        smear.add_argument(option, type=float, help=f"{_OPTICS[option]}; checked against the model's card")
    smear.add_argument("--magnification", type=float, help="of the objective; checked against the card")
    smear.add_argument("--full-scale", type=float, help="grey level at which the camera saturates")
    add_json(smear)


def _add_options(parser: argparse.ArgumentParser, default: str) -> None:
    light = parser.add_argument_group("light", f"how the frames were taken ({default})")
    for option, what in _OPTICS.items():
        light.add_argument(option, type=float, help=what)
    light.add_argument("--led-na", type=float, help="of the LED: sine of its angle to the axis")
    light.add_argument("--led-angle-deg", type=float, help="in the frame, from its columns towards its rows")
    parser.add_argument("--channel", type=int, help="which channel of frames that have several")
    parser.add_argument("--full-scale", type=float, help="grey level at which the camera saturates")


def add_train(verbs: Any, add_catalog: AddOptions, add_json: AddOptions) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser("train", help="train a network from focal stacks in the catalogue")
    networks = verb.add_subparsers(dest="network", required=True, metavar="NETWORK")
    single = networks.add_parser("single-shot", help="defocus from one frame under one off-axis LED")
    single.add_argument(
        "--sample", action="append", help="only of this; may be given several times (default: all there are)"
    )
    single.add_argument("--collection", action="append", help="only of this; may be given several times")
    single.add_argument("--pattern", help="under which LED, where there are stacks under several")
    single.add_argument("--published", action="store_true", help="the network of Pinkard et al. 2019")
    single.add_argument("--output", type=Path, default=Path("single-shot.h5"), help="the model file to write")
    single.add_argument("--patch-px", type=int, default=512, help="side of the patches of a frame")
    single.add_argument(
        "--range-um", type=float, help="defocus that it is to answer for (default: that of most fields)"
    )
    single.add_argument(
        "--axis-sign", type=int, choices=(1, -1), default=1, help="-1: up brings the plane down"
    )
    single.add_argument("--seed", type=int, default=0, help="of everything that is random")
    single.add_argument("--epochs", type=int, help="passes over the frames")
    single.add_argument("--features-folder", type=Path, help="keep the features there, not in memory")
    single.add_argument("--cluster", metavar="ADDRESS", help=_CLUSTER)
    add_catalog(single)
    add_json(single)
    key = networks.add_parser("key-frame", help="which of a few planes is in focus")
    key.add_argument(
        "--run", action="append", metavar="RUN",
        help="labelled focal stacks; may be given several times (default: simulate those of the weights that "
        "come with the package)",
    )  # fmt: skip
    key.add_argument("--person-only", action="store_true", help="only labels that a person gave")
    key.add_argument("--output", type=Path, default=Path("key-frame.h5"), help="the model file to write")
    key.add_argument("--start", type=Path, metavar="WEIGHTS", help="go on from this model")
    key.add_argument("--pixel-size-um", type=float, default=0.108, help=_OPTICS["--pixel-size-um"])
    key.add_argument("--magnification", type=float, default=60.0, help="of the objective")
    key.add_argument("--axis-sign", type=int, choices=(1, -1), default=1, help="-1: up brings the plane down")
    key.add_argument("--steps", type=int, help="of training")
    key.add_argument("--z-reversal", type=float, default=0.0, help="share of cells shown upside down")
    key.add_argument("--seed", type=int, default=0, help="of everything that is random")
    add_catalog(key)
    add_json(key)
    smear = networks.add_parser("hh-net", help="the class of focus of a colour frame of a stained smear")
    smear.add_argument(
        "--run", action="append", metavar="RUN",
        help="frames sorted by eye or with a known focus; may be given several times (default: simulate "
        "those of the weights that come with the package)",
    )  # fmt: skip
    smear.add_argument("--person-only", action="store_true", help="only what a person said of frames")
    smear.add_argument("--output", type=Path, default=Path("hh-net.h5"), help="the model file to write")
    smear.add_argument(
        "--start", type=Path, metavar="WEIGHTS", help="go on from this model, with its classes"
    )
    smear.add_argument("--class-width-um", type=float, help="of each class of focus (default: 6)")
    smear.add_argument("--pixel-size-um", type=float, help=_OPTICS["--pixel-size-um"])
    smear.add_argument("--na", type=float, help=_OPTICS["--na"])
    smear.add_argument("--magnification", type=float, help="of the objective")
    smear.add_argument(
        "--axis-sign", type=int, choices=(1, -1), default=1, help="-1: up brings the plane down"
    )
    smear.add_argument("--steps", type=int, help="of training")
    smear.add_argument("--cluster", metavar="ADDRESS", help=_CLUSTER)
    smear.add_argument(
        "--published", action="store_true", help="the network of Ge et al., on simulated smears"
    )
    smear.add_argument("--width", type=float, help="of the published network, 1 as published (default: 1/8)")
    smear.add_argument("--epochs", type=int, help="of the published network: passes over the patches")
    smear.add_argument("--seed", type=int, default=0, help="of everything that is random")
    add_catalog(smear)
    add_json(smear)
    refocus = networks.add_parser("refocus", help="what a frame that is out of focus looks like in focus")
    refocus.add_argument(
        "--run", action="append", metavar="RUN",
        help="focal stacks with a known focus; may be given several times (default: simulate those of the "
        "weights that come with the package)",
    )  # fmt: skip
    refocus.add_argument("--bbbc006", type=Path, metavar="FOLDER", help="the downloaded BBBC006 instead")
    refocus.add_argument("--most-fields", type=int, help="of BBBC006")
    refocus.add_argument("--modality", help="what kind of frames those of --run are, for the card")
    refocus.add_argument("--person-only", action="store_true", help="only labels that a person gave")
    refocus.add_argument(
        "--axis-sign", type=int, choices=(1, -1), default=1, help="-1: up brings the plane down"
    )
    for option, help_ in {**_OPTICS, "--magnification": "of the objective"}.items():
        refocus.add_argument(option, type=float, help=help_)
    refocus.add_argument(
        "--spherical-waves", type=float, default=0.0, help="aberration of the instrument, waves RMS"
    )
    refocus.add_argument("--start", type=Path, metavar="WEIGHTS", help="go on from this model")
    refocus.add_argument("--published", action="store_true", help="the network with a ResNet-34, one side")
    refocus.add_argument(
        "--width", type=float, help="of the published network, 1 as published (default: 1/8)"
    )
    refocus.add_argument("--features", help="what the published loss compares: 'none', 'random' or a file")
    refocus.add_argument("--steps", type=int, help="of training")
    refocus.add_argument("--output", type=Path, default=Path("refocus.h5"), help="the model file to write")
    refocus.add_argument("--seed", type=int, default=0, help="of everything that is random")
    add_catalog(refocus)
    add_json(refocus)


def add_refocus(verbs: Any, add_json: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    """Add the verb that refocuses; return its parser."""
    verb = verbs.add_parser("refocus", help="make out-of-focus frames in-focus, of TIFF files or of a run")
    verb.add_argument("source", nargs="+", help="TIFF files, or runs in the catalogue: how a uid begins")
    verb.add_argument("--weights", type=Path, help="a model file (default: what comes with the package)")
    verb.add_argument(
        "--method",
        choices=("network", "wiener", "richardson-lucy"),
        default="network",
        help="a network, or a deconvolution",
    )
    verb.add_argument("--defocus-um", type=float, help="distance from focus that a deconvolution is to undo")
    verb.add_argument("--pixel-size-um", type=float, help="of the frames in the sample plane")
    verb.add_argument("--na", type=float, help="numerical aperture of the objective")
    verb.add_argument("--wavelength-um", type=float, help="of the light, for a deconvolution")
    verb.add_argument("--magnification", type=float, help="of the objective")
    verb.add_argument("--full-scale", type=float, help="grey level at which the camera saturates")
    verb.add_argument("--output", type=Path, help="folder for the files (default: beside each file)")
    verb.add_argument("--sigma", action="store_true", help="write the uncertainty of each pixel, too")
    verb.add_argument("--stream", action="append", help="only this one of a run; may be given several times")
    add_json(verb)
    return verb
