"""`sem-depth benchmark` measures a real node over DDS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from running_node import OUTPUTS, free_domain

from sem_depth_node.bundle import ModelBundle

QUICK = ("--engine", "onnxruntime", "--rounds", "1", "--repetitions", "1", "--image-size", "192x64")
QUICK += ("--node-rounds", "1", "--node-seconds", "2", "--node-rates", "10", "--overlap")


def benchmark(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sem_depth_node.cli", "benchmark", "--bundle", str(bundle), *QUICK, *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(free_domain()), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_age_rate_overhead_and_memory_of_the_node_are_told(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = benchmark(tiny_bundle.folder, "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "age of depth/points" in done.stdout
    nodes = json.loads(report.read_text())["nodes"]
    assert [node["setup"]["name"] for node in nodes] == ["10 Hz", "10 Hz, overlap"]
    for node in nodes:
        assert node["age"].keys() == {*OUTPUTS, "all"}
        assert 0 < node["answered"] <= node["sent"]
        assert node["age"]["all"]["median"] >= node["age"]["depth/image"]["median"] > node["times"]["engine"]["p5"]
        assert node["times"]["overhead"]["p95"] > 0
        assert node["first_depth"] > 0
        assert node["peak_memory_mib"] > 50
