"""The benchmark: what it times, how it compares, and that it says so when it cannot."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sem_depth_node.benchmark.turns import Subject, time_in_turns
from sem_depth_node.bundle import ModelBundle
from sem_depth_node.cli import app


def test_subjects_take_turns_so_that_drift_hits_all_alike() -> None:
    order: list[str] = []
    subjects = [Subject(name, lambda name=name: order.append(name), "engine") for name in "ab"]  # type: ignore[misc]
    timings = time_in_turns(subjects, rounds=3, repetitions=2, warm_up=0)
    assert "".join(order) == "aabb" * 3
    assert [timing.repetitions for timing in timings] == [6, 6]
    assert timings[0].ratio == timings[0].ratio_low == timings[0].ratio_high == 1


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 subjects"):
        time_in_turns([], rounds=1, repetitions=1)


def test_the_command_times_a_bundle_beside_another_network(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    other = tiny_bundle.inputs[0].path
    report = tmp_path / "report.json"
    arguments = ["benchmark", "--bundle", str(tiny_bundle.folder), "--engine", "onnxruntime", "--against", str(other)]
    arguments += ["--image-size", "320x96", "--rounds", "2", "--repetitions", "1", "--report", str(report)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    timings = json.loads(report.read_text())["timings"]
    assert {timing["stage"] for timing in timings} == {"engine", "estimator", "frame path"}
    assert other.stem in {timing["name"] for timing in timings}
    assert all(0 < timing["p5"] <= timing["median"] <= timing["p95"] for timing in timings)


@pytest.mark.parametrize("size", ["1242", "0x10", "axb"])
def test_a_size_that_is_none_exits_with_2(size: str, tiny_bundle: ModelBundle) -> None:
    done = CliRunner().invoke(app, ["benchmark", "--bundle", str(tiny_bundle.folder), "--image-size", size])
    assert done.exit_code == 2
    assert size in done.output
