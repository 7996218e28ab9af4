"""Analyses in another process, on another machine: documents go there over 0MQ, readings come back.

The transport is bluesky's own: its `Publisher` and `RemoteDispatcher`, with its `Proxy` between them. It
needs pyzmq: ``pip install 'bluesky-autofocus[remote]'``.
"""

from bluesky_autofocus.remote._answering import Worker
from bluesky_autofocus.remote._asking import RemoteAnalysis
from bluesky_autofocus.remote._made_by import MadeBy
from bluesky_autofocus.remote._transport import IN_ADDRESS, OUT_ADDRESS, Addresses, start_proxy

__all__ = [
    "IN_ADDRESS",
    "OUT_ADDRESS",
    "Addresses",
    "MadeBy",
    "RemoteAnalysis",
    "Worker",
    "start_proxy",
]
