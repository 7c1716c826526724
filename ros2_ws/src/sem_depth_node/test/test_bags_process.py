"""Bags in, bags with depth beside the images out; and recorded or computed depth scored against the bag's LiDAR."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bag_samples as samples
import numpy as np
import pytest
from typer.testing import CliRunner

from sem_depth_node.bags import messages
from sem_depth_node.bags.evaluate import LidarDepth, Protocol, recorded_predictions, score
from sem_depth_node.bags.messages import depth_metres
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import find_camera
from sem_depth_node.bags.writer import BagWriter
from sem_depth_node.bundle import ModelBundle
from sem_depth_node.cli import app
from sem_depth_node.lidar import remove_hidden, sparse_depth

Messages = Iterator[tuple[str, int, Any]]


def run(*arguments: str | Path) -> Any:
    """The command line's result; errors that it should have turned into a line are raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("compressed", [False, True])
def test_outputs_beside_inputs(compressed: bool, tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    source = samples.write_rosbag2(tmp_path / "bag", compressed=compressed)
    result = run("process", source, "-o", tmp_path / "out", "--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    assert result.exit_code == 0, result.output
    with BagReader(source) as bag, BagReader(tmp_path / "out") as out:
        for topic in bag.topics:
            assert list(out.messages([topic])) == list(bag.messages([topic]))
        outputs = {"image", "camera_info", "confidence", "preview", "points"}
        assert set(out.topics) - set(bag.topics) == {f"/depth/{name}" for name in outputs}
        images = list(bag.messages([find_camera(bag).image]))
        for name in outputs:
            answers = list(out.messages([f"/depth/{name}"]))
            assert [m.time for m in answers] == [m.time for m in images]
            for answer, image in zip(answers, images, strict=True):
                assert out.decode(answer).header == bag.decode(image).header
        depth = depth_metres(out.first("/depth/image"))
        # The tiny network, whose answer for this colour is the wall's distance.
        np.testing.assert_allclose(depth, np.full((32, 96), samples.WALL), rtol=1e-6)
        np.testing.assert_allclose(out.first("/depth/camera_info").k.reshape(3, 3), samples.CAMERA.K)
        cloud = out.first("/depth/points")
        points = cloud.data.view(np.float32).reshape(32, 96, 4)
        np.testing.assert_array_equal(points[..., 2], depth)
        np.testing.assert_allclose(points[16, 0, 0], (0 - samples.CAMERA.cx) / samples.CAMERA.fx * samples.WALL)
        assert points[0, 0, 3].tobytes() == bytes((0, 60, 19, 0))  # blue, green, red


def test_existing_output_is_replaced_only_by_force(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    source = samples.write_rosbag2(tmp_path / "bag")
    out = tmp_path / "out"
    command = ("process", source, "-o", out, "--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    assert run(*command).exit_code == 0
    before = (out / "out.mcap").stat().st_mtime_ns
    refused = run(*command)
    assert refused.exit_code == 2
    assert f"{out}: exists already; --force replaces it" in refused.output
    assert (out / "out.mcap").stat().st_mtime_ns == before
    assert run(*command, "--force").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "out"]


def test_bag_that_has_depth_already(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    command = ("--bundle", tiny_bundle.folder, "--engine", "onnxruntime", "--no-cloud")
    run("process", samples.write_rosbag2(tmp_path / "bag"), "-o", tmp_path / "once", *command)
    again = run("process", tmp_path / "once", "-o", tmp_path / "twice", *command)
    assert again.exit_code == 2
    assert "it has /depth/camera_info" in again.output
    named = run("process", tmp_path / "once", "-o", tmp_path / "twice", *command, "--namespace", "second")
    assert named.exit_code == 0, named.output
    with BagReader(tmp_path / "twice") as bag:
        assert {"/depth/image", "/second/depth/image"} < set(bag.topics)


def _two_images_spoiled() -> Messages:
    for index, (topic, time, message) in enumerate(samples.recorded()):
        if topic == samples.IMAGE and index < 5:
            message.encoding = "hologram"
        yield topic, time, message


def test_unusable_images_are_counted_and_the_rest_processed(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    _write(tmp_path / "bag", _two_images_spoiled())
    result = run(
        *(
            "process",
            tmp_path / "bag",
            "-o",
            tmp_path / "out",
            "--bundle",
            tiny_bundle.folder,
            "--engine",
            "onnxruntime",
        )
    )
    assert result.exit_code == 0
    assert "not used: 2 messages: image encoding is 'hologram', expected" in result.output
    with BagReader(tmp_path / "out") as out:
        assert out.topics["/depth/image"].count == samples.FRAMES - 2


def test_types_that_the_bag_does_not_define_are_left_out(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    """As in bags of rosbag2 before Iron, whose sqlite3 files have no definitions."""
    with BagWriter(tmp_path / "bag", "sqlite3") as writer:
        writer.add_topic("/speed", "car_msgs/msg/Speed", definition=("float64 value", "RIHS01_" + "0" * 64))
        writer.write_serialized("/speed", samples.BEGIN, b"\0\1\0\0" + np.float64(8.5).tobytes())
        for topic, time, message in samples.recorded():
            writer.write(topic, time, message)
    with contextlib.closing(sqlite3.connect(tmp_path / "bag" / "bag.db3")) as database:
        database.execute("DELETE FROM message_definitions")
        database.execute("UPDATE topics SET type_description_hash = ''")
        database.commit()
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(re.sub(r"type_description_hash:\s+\w+", "type_description_hash: ''", metadata.read_text()))
    with BagReader(tmp_path / "bag") as bag:
        assert bag.topics["/speed"].type == "car_msgs/msg/Speed"
        speed = next(bag.messages(["/speed"]))
        assert speed.data[4:] == np.float64(8.5).tobytes()  # it can be replayed where its package is installed
        with pytest.raises(BagError, match="car_msgs/msg/Speed is not defined in the bag"):
            bag.decode(speed)
    network = ("--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    result = run("process", tmp_path / "bag", "-o", tmp_path / "out", *network)
    assert result.exit_code == 0, result.output
    assert "not copied, as the bag does not define their types: /speed" in result.output
    with BagReader(tmp_path / "out") as out:
        assert out.topics["/depth/image"].count == samples.FRAMES


def test_truncated_bag_leaves_no_output(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    source = samples.write_rosbag1(tmp_path / "drive.bag")
    source.write_bytes(source.read_bytes()[:-5000])
    result = run("process", source, "-o", tmp_path / "out", "--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    assert result.exit_code == 2
    assert f"error: {source}: " in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["drive.bag"]


def test_computed_and_recorded_depth_score_alike(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    source = samples.write_rosbag2(tmp_path / "bag")
    command = ("--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    run("process", source, "-o", tmp_path / "out", *command)
    assert run("evaluate", source, "--run", *command, "--out", tmp_path / "computed").exit_code == 0
    recorded = run("evaluate", tmp_path / "out", "--out", tmp_path / "recorded")
    assert recorded.exit_code == 0, recorded.output
    apart = run("evaluate", source, "--predictions", tmp_path / "out", "--out", tmp_path / "apart")
    assert apart.exit_code == 0, apart.output
    reports = [
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("computed", "recorded", "apart")
    ]
    for report in reports:
        assert report["frames_scored"] == samples.FRAMES
        assert report["mean"]["abs_rel"] == pytest.approx(0, abs=1e-6)
        assert report["mean"]["delta1"] == 1
        assert report["mean"] == reports[0]["mean"]
    assert (tmp_path / "computed" / "evaluation.png").stat().st_size > 10_000


def test_an_image_that_cannot_be_used_is_counted_and_the_rest_scored(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    _write(tmp_path / "bag", _two_images_spoiled())
    command = ("--run", "--bundle", tiny_bundle.folder, "--engine", "onnxruntime", "--out", tmp_path / "out")
    result = run("evaluate", tmp_path / "bag", *command)
    assert result.exit_code == 0, result.output
    assert "not used: 2 messages: /camera/image at 1317042000.123457: image encoding is 'hologram'" in result.output
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["frames_scored"] == samples.FRAMES - 2
    assert report["messages_not_used"]["unknown_encoding"]["count"] == 2


def test_what_is_all_beyond_range_has_no_median_and_what_is_all_near_no_histogram(tmp_path: Path) -> None:
    def wall(metres: float) -> Path:
        with BagWriter(tmp_path / f"depth {metres}") as writer:
            for frame in range(samples.FRAMES):
                stamp = samples.BEGIN + frame * samples.PERIOD
                head = messages.header(stamp, "camera")
                depth = messages.image(head, np.full((32, 96), metres, np.float32), "32FC1")
                writer.write("/depth/image", stamp, depth)
                writer.write("/depth/camera_info", stamp, messages.camera_info(head, samples.CAMERA))
        return tmp_path / f"depth {metres}"

    source = samples.write_rosbag2(tmp_path / "bag")
    scaled = run("evaluate", source, "--predictions", wall(math.inf), "--median-scaling")
    assert scaled.exit_code == 2
    assert "of 5 no point of the scan is where depth was answered" in " ".join(scaled.output.split())
    near = run("evaluate", source, "--predictions", wall(0.5), "--out", tmp_path / "out")
    assert near.exit_code == 0, near.output
    assert (tmp_path / "out" / "evaluation.png").is_file()


def test_messages_without_stamps_are_from_when_they_were_recorded_and_that_is_said(
    tmp_path: Path, tiny_bundle: ModelBundle
) -> None:
    def unstamped() -> Messages:
        for topic, time, message in samples.recorded():
            if topic != samples.TF_STATIC:
                message.header = messages.header(0, message.header.frame_id)
            yield topic, time, message

    _write(tmp_path / "bag", unstamped())
    command = ("--bundle", tiny_bundle.folder, "--engine", "onnxruntime")
    computed = run("evaluate", tmp_path / "bag", "--run", *command)
    run("process", tmp_path / "bag", "-o", tmp_path / "out", *command)
    recorded = run("evaluate", tmp_path / "out")
    for result, image in ((computed, samples.IMAGE), (recorded, "/depth/image")):
        assert result.exit_code == 0, result.output
        for topic in (image, samples.LIDAR):
            assert f"{topic}: without stamps; its messages are taken to be from when they were" in result.output
        assert f"{samples.FRAMES} frames" in result.output


def test_known_error_is_measured(tmp_path: Path, tiny_bundle: ModelBundle) -> None:
    """Depth scaled by 1.1 everywhere has an AbsRel of 0.1, and of 0 after median scaling."""
    _write(tmp_path / "bag", samples.recorded())
    with BagWriter(tmp_path / "depth") as writer:
        for frame in range(samples.FRAMES):
            stamp = samples.BEGIN + frame * samples.PERIOD
            head = messages.header(stamp, "camera")
            depth = np.full((32, 96), 1.1 * samples.WALL, np.float32)
            writer.write("/depth/image", stamp, messages.image(head, depth, "32FC1"))
            writer.write("/depth/camera_info", stamp, messages.camera_info(head, samples.CAMERA))
    for scaling, expected, bias in ((False, 0.1, 0.1 * samples.WALL), (True, 0.0, 0.0)):
        with BagReader(tmp_path / "bag") as bag, BagReader(tmp_path / "depth") as recording:
            predictions = recorded_predictions(recording, "/depth/image", "/depth/camera_info")
            scores = score(predictions, LidarDepth(bag, samples.LIDAR), Protocol(crop="none", median_scaling=scaling))
        assert scores.mean["abs_rel"] == pytest.approx(expected, abs=1e-6)
        assert scores.frames[0].pixels == 48 * 8
        (filled,) = [part.summary() for part in scores.ranges if part.pixels]
        assert (filled["from"], filled["to"], filled["pixels"]) == (10, 20, samples.FRAMES * 48 * 8)
        assert filled["bias"] == pytest.approx(bias, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--depth-topic", "/depth/image"), "no topic /depth/image; --run computes depth now; it has /camera"),
        (
            ("--run", "--lidar-topic", "/camera/image"),
            "is a sensor_msgs/msg/Image, expected sensor_msgs/msg/PointCloud2",
        ),
        (("--run", "--bundle", "/nowhere"), "/nowhere: no such folder"),
        (
            ("--depth-topic", "/lidar/points"),
            "/lidar/points is a sensor_msgs/msg/PointCloud2, expected sensor_msgs/msg/",
        ),
    ],
)
def test_what_cannot_be_scored_is_exit_code_2(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = run("evaluate", samples.write_rosbag2(tmp_path / "bag"), *arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_bag_without_lidar(tmp_path: Path) -> None:
    result = run("evaluate", samples.write_rosbag2(tmp_path / "bag", lidar=False), "--run")
    assert result.exit_code == 2
    assert "no LiDAR (sensor_msgs/msg/PointCloud2)" in result.output


def test_lidar_that_tf_does_not_connect(tmp_path: Path) -> None:
    _write(tmp_path / "bag", (entry for entry in samples.recorded() if entry[0] != samples.TF_STATIC))
    with BagReader(tmp_path / "bag") as bag, pytest.raises(BagError, match="no transform from 'lidar' to 'camera'"):
        LidarDepth(bag, samples.LIDAR).at(samples.BEGIN, "camera", samples.CAMERA)


def test_scan_of_another_time_is_not_taken(tmp_path: Path) -> None:
    with BagReader(samples.write_rosbag2(tmp_path / "bag")) as bag:
        truth = LidarDepth(bag, samples.LIDAR)
        assert truth.at(samples.BEGIN + 40_000_000, "camera", samples.CAMERA) is not None
        assert truth.at(samples.BEGIN - 60_000_000, "camera", samples.CAMERA) is None


def test_motion_between_scan_and_image_is_undone_in_a_fixed_frame(tmp_path: Path) -> None:
    """The vehicle drives 1 m towards the wall between two scans; images are taken 20 ms after each scan."""
    late = 20_000_000

    def moving() -> Messages:
        camera_in_base = np.linalg.inv(samples.LIDAR_IN_CAMERA)
        for topic, time, message in samples.recorded():
            if topic == samples.TF_STATIC:
                pose = messages.transform(time, "lidar", "camera", camera_in_base)
                yield topic, time, messages.tf(pose)
                continue
            yield topic, time, message
        for frame in range(samples.FRAMES + 1):
            stamp = samples.BEGIN + frame * samples.PERIOD
            pose = np.eye(4)
            pose[0, 3] = frame
            yield "/tf", stamp, messages.tf(messages.transform(stamp, "map", "lidar", pose))

    _write(tmp_path / "bag", moving())
    with BagReader(tmp_path / "bag") as bag:
        stamp = samples.BEGIN + 2 * samples.PERIOD + late
        still = LidarDepth(bag, samples.LIDAR).at(stamp, "camera", samples.CAMERA)
        moved = LidarDepth(bag, samples.LIDAR, fixed_frame="map").at(stamp, "camera", samples.CAMERA)
    assert still is not None
    assert moved is not None
    np.testing.assert_allclose(still[still > 0], samples.WALL, rtol=1e-5)
    np.testing.assert_allclose(moved[moved > 0], samples.WALL - 0.2, rtol=1e-5)


def test_background_seen_past_an_object_is_dropped() -> None:
    """A pole at 5 m before a wall at 20 m: beside the pole the wall stays, between the pole's points it goes."""
    camera = samples.CAMERA
    camera = type(camera)(600, 200, 721.5, 721.5, 300.0, 100.0)
    rows = np.arange(10, 190, 5)
    wall = [((u - 300) / 721.5 * 20, (v - 100) / 721.5 * 20, 20.0) for v in rows for u in range(50, 550, 2)]
    pole = [((u - 300) / 721.5 * 5, (v + 2 - 100) / 721.5 * 5, 5.0) for v in rows for u in range(280, 320, 2)]
    depth = sparse_depth(np.array(wall + pole), camera)
    kept = remove_hidden(depth, camera)
    assert set(np.unique(depth[20:180, 285:315])) == {0, 5, 20}
    assert set(np.unique(kept[20:180, 285:315])) == {0, 5}
    np.testing.assert_array_equal(kept[:, :270], depth[:, :270])
    np.testing.assert_array_equal(kept == 5, depth == 5)


def test_nearest_point_of_a_pixel_counts() -> None:
    points = np.array([[0.0, 0, 30], [0.001, 0, 4], [0, 0, 12], [0, 0, -4], [100, 0, 1]])
    depth = sparse_depth(points, type(samples.CAMERA)(9, 9, 10.0, 10.0, 4.0, 4.0))
    assert depth[4, 4] == 4
    assert np.count_nonzero(depth) == 1


def _write(path: Path, entries: Any) -> None:
    with BagWriter(path) as writer:
        for topic, time, message in entries:
            writer.write(topic, time, message, latched=topic == samples.TF_STATIC)
