"""Write the table of the README from the committed results: ``python -m benchmarks.readme``."""

import json
from pathlib import Path

from benchmarks._results import RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: made by `python -m benchmarks.readme` -->\n", "<!-- end of results -->"

SHOWN = {
    "sem_search": {
        "brent_within_1_dof": "SEM, range 40 DOF, three doses: `brent` within 1 DOF",
        "brent_confident_wrong": "the same: confident and wrong",
        "literal_brent_within_1_dof": "the published Brent on 1/var(Laplacian), same fields: within 1 DOF",
        "literal_brent_confident_wrong": "the same: answers that are wrong",
        "sem_seconds": "time to focus the SEM",
        "trigger_missed": "blur trigger, fields of uneven height and contrast: missed",
        "trigger_false": "the same: false alarms",
    },
    "sharpness": {
        "real_stacks_within_one_plane": "recorded stacks: a sweep lands within one plane of the label",
        "traps_humble": "recorded phase objects that invert sharpness: not claimed to be found",
        "variance_of_laplacian_speedup": "variance of Laplacian, against `cv2.Laplacian(CV_64F).var()`",
    },
    "chain": {
        "chain_ms": "one exposure through everything, 2048 x 2048",
        "overhead_ratio": "the same, against a bare loop of grab, score and h5py",
    },
}


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| | measured | aim |", "|---|---|---|"]
    for name, shown in SHOWN.items():
        figures = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
        for key, text in shown.items():
            entry = figures[key]
            lines.append(f"| {text} | {entry['value']:.3g} {entry['unit']} | {entry['aim']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
