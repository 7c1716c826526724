"""`sem-depth benchmark-cameras` measures real nodes, and says why where they cannot run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from running_node import free_domain

from sem_depth_node.bundle import ModelBundle

SHORT = ("--rounds", "1", "--seconds", "3")


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sem_depth_node.cli", "benchmark-cameras", *SHORT, *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(free_domain()), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_both_arrangements_are_measured_camera_by_camera(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    report = tmp_path / "cameras.json"
    small = ("--image-size", "192x64", "--rate", "10", "--rate", "5")
    done = benchmark("--bundle", str(tiny_bundle.folder), "--engine", "onnxruntime", *small, "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "one node for all" in done.stdout
    turns = json.loads(report.read_text())["turns"]
    assert [turn["arrangement"] for turn in turns] == ["shared", "separate"]
    for turn in turns:
        assert turn["rates"].keys() == {"camera0", "camera1"}
        assert all(rate > 0 for rate in turn["rates"].values())
        assert turn["latency_median"] > 0
    assert turns[0]["memory_mib"] < turns[1]["memory_mib"]


def test_a_bundle_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    done = benchmark("--bundle", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
