"""Labelling in a terminal: pictures of characters, and single keys."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.cli._labelling._session import Labelling

__all__ = ["blocks", "in_terminal"]

COLUMNS, ROWS = 60, 30
"""Size of a picture in characters; a character is two pixels, one above the other."""

GREYS = 232, 24
"""First of the grey colours of terminals, and their number."""

CUBE = 16
"""First of the 216 other colours of terminals: six levels of red, green and blue each."""

HELP = "x unusable   u back   z whole frame or its centre   q finish"


def in_terminal(labelling: Labelling, screen: Any) -> None:
    """Show one thing after the other as characters; read keys until the person is finished."""
    view = TerminalView(labelling, screen)
    with pressed_keys() as keys:
        view.draw()
        for key in keys:
            if key == "q":
                break
            view.press(key)
            view.draw()
    screen.write("\n")


class TerminalView:
    """One picture on the screen of a terminal.

    Parameters
    ----------
    labelling : Labelling
        What is shown and where labels go.
    screen : text file
        A terminal with 256 colours.
    """

    def __init__(self, labelling: Labelling, screen: Any) -> None:
        self.labelling, self.screen = labelling, screen
        self.at, self.whole = 0, True
        self.indices = [shown.first for shown in labelling.shown]
        self.answers = {str(number): number - 1 for number in range(1, len(labelling.choices) + 1)}
        named = [f"{number} {choice}" for number, choice in enumerate(labelling.choices, 1)]
        self.help = "   ".join([*(named or ["left/right plane", "Enter in focus"]), HELP])
        self.true_colour = os.environ.get("COLORTERM") in ("truecolor", "24bit")

    def press(self, key: str) -> None:
        """Do what a key asks for."""
        if key == "u":
            self.at = max(self.at - 1, 0)
        elif key == "z":
            self.whole = not self.whole
        elif self.at < len(self.indices):
            index, last = self.indices[self.at], len(self.labelling.shown[self.at].captions) - 1
            if key in ("left", "right"):
                self.indices[self.at] = min(max(index + (1 if key == "right" else -1), 0), last)
            elif key == "x":
                self._answer(None)
            elif key in self.answers:
                self._answer(self.answers[key])
            elif key in ("enter", " ") and not self.answers:
                self._answer(index)

    def _answer(self, answer: int | None) -> None:
        self.labelling.record(self.at, answer)
        self.at += 1

    def draw(self) -> None:
        """Write the screen anew."""
        self.screen.write("\x1b[2J\x1b[H")  # an empty one
        if self.at == len(self.indices):
            things = self.labelling.things
            self.screen.write(f"all {len(self.indices)} {things} are labelled\nu back   q finish\n")
        else:
            shown, index = self.labelling.shown[self.at], self.indices[self.at]
            said = self.labelling.said(self.at)
            heads = [self.labelling.title(self.at), shown.captions[index], said and f"[{said}]"]
            pictured = blocks(shown.picture(index), self.whole, self.true_colour)
            self.screen.write("\n".join(["   ".join(filter(None, heads)), *pictured, self.help, ""]))
        self.screen.flush()


@contextlib.contextmanager
def pressed_keys() -> Iterator[Iterator[str]]:
    """Read single keys from the terminal while this is open.

    Yields
    ------
    iterator of str
        Characters, and "left", "right", "enter". It ends where the input does.

    Raises
    ------
    ValueError
        If there is no terminal.
    """
    if not sys.stdin.isatty():
        raise ValueError("--terminal reads single keys: standard input must be a terminal")
    if sys.platform == "win32":
        yield _keys_on_windows()
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)  # Ctrl-C still interrupts
    try:
        yield _keys_of(lambda: os.read(terminal, 64).decode(errors="replace"))
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


NAMED = {
    "\x1b[D": "left",
    "\x1b[C": "right",
    "\x1bOD": "left",
    "\x1bOC": "right",
    "\n": "enter",
    "\r": "enter",
}
"""What terminals send for keys without a character of their own."""


def _keys_of(read: Callable[[], str]) -> Iterator[str]:
    while text := read():
        for found in re.finditer(r"\x1b(?:[\[O][0-9;]*[A-Za-z~])?|.|\n", text):
            yield NAMED.get(found[0], found[0])


ARROWS_ON_WINDOWS = {"K": "left", "M": "right"}


def _keys_on_windows() -> Iterator[str]:
    import msvcrt

    read: Callable[[], str] = msvcrt.getwch  # type: ignore[attr-defined]
    while True:
        key = read()
        if key == "\x03":
            raise KeyboardInterrupt
        if key in "\x00\xe0":  # of two characters the second says which key it is
            yield ARROWS_ON_WINDOWS.get(read(), "")
        else:
            yield NAMED.get(key, key)


def blocks(picture: NDArray[np.uint8], whole: bool = True, true_colour: bool = False) -> list[str]:
    """Return lines of text that show a picture on a terminal with 256 colours.

    Parameters
    ----------
    picture : numpy.ndarray
        Shape (H, W) or (H, W, 3).
    whole : bool
        Shrink all of it; else its centre, pixel by pixel, where fine structure can be seen.
    true_colour : bool
        Whether the terminal shows 24 bits of colour.
    """
    import cv2

    height, width = picture.shape[:2]
    if whole:
        scale = min(COLUMNS / width, 2 * ROWS / height)
        size = max(1, round(width * scale)), max(2, 2 * round(height * scale / 2))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    else:
        top, left = max(0, height // 2 - ROWS), max(0, (width - COLUMNS) // 2)
        picture = picture[top : top + 2 * ROWS, left : left + COLUMNS]
        picture = picture[: len(picture) // 2 * 2]
    colours = _colours(picture, true_colour)
    return [
        "".join(f"\x1b[38;{up};48;{down}m▀" for up, down in zip(upper, lower, strict=True)) + "\x1b[0m"
        for upper, lower in zip(colours[::2], colours[1::2], strict=True)
    ]


def _colours(picture: NDArray[np.uint8], true_colour: bool) -> list[list[str]]:
    """Return what terminals call the colours of the pixels."""
    levels = picture.astype(int)
    if picture.ndim == 2:
        first, count = GREYS
        numbers = first + levels * count // 256
    elif true_colour:
        return [[f"2;{red};{green};{blue}" for red, green, blue in row] for row in levels]
    else:
        # the levels of the cube are 0, 95, 135, 175, 215 and 255
        sixths = np.where(levels < 48, 0, np.where(levels < 115, 1, (levels - 35) // 40))
        numbers = CUBE + sixths @ (36, 6, 1)
    return [[f"5;{number}" for number in row] for row in numbers]
