"""What a check concludes: one finding for each property of a device, and what follows for the configuration.

All of it is pure: `assess` makes it of what was measured.
"""

import dataclasses
import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from bluesky_autofocus.commissioning._measured import Measured

__all__ = ["CheckReport", "Finding", "Grade", "Suggestion", "assess", "rounded_up"]


class Grade(StrEnum):
    """How good a thing is, the worst last."""

    OK = "ok"
    UNKNOWN = "not tried"
    WARNING = "warning"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One property of one device.

    Parameters
    ----------
    device : str
        Its name.
    what : str
        Which property: ``backlash (image)``.
    grade : Grade
        How good it is.
    said : str
        A plain sentence or two.
    value, sigma : float
        The measured value and its standard uncertainty, NaN where there is none.
    unit : str
        Of both.
    """

    device: str
    what: str
    grade: Grade
    said: str
    value: float = math.nan
    sigma: float = math.nan
    unit: str = ""

    @property
    def measured(self) -> str:
        """The value with its uncertainty and unit; empty where there is none."""
        if math.isnan(self.value):
            return ""
        sigma = "" if math.isnan(self.sigma) else f" +- {self.sigma:.2g}"
        return f"{self.value:.4g}{sigma} {self.unit}".strip()


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """One key of a configuration.

    Parameters
    ----------
    key : str
        With dots: ``axis.approach.settle_s``.
    value : object
        As it would be written.
    why : str
        One line.
    """

    key: str
    value: Any
    why: str


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a check concludes.

    Parameters
    ----------
    findings : tuple of Finding
        Device by device.
    suggestions : tuple of Suggestion
        For the configuration.
    """

    findings: tuple[Finding, ...]
    suggestions: tuple[Suggestion, ...]

    @property
    def grade(self) -> Grade:
        """The worst of all findings."""
        order = list(Grade)
        return max((finding.grade for finding in self.findings), key=order.index, default=Grade.UNKNOWN)

    def finding(self, what: str) -> Finding:
        """Return the finding about a property.

        Raises
        ------
        KeyError
            If there is none, naming those there are.
        """
        for finding in self.findings:
            if finding.what == what:
                return finding
        raise KeyError(f"no finding {what!r}; there are {[one.what for one in self.findings]}")

    def suggested(self) -> dict[str, Any]:
        """Return the suggestions as tables, as `Configuration.of` takes them."""
        tables: dict[str, Any] = {}
        for suggestion in self.suggestions:
            *path, key = suggestion.key.split(".")
            table = tables
            for name in path:
                table = table.setdefault(name, {})
            table[key] = suggestion.value
        return tables

    def recorded(self) -> dict[str, Any]:
        """Return it JSON-able; numbers that are none are None."""
        return {
            "grade": str(self.grade),
            "findings": [_without_nan(dataclasses.asdict(one)) for one in self.findings],
            "suggestions": [dataclasses.asdict(one) for one in self.suggestions],
        }


def assess(measured: Measured) -> CheckReport:
    """Conclude from all that was measured; what was not is said to be so."""
    from bluesky_autofocus.commissioning._judging_axis import axis_findings
    from bluesky_autofocus.commissioning._judging_camera import camera_findings
    from bluesky_autofocus.commissioning._judging_focus import focus_findings
    from bluesky_autofocus.commissioning._judging_light import light_findings

    findings: list[Finding] = list(_device_findings(measured))
    suggestions: list[Suggestion] = []
    for judge in (camera_findings, light_findings, axis_findings, focus_findings):
        found, suggested = judge(measured)
        findings += found
        suggestions += suggested
    return CheckReport(tuple(findings), tuple(suggestions))


def _device_findings(measured: Measured) -> Iterable[Finding]:
    for read in measured.reads:
        wrong = f"; {', '.join(read.not_finite)} are no numbers" if read.not_finite else ""
        grade = Grade.WARNING if wrong or not read.keys else Grade.OK
        said = f"answers with {read.keys} values{wrong}."
        yield Finding(read.device, "reading", grade, said, read.seconds, unit="s")
    for problem in measured.problems:
        said = f"failed to {problem.doing}: {problem.error}."
        yield Finding(problem.device, "works", Grade.FAILED, said)
    if not measured.returned:
        said = "the axis or the light is not where it was at first: look before anything else moves."
        yield Finding(measured.axis, "put back", Grade.FAILED, said)


def rounded_up(value: float, digits: int = 2) -> float:
    """Return a positive number rounded up to so many significant digits."""
    if value <= 0 or not math.isfinite(value):
        return value
    size = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(round(value / size, 6)) * size:.{digits}g}")


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
