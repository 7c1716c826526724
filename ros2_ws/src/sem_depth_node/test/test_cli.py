"""The command line as a whole: help, and errors that are one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bag_samples as samples
import pytest
from typer.testing import CliRunner

from sem_depth_node.bags.writer import BagWriter
from sem_depth_node.cli import app

COMMANDS = ("replay", "record", "process", "evaluate", "demo", "kitti-to-bag")


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_loads_neither_ros_nor_an_engine() -> None:
    code = "import sys, sem_depth_node.cli; print([m for m in ('rclpy', 'onnxruntime', 'cv2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_package_that_is_not_installed_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['mcap'] = None; from sem_depth_node.cli import main; main()"
    command = [sys.executable, "-c", code, "evaluate", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr == "error: this command needs mcap: `pip install rosbags mcap matplotlib`\n"


@pytest.mark.parametrize("command", ["replay", "process", "evaluate", "demo"])
def test_missing_and_cameraless_bags(command: str, tmp_path: Path) -> None:
    option = {"process": ["-o", str(tmp_path / "out")], "evaluate": ["--run"], "demo": ["-o", str(tmp_path / "out")]}

    def run(bag: Path) -> tuple[int, str]:
        words = ["demo", "--bag", str(bag)] if command == "demo" else [command, str(bag)]
        result = CliRunner().invoke(app, [*words, *option.get(command, [])])
        return result.exit_code, result.output

    assert run(tmp_path / "gone.bag") == (2, f"error: {tmp_path / 'gone.bag'}: no such bag\n")
    with BagWriter(tmp_path / "bag") as writer:
        for topic, time, message in samples.recorded():
            if topic == samples.LIDAR:
                writer.write(topic, time, message)
    if command != "replay":  # which plays whatever there is
        code, output = run(tmp_path / "bag")
        assert code == 2
        assert f"error: {tmp_path / 'bag'}: no camera image topic" in output
        assert "it has /lidar/points (sensor_msgs/msg/PointCloud2, 5)" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rate", "0"], "rate is 0.0, expected above 0"),
        (["--start", "-1"], "start is -1.0 s, expected 0 or later"),
        (["--duration", "0"], "duration is 0.0 s, expected above 0"),
        (["--start", "inf"], "expected a finite number, found inf"),
        (["--duration", "nan"], "expected a finite number, found nan"),
        (["--report", "/dev/null/report.json"], "cannot be made a folder"),
        (["--start", "9"], "nothing to play at 9 s, the bag lasts 0.401 s; it has /camera/camera_info"),
        (["--topics", "/left"], "no topic /left; it has /camera/camera_info"),
    ],
)
def test_replay_of_what_cannot_be(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    result = CliRunner().invoke(app, ["replay", str(bag), *arguments])
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["process", "BAG", "-o", "OUT", "--namespace", "bad name!"], "found 'bad name!'"),
        (["evaluate", "BAG", "--run", "--max-depth", "0"], "expected a number above 0, found 0.0"),
        (["benchmark", "--threads", "x"], "--threads is 'x', expected whole numbers from 0 on"),
        (["benchmark-cameras", "--rate", "0"], "rate of a camera is 0.0, expected above 0"),
        (["demo", "--bag", "BAG", "-o", "BAG/metadata.yaml"], "metadata.yaml"),
        (["record", "bad topic", "-o", "OUT"], "bad topic"),
        (["record", "/x=sensor_msgs/msg/Nope", "-o", "OUT"], "sensor_msgs/msg/Nope"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    words = [word.replace("BAG", str(bag)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    result = CliRunner().invoke(app, words, env={"TERMINAL_WIDTH": "400"})
    assert result.exit_code == 2, result.output
    assert sentence in result.output


def test_two_cameras_ask_for_a_choice(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        for topic, time, message in samples.recorded(lidar=False):
            writer.write(topic, time, message)
            if topic.startswith("/camera/"):
                writer.write(topic.replace("/camera/", "/rear/"), time, message)
    result = CliRunner().invoke(app, ["demo", "--bag", str(tmp_path / "bag")])
    assert result.exit_code == 2
    assert "2 cameras (/camera/image, /rear/image); name one with --image-topic" in result.output
