"""The seven classes of focus, and which defocus in um each of them means.

Defocus is the position of the image plane minus that of focus: positive is too far from the specimen. The
classes, and the distance index that each is given, are those of Ge et al. (sections 2.1 and 3.2): "from far
to close, 4 to -2". The paper gives no lengths; a `ClassTable` adds them.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["INDICES", "NAMES", "ClassTable", "class_of", "index_of_class", "name_of"]

NAMES = (
    "totally blurred",
    "out of focus III",
    "out of focus II",
    "out of focus I",
    "in focus",
    "too close I",
    "too close II",
)
"""Of the classes, in the order in which a network gives their probabilities."""

INDICES = (4, 3, 2, 1, 0, -1, -2)
"""The distance index of each class, in the same order."""


def class_of(index: int) -> int:
    """Return the place of a distance index among the probabilities: 4 comes first, at 0.

    Raises
    ------
    ValueError
        If there is no such index.
    """
    if index not in INDICES:
        raise ValueError(f"the distance index is {index!r}: expected one of {', '.join(map(str, INDICES))}")
    return INDICES.index(index)


def index_of_class(number: int) -> int:
    """Return the distance index of the class at a place among the probabilities.

    Raises
    ------
    ValueError
        If there is no such class.
    """
    if number not in range(len(INDICES)):
        raise ValueError(f"the class is {number!r}: expected 0 to {len(INDICES) - 1}")
    return INDICES[number]


def name_of(index: int) -> str:
    """Return what the class of a distance index is called."""
    return NAMES[class_of(index)]


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Which defocus each distance index means.

    An edge belongs to the class above it. Index 4 has no end: what is totally blurred is so at any distance.

    Parameters
    ----------
    edges_um : sequence of float
        Seven, ascending: where the classes of index -2, -1, 0, 1, 2, 3 and 4 begin. The first one is the
        limit; nearer to the specimen there is no class. 0 lies inside the class in focus.

    Raises
    ------
    ValueError
        If the edges are not such.
    """

    edges_um: Sequence[float]

    def __post_init__(self) -> None:
        edges = tuple(float(edge) for edge in self.edges_um)
        if len(edges) != len(INDICES):
            raise ValueError(f"edges_um has {len(edges)} edges: expected {len(INDICES)}, one for each class")
        if not all(map(math.isfinite, edges)):
            raise ValueError(f"edges_um is {edges}: expected finite numbers")
        if not all(low < high for low, high in zip(edges, edges[1:], strict=False)):
            raise ValueError(f"edges_um is {edges}: expected each edge above the one before")
        if not edges[2] < 0 < edges[3]:
            raise ValueError(f"edges_um is {edges}: expected 0 between the third and the fourth edge")
        object.__setattr__(self, "edges_um", edges)

    @classmethod
    def of_width(cls, width_um: float, limit_um: float | None = None) -> "ClassTable":
        """Make a table of classes of one width, in um: index i from (i - 0.5) to (i + 0.5) widths.

        Index 4 is all above 3.5 widths, and index -2 all below -1.5 widths down to the limit.

        Parameters
        ----------
        width_um : float
            Of a class.
        limit_um : float, optional
            The least defocus of index -2, below 0. By default its class is as wide as the others.

        Raises
        ------
        ValueError
            If the width is no positive number, or the limit lies within another class.
        """
        if not (math.isfinite(width_um) and width_um > 0):
            raise ValueError(f"width_um is {width_um!r}: expected a positive number")
        if limit_um is None:
            limit_um = -2.5 * width_um
        if not (math.isfinite(limit_um) and limit_um < -1.5 * width_um):
            raise ValueError(f"limit_um is {limit_um!r}: expected less than {-1.5 * width_um:g}")
        return cls((limit_um, *((index - 0.5) * width_um for index in reversed(INDICES[:-1]))))

    @property
    def limit_um(self) -> float:
        """The least defocus that has a class."""
        return self.edges_um[0]

    def index_of(self, defocus_um: float) -> int:
        """Return the distance index of a defocus.

        Raises
        ------
        ValueError
            If it is no finite number, or below the limit.
        """
        if not (math.isfinite(defocus_um) and defocus_um >= self.limit_um):
            raise ValueError(f"defocus_um is {defocus_um!r}: expected at least {self.limit_um:g}")
        return INDICES[-bisect.bisect_right(self.edges_um, defocus_um)]

    def defocus_of(self, index: int) -> float:
        """Return the defocus in the middle of a class, in um.

        Index 4, which has no middle, is taken for as wide as index 3. The class in focus has its middle at 0
        only where its edges lie symmetrically.
        """
        low, high = self._sides(class_of(index))
        return (low + high) / 2

    def near_edge(self, defocus_um: float, share: float = 0.05) -> bool:
        """Return whether a defocus lies so near to an edge between classes that either would do.

        Parameters
        ----------
        defocus_um : float
            At least the limit, which is not itself an edge between classes.
        share : float
            How near, as a share of the width of the class that it lies in, from 0 to 0.5.

        Raises
        ------
        ValueError
            If the defocus has no class, or there is no such share.
        """
        if not 0 <= share <= 0.5:
            raise ValueError(f"share is {share!r}: expected 0 to 0.5")
        low, high = self._sides(class_of(self.index_of(defocus_um)))
        return min(abs(defocus_um - edge) for edge in self.edges_um[1:]) < share * (high - low)

    def off_edge(self, defocus_um: float) -> bool:
        """Return whether a defocus has a class, and does not lie near its edges as `near_edge` says."""
        return defocus_um >= self.limit_um and not self.near_edge(defocus_um)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a model card, JSON-able."""
        return {"edges_um": list(self.edges_um)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "ClassTable":
        """Make it again from what `to_dict` returned.

        Raises
        ------
        ValueError
            If the record holds anything else, or no such edges.
        """
        if set(record) != {"edges_um"}:
            raise ValueError(f"a class table has {sorted(record)!r}: expected ['edges_um']")
        return cls(record["edges_um"])

    def _sides(self, number: int) -> tuple[float, float]:
        """Return where a class begins and ends, index 4 as wide as the one below it."""
        edges = (*self.edges_um, 2 * self.edges_um[-1] - self.edges_um[-2])
        first = len(INDICES) - 1 - number
        return edges[first], edges[first + 1]
