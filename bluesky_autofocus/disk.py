"""How much room is left on the disk that a folder is on, and what is raised where that is not enough."""

import errno
import math
import shutil
from pathlib import Path

__all__ = ["DiskFullError", "existing", "free_bytes", "size"]

_UNITS = ("kB", "MB", "GB", "TB")


class DiskFullError(OSError):
    """There is not enough room on a disk; the message names what is there and what is needed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


def existing(directory: Path | str) -> Path:
    """Return a folder, or the nearest one above it that is there: frames make their own when they come."""
    directory = Path(directory).absolute()
    return next(folder for folder in (directory, *directory.parents) if folder.is_dir())


def free_bytes(directory: Path | str) -> int:
    """Return how many bytes may still be written on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(existing(directory)).free


def size(n_bytes: float) -> str:
    """Return a number of bytes for a person: ``"8.4 MB"``, in powers of 1000."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    power = min(int(math.log10(n_bytes) / 3), len(_UNITS))
    return f"{n_bytes / 1000**power:.1f} {_UNITS[power - 1]}"
