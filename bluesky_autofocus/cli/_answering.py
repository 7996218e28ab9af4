# ruff: noqa: T201 - this is the command line: printing is what it is for
"""What `analyse-remote` does: an analysis for an instrument in another process."""

import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

__all__ = ["add_analyse_remote", "serve_analysis"]

_KINDS = ("sharpness", "single-shot", "key-frame", "hh-net")
_OF_KIND = {
    "metric": ("sharpness",),
    "weights": ("single-shot", "key-frame", "hh-net"),
    "full_scale": ("sharpness", "single-shot", "key-frame"),
    "dark_level": ("sharpness", "single-shot", "key-frame"),
}
"""Options that only some of them have."""


def add_analyse_remote(verbs: Any) -> None:
    """Add the verb that serves an analysis."""
    verb = verbs.add_parser("analyse-remote", help="analyse the frames of an instrument in another process")
    verb.add_argument("analysis", choices=_KINDS, help="what makes readings of frames")
    verb.add_argument("--name", help="of the analysis, where the instrument's has another than its kind")
    verb.add_argument("--metric", help="sharpness metric")
    verb.add_argument("--weights", type=Path, help="a model file (default: what comes with the package)")
    verb.add_argument("--full-scale", type=float, help="grey level at which the camera saturates")
    verb.add_argument("--dark-level", type=float, help="mean grey level without light")
    verb.add_argument("--image-key", help="which image, where there are several cameras")
    verb.add_argument("--in-address", help="of the 0MQ proxy, for readings (default: 127.0.0.1:5577)")
    verb.add_argument("--out-address", help="of the 0MQ proxy, for documents (default: 127.0.0.1:5578)")
    verb.add_argument(
        "--proxy", action="store_true", help="run the proxy in this process, bound to these addresses"
    )
    verb.add_argument("--client-secret", type=Path, help="CURVE key of this process, if the proxy wants one")
    verb.add_argument("--server-public", type=Path, help="CURVE public key of the proxy")


def serve_analysis(options: Namespace) -> int:
    """Answer until interrupted; return the exit status."""
    from bluesky_autofocus.remote import IN_ADDRESS, OUT_ADDRESS, Addresses, Worker, start_proxy

    if (options.client_secret is None) != (options.server_public is None):
        raise ValueError("--client-secret and --server-public go together")
    if options.proxy and options.client_secret is not None:
        raise ValueError("a proxy that wants keys is run by bluesky-0MQ-proxy, without --proxy")
    analysis = _made(options)
    to = Addresses(
        options.in_address or IN_ADDRESS, options.out_address or OUT_ADDRESS, curve=_curve(options)
    )
    try:
        if options.proxy:
            to = start_proxy(to.in_address, to.out_address)
        worker = Worker(analysis, to)
    except ImportError as error:
        raise ValueError(str(error)) from error
    signal.signal(signal.SIGTERM, lambda *_: worker.end())
    print(
        f"{worker.name} makes readings of {analysis.name!r}: documents from {to.out_address}, readings to "
        f"{to.in_address}. Ctrl-C ends.",
        flush=True,
    )
    try:
        worker.serve()
    except KeyboardInterrupt:
        pass
    return 0


def _curve(options: Namespace) -> Any:
    if options.client_secret is None:
        return None
    from bluesky.callbacks.zmq import ClientCurve

    return ClientCurve(options.client_secret, options.server_public)


def _made(options: Namespace) -> Any:
    from bluesky_autofocus.callbacks import (
        FocusClassAnalysis,
        KeyFrameAnalysis,
        SharpnessAnalysis,
        SingleShotAnalysis,
    )

    kind = options.analysis
    for option, kinds in _OF_KIND.items():
        if getattr(options, option) is not None and kind not in kinds:
            raise ValueError(f"--{option.replace('_', '-')} has no effect on {kind}")
    wanted = {
        name: getattr(options, name)
        for name in ("name", "image_key", "full_scale", "dark_level")
        if getattr(options, name) is not None
    }
    if kind == "sharpness":
        return SharpnessAnalysis(**({"metric": options.metric} if options.metric else {}), **wanted)
    weights = () if options.weights is None else (options.weights,)
    model: Any
    if kind == "single-shot":
        from bluesky_autofocus.models.single_shot import SingleShotModel

        return SingleShotAnalysis(SingleShotModel.load(*weights), **wanted)
    if kind == "key-frame":
        from bluesky_autofocus.models.key_frame import KeyFrameModel

        model = KeyFrameModel.load(*weights)
        return KeyFrameAnalysis(model, **wanted)
    from bluesky_autofocus.models.hh_net import HHNetModel

    return FocusClassAnalysis(HHNetModel.load(*weights), **wanted)
