"""Documents between processes by bluesky's 0MQ classes, from threads that go on whatever comes.

Publishers and dispatchers connect, only the proxy binds. Each of the three may go and come back: 0MQ connects
again by itself. What was sent while nobody was there is lost, and those who use this know it.
"""

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any

from bluesky_autofocus.remote._wire import pack, unpack

__all__ = ["IN_ADDRESS", "OUT_ADDRESS", "Addresses", "Listener", "Speaker", "start_proxy"]

logger = logging.getLogger(__name__)

IN_ADDRESS = "127.0.0.1:5577"
"""Where a proxy takes documents unless told otherwise: only from this machine."""
OUT_ADDRESS = "127.0.0.1:5578"
"""Where it gives them out."""

Deliver = Callable[[str, dict[str, Any]], object]


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where the proxy is, and by which keys it lets one in.

    Parameters
    ----------
    in_address, out_address : str
        To which documents are published, from which they are dispatched; ``HOST:PORT`` or ``ipc://PATH``.
    curve : bluesky.callbacks.zmq.ClientCurve, optional
        Own secret key and the public one of the proxy. Without it everybody who reaches the ports reads what
        goes on, and can send readings.
    """

    in_address: str = IN_ADDRESS
    out_address: str = OUT_ADDRESS
    curve: Any = None


def _zmq() -> Any:
    try:
        from bluesky.callbacks import zmq
    except ImportError as error:
        raise ImportError("documents travel over 0MQ: pip install 'bluesky-autofocus[remote]'") from error
    return zmq


def start_proxy(in_address: str = "127.0.0.1", out_address: str = "127.0.0.1", **options: Any) -> Addresses:
    """Run bluesky's 0MQ proxy on a thread, for as long as this process lives.

    ``bluesky-0MQ-proxy`` does the same in a process of its own.

    Parameters
    ----------
    in_address, out_address : str
        What to bind; without a port a free one. By default this machine only.
    options
        Of `bluesky.callbacks.zmq.Proxy`: ``in_curve`` and ``out_curve``, without which addresses of other
        networks are open to everybody there.

    Returns
    -------
    Addresses
        With the ports that were taken.
    """
    proxy = _zmq().Proxy(in_address, out_address, **options)
    threading.Thread(target=proxy.start, name="0MQ proxy", daemon=True).start()
    # of the type of the argument where a port was given
    return Addresses(_text(proxy.in_port), _text(proxy.out_port))


def _text(address: str | bytes) -> str:
    return (address.decode() if isinstance(address, bytes) else address).rstrip("\0")


class Speaker:
    """Publishes documents, from any thread.

    Parameters
    ----------
    to : Addresses
    prefix : str
        By which listeners know what is meant for them.
    """

    def __init__(self, to: Addresses, prefix: str) -> None:
        zmq = _zmq()
        self._publisher = zmq.Publisher(
            to.in_address, prefix=prefix.encode(), serializer=pack, curve_config=to.curve
        )
        # a session that ends must not wait for a proxy that is away; bluesky has no option for it
        self._publisher._socket.setsockopt(zmq.zmq.LINGER, 0)  # noqa: SLF001
        self._lock = threading.Lock()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Publish a document; it does not wait for anybody."""
        with self._lock:
            self._publisher(name, doc)

    def close(self) -> None:
        """Stop publishing."""
        with self._lock:
            self._publisher.close()


class Listener:
    """Delivers the documents of one prefix, on a thread of its own, until it is closed.

    Messages that are no documents are dropped. One that makes bluesky's dispatcher give up, or a delivery
    that fails, is logged, and costs no other.

    Parameters
    ----------
    to : Addresses
    prefix : str
        What others publish is ignored.
    deliver : callable
        ``deliver(name, doc)``.
    """

    def __init__(self, to: Addresses, prefix: str, deliver: Deliver) -> None:
        self._to, self._prefix, self._deliver = to, prefix.encode(), deliver
        self._dispatchers = _zmq().RemoteDispatcher
        self._dispatcher: Any = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"0MQ {prefix}", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._dispatcher = self._dispatchers(
                self._to.out_address, prefix=self._prefix, deserializer=unpack, curve_config=self._to.curve
            )
            self._dispatcher.subscribe(self._take)
            if self._closed.is_set():
                self._dispatcher.loop.close()
                return
            try:
                self._dispatcher.start()
            except asyncio.CancelledError:
                return
            except Exception as error:
                logger.warning("a message over 0MQ is no document (%r); listening anew", error)

    def _take(self, name: str, doc: Any) -> None:
        try:
            self._deliver(name, doc)
        except Exception as error:
            logger.warning("a %s document that came over 0MQ was of no use: %r", name, error)

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        while self._thread.is_alive():
            loop = None if self._dispatcher is None else self._dispatcher.loop
            if loop is not None and loop.is_running():
                for task in asyncio.all_tasks(loop):
                    loop.call_soon_threadsafe(task.cancel)
            self._thread.join(timeout=0.05)
