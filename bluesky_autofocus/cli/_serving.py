# ruff: noqa: T201 - this is the command line: printing is what it is for
"""What `serve` does: the catalogue with Tiled's web interface, and the monitor page."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from bluesky_autofocus.callbacks import replayed
from bluesky_autofocus.catalog import Catalog, SpoolTail

__all__ = ["serve"]


def serve(options: Namespace, catalog: Catalog, find_run: Callable[[Any, str], Any]) -> int:
    """Serve until interrupted; return the exit status."""
    if not catalog.web_page:
        raise ValueError(f"{options.catalog} is served already: serve takes a folder or a database")
    print(f"the catalogue {catalog.folder} is served at\n\n    {catalog.web_page}\n", flush=True)
    if options.keys is not None and catalog.serving:
        for may, address in catalog.addresses.items():
            print(f"--catalog to {may}:\n\n    {address}\n", flush=True)
    if not catalog.serving:
        print("by another process that has it open; it ends when that does", flush=True)
    monitor = _monitor(options, catalog, find_run)
    if monitor is None and not catalog.serving:
        return 0
    try:
        print("An address holds its key: whoever has that of the catalogue can read and write.", flush=True)
        print("Ctrl-C ends.", flush=True)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    finally:
        if monitor is not None:
            monitor.close()


def _monitor(options: Namespace, catalog: Catalog, find_run: Callable[[Any, str], Any]) -> Any:
    """Return the page that follows the folder; None where it cannot be shown, having told why."""
    from bluesky_autofocus.monitor import Monitor

    def recorded(uid: str) -> Iterable[tuple[str, dict[str, Any]]]:
        return replayed(catalog.client[uid])[0]

    spool = catalog.folder / "spool"
    run = None if options.run is None else find_run(catalog.client, options.run)
    if run is None and len(catalog.client):
        run = catalog.client[-1]
    uid = None if run is None else run.metadata["start"]["uid"]
    tail = SpoolTail(spool, recorded, uid=None if options.run is None else uid)
    try:
        monitor = Monitor(port=options.monitor_port, address=options.address, fetch=tail.documents)
    except ImportError as error:
        if options.run is not None:
            raise ValueError(str(error)) from error
        print(f"{error}\n", flush=True)
        return None
    if uid is not None and not list(spool.glob(f"*/{uid}.jsonl")):
        # until another begins, that of before is to be seen
        for name, doc in recorded(uid):
            monitor(name, doc)
    print(f"The runs of this folder are to be seen at\n\n    {monitor.url}\n", flush=True)
    return monitor
