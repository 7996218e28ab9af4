"""Which solvers are still at work; to look through all objects takes long in a process with TensorFlow."""

import weakref

from greenlet import greenlet

from bluesky_autofocus.search import _inverted


class _Known(greenlet):
    """A greenlet that can be found as long as there is one."""

    def __init__(self, *args):
        super().__init__(*args)
        _known.add(self)


_known: "weakref.WeakSet[_Known]" = weakref.WeakSet()


def know_solvers(monkeypatch) -> None:
    """Have those that begin from now on be known."""
    monkeypatch.setattr(_inverted, "greenlet", _Known)


def live_solvers() -> list[greenlet]:
    """Return those that are not at their end."""
    return [one for one in _known if one and one.parent]
