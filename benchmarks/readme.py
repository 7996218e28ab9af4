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
    "search": {
        "success_40dof_medium": "the default search, seven kinds of specimen, range 40 DOF: within 1 DOF",
        "mean_exposures": "the same: exposures",
        "median_error_dof": "the same, all ranges and doses: median error",
        "confident_wrong_per_10000": "the same: confident and wrong, of 10,000",
        "traps_confident": "traps of eleven kinds and recorded phase objects: confident and wrong",
        "robust_least_success": "drift, backlash, vibration, flicker, dead frames, dust: the worst of them",
        "recorded_success": "recorded stacks, from every plane: within 1 DOF or plane",
        "best_peer_success_40dof_medium": "the best of eight peers, phase specimens too: within 1 DOF",
        "best_peer_confident_wrong_per_10000": "the same: confident and wrong, of 10,000",
    },
    "sharpness": {
        "real_stacks_within_one_plane": "recorded stacks: a sweep lands within one plane of the label",
        "traps_humble": "recorded phase objects that invert sharpness: not claimed to be found",
        "variance_of_laplacian_speedup": "variance of Laplacian, against `cv2.Laplacian(CV_64F).var()`",
    },
    "single_shot": {
        "rmse_um_default": "one LED, one exposure; 200 fresh fields of 1024 x 1024 px, within 30 um: RMSE",
        "rmse_um_published": "the same, as published, trained on the same data",
        "refused_share": "the same: refused",
        "confident_wrong_per_1000": "the same: confident and wrong, of 1000",
        "coverage_2sigma": "the same: truth within two stated sigma",
        "foreign_accepted_wrong": "544 frames of other optics, other light, no specimen: accepted and wrong",
        "rmse_um_two_led": "two LEDs, no training: RMSE",
    },
    "single_shot_latency": {
        "default_ms_2048": "from a frame of 2048 x 2048 to its defocus",
        "published_ms_2048": "the same, as published",
    },
    "single_shot_end_to_end": {
        "within_1_dof_verified": "simulated microscope, through the RunEngine: within 1 DOF, verified",
        "exposures_verified": "the same: exposures",
        "confident_wrong": "the same: confident and wrong",
    },
    "key_frame": {
        "coarse_accuracy_or_tie": "living cells, 60x: of three planes 1 um apart the nearest, but for ties",
        "fine_accuracy": "the same: of seven 250 nm apart one of the three nearest",
        "fewer_errors_fine": "the same: fewer wrong choices than the best sharpness metric",
        "median_error_nm": "focused from within 1.5 um, through the RunEngine: median error",
        "p99_error_nm": "the same: 99th percentile",
        "max_exposures": "the same, and from within 3 um: most exposures",
        "confident_wrong": "the same: confident and wrong",
    },
    "hh_net": {
        "frame_accuracy_certainty": "stained smears, one colour frame, any distance: its class of seven",
        "frame_accuracy_off_edge": "the same, farther than 5 % from an edge between classes",
        "patch_accuracy": "the same, of single patches",
        "rmse_um": "the same: RMSE of the defocus",
        "believed_wrong": "the same: accepted, and more than a class off",
        "default_ms": "from a frame of 2048 x 1536 to its class",
        "published_ms": "the same, as published, at its full width",
    },
    "approach": {
        "median_s": "focusing on the run, from the last totally blurred frame: median",
        "max_error_um": "the same, from 1,000 starts within -50 .. 60 um, three latencies: largest error",
        "limit_violations": "the same: out of its range",
        "tracked_in_focus": "2,000 tiles scanned without stopping: within half a depth of field",
    },
    "refocus": {
        "psnr_gain_z1": "nuclei 30 um above focus, refocused: nearer to the field in focus by",
        "psnr_gain_z5": "the same, 22 um above",
        "psnr_gain_z10": "the same, 12 um above",
        "best_classical_gain_z10": "the same, the best deconvolution, told the distance",
        "psnr_gain_z32": "32 um below focus",
        "frame_2048_s": "refocusing a frame of 2048 x 2048",
    },
    "predicting_focus": {
        "saved_wandering": "drifting nights, 99 % of frames within 1 DOF: share of corrections that is saved",
        "saved_any_of_them": "the same, corrected when a frame is blurred too",
        "coverage_2sigma": "the same: truth within two stated sigma, a knock apart",
    },
    "focus_surface": {
        "coverage_2sigma": "surface through 20 of 225 tiles: the others within two stated sigma",
        "coverage_2sigma_few": "the same, through 6",
        "outliers_found": "the same, 8 % of the tiles focused on dust: noticed",
    },
    "night": {
        "within_1_dof": "a simulated night of 10,000 tiles by `tile_scan`, not empty ones: within 1 DOF",
        "extra_exposures_per_frame": "the same: exposures for focusing, per frame",
        "rss_growth": "the same: growth of memory after 500 frames",
    },
    "faults": {
        "faults": "faults of devices, analysis, disk, catalogue and by hand, in 19 plans",
        "lost_frames": "the same: Events without their frame or document",
        "out_of_bounds": "the same: moves beyond the limits or the travel range",
        "not_restored": "the same: axis, light or camera not as before",
    },
    "two_exposure": {
        "times_bound_medium": "two-exposure focus of a SEM, medium dose: RMS error over the least possible",
        "times_bound_low": "the same, low dose",
        "coverage_2sigma": "the same: within two stated sigma",
        "confident_wrong": "the same: confident and wrong",
        "astigmatism_rmse": "the same: astigmatism, RMS error",
    },
    "backends": {
        "cells_passed": "acceptance of seven back ends, EPICS and Micro-Manager among them: passed",
        "cells_total": "the same: back end x behaviour",
    },
    "scale": {
        "insert_cpu_ms_1e5": "a run stored among 100,000, SQLite",
        "search_cpu_ms_1e5": "a search among 100,000 runs, SQLite",
        "search_cpu_ms_1e5_postgresql": "the same, PostgreSQL",
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
            lines.append(f"| {text} | {entry['value']:.4g} {entry['unit']} | {entry['aim']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
