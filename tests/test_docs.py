"""What the documentation says is true: its links lead somewhere, its code runs, its tables are complete."""

import inspect
import re
from pathlib import Path

import pytest

from bluesky_autofocus import sharpness
from bluesky_autofocus.callbacks import FocusRecord
from bluesky_autofocus.cli._main import _parser
from bluesky_autofocus.plans import METHODS, Approach, autofocus, focus_if_blurred, tile_scan, time_lapse
from bluesky_autofocus.records import Reason, Verdict

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RUNNABLE = [page for page in PAGES[1:] if "```python\n" in page.read_text(encoding="utf-8")]

# Of packages below Tiled, at their own use of each other
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_of(page: Path) -> list[str]:
    """Return the Python blocks of a page, each on the lines that it has there, so that errors point to it."""
    blocks, inside = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if inside is None:
            inside = ["\n" * number] if line == "```python" else None
        elif line == "```":
            blocks.append("".join(inside))
            inside = None
        else:
            inside.append(f"{line}\n")
    assert inside is None, f"a block of {page} does not end"
    return blocks


def prose_of(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_AUTOFOCUS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BLUESKY_AUTOFOCUS_CATALOG", raising=False)
    monkeypatch.setattr("bluesky_autofocus.plans._autofocus.METHODS", dict(METHODS))
    monkeypatch.setattr("bluesky_autofocus.sharpness._registry._entries", dict(sharpness._registry._entries))
    namespace: dict = {"__name__": "__main__"}
    for block in code_of(page):
        exec(compile(block, str(page), "exec"), namespace)


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\(([^)\s]+\.md)\)", prose_of(DOCS / "README.md")))
    assert linked == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"README.md"}


def test_every_reason_is_explained():
    text = prose_of(DOCS / "reference" / "plans.md")
    assert [reason for reason in Reason if f"| `{reason}` |" not in text] == []


def test_every_metric_is_explained():
    text = prose_of(DOCS / "reference" / "sharpness.md")
    assert [name for name in sharpness.names() if f"## {name}\n" not in text] == []


def test_every_option_of_the_command_line_is_explained():
    def options(parser):
        for action in parser._actions:
            if isinstance(action.choices, dict):
                for verb, inner in action.choices.items():
                    yield f"## {verb}" if inner._subparsers is None else verb
                    yield from options(inner)
            yield from (option for option in action.option_strings if option.startswith("--"))

    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert {option for option in options(_parser()) if option not in text} == set()


def test_every_argument_of_the_plans_is_explained():
    text = prose_of(DOCS / "reference" / "plans.md")
    named = {
        argument
        for plan in (*METHODS.values(), autofocus, focus_if_blurred, tile_scan, time_lapse, Approach)
        for argument in inspect.signature(plan).parameters
    }
    assert {argument for argument in named if f"`{argument}`" not in text} == set()


def test_every_field_of_a_verdict_is_explained():
    text = prose_of(DOCS / "reference" / "documents.md")
    assert {field for field in Verdict.__dataclass_fields__ if f"`verdict_{field}`" not in text} == set()
    assert FocusRecord.__name__ in text
