"""The benchmark: what it times, how it compares, and that it says so when it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sem_depth_node.benchmark.create_cloud import cloud_bytes, coloured_points
from sem_depth_node.benchmark.turns import Subject, time_in_turns
from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.cli import app
from sem_depth_node.pointcloud import PointCloudBuilder


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
    arguments += ["--no-node", "--threads", "1,2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    timings = json.loads(report.read_text())["timings"]
    assert {timing["stage"] for timing in timings} == {"engine", "estimator", "frame path", "cloud"}
    names = [timing["name"] for timing in timings]
    assert other.stem in names
    assert any(name.endswith("1 threads") for name in names)
    assert any(name.endswith("2 threads") for name in names)
    assert all(0 < timing["p5"] <= timing["median"] <= timing["p95"] for timing in timings)


@pytest.mark.parametrize("size", ["1242", "0x10", "axb"])
def test_a_size_that_is_none_exits_with_2(size: str, tiny_bundle: ModelBundle) -> None:
    done = CliRunner().invoke(app, ["benchmark", "--bundle", str(tiny_bundle.folder), "--image-size", size])
    assert done.exit_code == 2
    assert size in done.output


def test_the_cloud_we_compare_with_is_the_same_cloud() -> None:
    camera = CameraModel(31, 17, 20.0, 22.0, 14.3, 8.9)
    random = np.random.default_rng(0)
    depth = random.uniform(1, 80, (17, 31)).astype(np.float32)
    depth[3, 4], depth[5, 6] = np.nan, np.inf
    rgb = random.integers(0, 128, (17, 31, 3), dtype=np.uint8)
    points = coloured_points(depth, rgb, camera)
    theirs = np.frombuffer(cloud_bytes(points), np.float32).reshape(17, 31, 4)
    ours = PointCloudBuilder(camera).build(depth, rgb)
    np.testing.assert_allclose(theirs[..., :3], ours[..., :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(theirs[..., 3].copy().view(np.int32), ours[..., 3].copy().view(np.int32))
    assert cloud_bytes(points.tolist()) == cloud_bytes(points)


def test_a_slow_subject_runs_once_a_turn() -> None:
    order: list[str] = []
    subjects = [Subject(name, lambda name=name: order.append(name), "x", slow=name == "s") for name in "as"]  # type: ignore[misc]
    timings = time_in_turns(subjects, rounds=2, repetitions=3, warm_up=0)
    assert "".join(order) == "s" + "aaas" * 2
    assert [timing.repetitions for timing in timings] == [6, 2]
