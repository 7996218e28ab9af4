"""A reading that says where it was made."""

import dataclasses
import math
from typing import Any

from bluesky_autofocus.records import Reading

__all__ = ["LOCAL", "MadeBy"]

LOCAL = "local"
"""What readings of the fallback are said to be made by."""


@dataclasses.dataclass(frozen=True)
class MadeBy(Reading):
    """A reading that says where it was made, and has whatever else its kind has.

    Parameters
    ----------
    inner : Reading
        As the analysis gave it.
    made_by : str
        ``HOST:PROCESS`` of a worker, or ``local``.
    """

    inner: Reading = dataclasses.field(default_factory=lambda: Reading("", math.nan))
    made_by: str = LOCAL

    @classmethod
    def of(cls, reading: Reading, made_by: str) -> "MadeBy":
        """Return a reading with who made it."""
        fields = {field.name: getattr(reading, field.name) for field in dataclasses.fields(Reading)}
        return cls(**fields, inner=reading, made_by=made_by)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def recorded(self) -> dict[str, Any]:
        """Return what is recorded of the reading, and ``made_by``."""
        return {**self.inner.recorded(), "made_by": self.made_by}
