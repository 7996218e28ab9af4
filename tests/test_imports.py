"""What importing costs, and what it must not bring in."""

import json
import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    )


def test_the_package_alone_brings_in_nothing_heavy():
    loaded = modules_after("import bluesky_autofocus")
    assert not loaded & {"bluesky", "ophyd", "tiled", "numpy", "matplotlib", "tensorflow"}


@pytest.mark.parametrize("part", ["plans", "search", "sharpness", "devices", "callbacks", "session", "cli"])
def test_no_part_brings_in_a_network_a_server_or_a_plot(part):
    loaded = modules_after(f"import bluesky_autofocus.{part}")
    assert not loaded & {"tensorflow", "keras", "uvicorn", "fastapi", "matplotlib.pyplot", "IPython"}


def test_plans_bring_in_no_device():
    assert not modules_after("import bluesky_autofocus.plans") & {
        "bluesky_autofocus.devices",
        "bluesky_autofocus.callbacks",
        "cv2",
    }
