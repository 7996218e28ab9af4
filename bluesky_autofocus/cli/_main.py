"""Parse the command line and hand over to a verb."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bluesky_autofocus import __version__
from bluesky_autofocus.cli._answering import add_analyse_remote
from bluesky_autofocus.cli._checking import add_check, add_focus
from bluesky_autofocus.cli._interrupting import INTERRUPTED
from bluesky_autofocus.cli._model_options import add_predict, add_refocus, add_train

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    What the user got wrong is one line on standard error and status 2.
    """
    options = _parser().parse_args(arguments)
    from bluesky_autofocus.cli import _verbs

    try:
        return getattr(_verbs, options.verb.replace("-", "_") + "_")(options)
    except _verbs.USER_ERRORS as error:
        print(f"bluesky-autofocus: {error}", file=sys.stderr)  # noqa: T201 - the command line
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bluesky-autofocus", description="Autofocus for light and electron microscopes, on bluesky."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="focus a simulated SEM from badly blurred and write a report")
    demo.add_argument("--report", type=Path, default=Path("focus-report.html"), help="the page to write")
    demo.add_argument("--seed", type=int, default=0, help="of the specimen and the noise")
    _add_catalog(demo)
    _add_json(demo)

    shell = verbs.add_parser("shell", help="open an IPython session with an instrument connected")
    shell.add_argument("--config", type=Path, metavar="FILE", help="that describes it, in place of its name")
    instruments = shell.add_subparsers(dest="instrument", metavar="INSTRUMENT")
    sem = instruments.add_parser("sem", help="a simulated SEM")
    sem.add_argument("--scene", default="grains", help="what the specimen looks like")
    sem.add_argument("--image", type=Path, help="a micrograph of your own as the specimen")
    sem.add_argument("--seed", type=int, default=0, help="of the specimen and the noise")
    sem.add_argument("--dwell-us", type=float, default=1.0, help="dwell time a pixel")
    _add_catalog(sem)
    microscope = instruments.add_parser("microscope", help="a simulated microscope with an LED array")
    microscope.add_argument("--kind", default="cells", help="what is on the slide (cells, tissue, empty)")
    microscope.add_argument("--seed", type=int, default=0, help="of the slide and the noise")
    microscope.add_argument("--frame-px", type=int, default=2048, help="rows and columns of a frame")
    microscope.add_argument("--z-um", type=float, default=15.0, help="where the focus axis stands at first")
    microscope.add_argument(
        "--rotation-deg", type=float, help="turn the LED array, so that calibrate_leds has something to find"
    )
    _add_catalog(microscope)
    cells = instruments.add_parser("cells", help="a simulated 60x microscope over living cells")
    cells.add_argument("--seed", type=int, default=0, help="of the slide and the noise")
    cells.add_argument("--frame-px", type=int, default=512, help="rows and columns of a frame")
    cells.add_argument("--defocus-um", type=float, default=1.2, help="how far above focus it stands at first")
    cells.add_argument("--drift-um-min", type=float, default=0.0, help="how fast focus drifts")
    cells.add_argument("--wander-um", type=float, default=0.0, help="how far cells stray in a minute")
    _add_catalog(cells)
    smear = instruments.add_parser("smear", help="a simulated microscope over a stained smear, in colour")
    smear.add_argument("--seed", type=int, default=0, help="of the slide and the noise")
    smear.add_argument("--frame-px", type=int, default=900, help="rows and columns of a frame")
    smear.add_argument(
        "--defocus-um", type=float, default=40.0, help="how far above focus it stands at first"
    )
    smear.add_argument("--transfer-s", type=float, default=0.015, help="time until a frame is there")
    _add_catalog(smear)
    nuclei = instruments.add_parser("nuclei", help="a simulated fluorescence microscope over stained nuclei")
    nuclei.add_argument("--seed", type=int, default=0, help="of the slide and the noise")
    nuclei.add_argument("--frame-px", type=int, default=512, help="rows and columns of a frame")
    nuclei.add_argument(
        "--defocus-um", type=float, default=22.0, help="how far above focus the axis stands at first"
    )
    _add_catalog(nuclei)
    replay = instruments.add_parser("replay", help="a recorded focus stack")
    replay.add_argument("--stack", type=Path, required=True, help="a TIFF, or a folder of images")
    _add_stack_options(replay)
    _add_catalog(replay)

    add_check(verbs, _add_catalog, _add_json)
    add_focus(verbs, _add_catalog, _add_json)

    attempt = verbs.add_parser("try", help="run a focusing method on a recorded focus stack")
    attempt.add_argument("stack", type=Path, help="a TIFF, or a folder of images")
    attempt.add_argument("--config", type=Path, metavar="FILE", help="whose [focus] says what is not given")
    attempt.add_argument("--method", help="which method (search, brent, sweep, map; default: search)")
    attempt.add_argument(
        "--start-um",
        type=float,
        action="append",
        help="where to start; may be given several times (by default five starts over the stack)",
    )
    attempt.add_argument("--metric", help="sharpness metric")
    attempt.add_argument("--range-um", type=float, help="search so far about the start (default: all)")
    attempt.add_argument("--dof-um", type=float, help="depth of field, where it is known")
    attempt.add_argument("--budget", type=int, help="most exposures")
    attempt.add_argument("--record", action="store_true", help="keep the runs in the catalogue")
    _add_stack_options(attempt)
    _add_catalog(attempt)
    _add_json(attempt)

    analyse = verbs.add_parser("analyse", help="score the frames of a recorded run again")
    analyse.add_argument("run", help="uid, its first characters, scan_id, or -1 for the newest")
    analyse.add_argument("--metric", help="sharpness metric")
    _add_catalog(analyse)
    _add_json(analyse)

    add_analyse_remote(verbs)

    collect = verbs.add_parser("collect", help="record focal stacks of many fields of a simulated slide")
    collect.add_argument("--fields", type=int, default=40, help="how many fields")
    collect.add_argument(
        "--instrument",
        choices=("microscope", "smear"),
        default="microscope",
        help="with an LED array, or in colour over a stained smear",
    )
    collect.add_argument(
        "--kind", help="what is on the slide of the microscope (cells, tissue, empty; default: cells)"
    )
    collect.add_argument("--sample", help="name of the specimen (default: kind and seed)")
    collect.add_argument("--seed", type=int, default=0, help="of the slide and the noise")
    collect.add_argument(
        "--frame-px", type=int, help="rows and columns of a frame (default: 512, of a smear 900)"
    )
    collect.add_argument(
        "--range-um",
        type=float,
        help="planes lie so far to either side (default: 30, of a smear from -15 to 27)",
    )
    collect.add_argument("--step-um", type=float, default=1.0, help="distance of the planes")
    collect.add_argument(
        "--pattern",
        action="append",
        metavar="PATTERN",
        help="an illumination; may be given several times (default: half_annulus_top and one LED at NA 0.4)",
    )
    collect.add_argument(
        "--resume", metavar="ID", help="add what is missing of a collection; no options beside"
    )
    _add_catalog(collect)
    _add_json(collect)

    label = verbs.add_parser("label", help="show recorded frames, record what a person says of their focus")
    label.add_argument("run", help="uid, its first characters, scan_id, or -1 for the newest")
    label.add_argument(
        "--classes", action="store_true", help="sort the frames into classes of focus, not planes of stacks"
    )
    label.add_argument("--port", type=int, default=0, help="of the page, by default a free one")
    label.add_argument("--no-browser", action="store_true", help="do not open the page")
    label.add_argument("--terminal", action="store_true", help="show coarse pictures here, without a page")
    label.add_argument("--labeller", metavar="NAME", help="who says so (default: your user name)")
    label.add_argument(
        "--field",
        type=int,
        nargs="+",
        action="extend",
        metavar="N",
        help="only these fields; may be given several times",
    )
    label.add_argument("--relabel", action="store_true", help="show what is labelled already too")
    _add_catalog(label)
    _add_json(label)

    add_predict(verbs, _add_json)
    _add_catalog(add_refocus(verbs, _add_json))
    add_train(verbs, _add_catalog, _add_json)

    dose = verbs.add_parser("dose", help="tell what each field was exposed to, over recorded runs")
    dose.add_argument("run", nargs="*", help="uid, its first characters, scan_id, or -1 (default: all runs)")
    dose.add_argument(
        "--key", action="append", metavar="KEY", help="that says where; may be given several times"
    )
    dose.add_argument("--field-um", type=float, help="side of a field")
    _add_catalog(dose)
    _add_json(dose)

    report = verbs.add_parser("report", help="write a self-contained HTML page about a run")
    report.add_argument("run", help="uid, its first characters, scan_id, or -1 for the newest")
    report.add_argument("--output", type=Path, help="the page to write")
    _add_catalog(report)

    resume = verbs.add_parser("resume", help="go on with a tile scan or a time-lapse that ended early")
    resume.add_argument("run", help="any run of it: uid, its first characters, scan_id, or -1 for the newest")
    resume.add_argument("--marked", action="store_true", help="visit tiles again whose focus is doubtful")
    _add_catalog(resume)
    _add_json(resume)

    prune = verbs.add_parser("prune", help="delete frames of recorded runs, and leave all else")
    prune.add_argument("run", nargs="*", help="uid, its first characters, scan_id, or -1 for the newest")
    prune.add_argument(
        "--keep", required=True, choices=("all", "in-focus", "readings"), help="which frames are to stay"
    )
    prune.add_argument(
        "--older-than", type=float, metavar="DAYS", help="only runs of this age; all of them if none is named"
    )
    prune.add_argument("--dry-run", action="store_true", help="only tell what would go")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    prune.add_argument(
        "--referred", action="store_true", help="also frames that other runs refer to, as labels do"
    )
    _add_catalog(prune)
    _add_json(prune)

    serve = verbs.add_parser("serve", help="serve the catalogue, and a page that shows the run that goes on")
    serve.add_argument("--port", type=int, default=0, help="of the catalogue, by default a free one")
    serve.add_argument(
        "--listen", default="127.0.0.1", help="which network the catalogue listens to (default: this machine)"
    )
    serve.add_argument(
        "--keys", type=Path, metavar="FILE", help="keys to write and to read with; made if it is not there"
    )
    serve.add_argument("--monitor-port", type=int, default=0, help="of the page, by default a free one")
    serve.add_argument(
        "--address", default="127.0.0.1", help="which network the page listens to (default: this machine)"
    )
    serve.add_argument("--run", help="show this run on the page, and no other")
    _add_catalog(serve)
    return parser


def _add_catalog(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalog",
        help="folder, Tiled address or profile:NAME (default: $BLUESKY_AUTOFOCUS_CATALOG or your data)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print results as JSON, one object a line")


def _add_stack_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step-um", type=float, help="distance between planes, if the stack does not say")
    parser.add_argument("--channel", type=int, help="which channel of a multi-channel stack")
