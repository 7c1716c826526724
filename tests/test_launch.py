"""The package as ROS tools see it: its manifest, its parameter file, and `ros2 launch`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from running_node import SHARED_MEMORY, RunningNode, bench, free_domain, wait_for
from scenes import LEFT, SECOND, image_message, info_message, metric_depth, plane

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.image_decoding import ENCODINGS
from sem_depth_node.ros.outputs import TOPICS
from sem_depth_node.ros.parameters import Parameters

STAMP = 1_600_000_000 * SECOND


@pytest.fixture
def package(repository: Path) -> Path:
    return repository / "ros2_ws" / "src" / "sem_depth_node"


def test_the_manifest_is_one_that_colcon_takes_for_ament_python(package: Path) -> None:
    # One that does not validate is built as plain Python without a word, and ros2 run does not find it.
    manifest = ElementTree.parse(package / "package.xml").getroot()
    assert manifest.attrib["format"] == "3"
    assert manifest.findtext("name") == "sem_depth_node"
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest.findtext("version") or "")
    assert manifest.findtext("license")
    for maintainer in manifest.findall("maintainer"):
        assert re.fullmatch(r"[-+.\w]+@[-\w]+(\.[-\w]+)+", maintainer.attrib["email"])
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (package / "resource" / "sem_depth_node").is_file()


def test_the_manifest_names_every_ros_package_that_is_imported(package: Path) -> None:
    manifest = ElementTree.parse(package / "package.xml").getroot()
    declared = {depend.text for kind in ("depend", "exec_depend") for depend in manifest.findall(kind)}
    imported = set()
    for file in package.glob("sem_depth_node/**/*.py"):
        imported.update(re.findall(r"^\s*(?:from|import) (rclpy|\w+_msgs|\w+_interfaces)\b", file.read_text(), re.M))
    assert imported <= declared


def test_manifest_and_setup_have_the_same_version(package: Path) -> None:
    manifest = ElementTree.parse(package / "package.xml").getroot()
    setup = (package / "setup.py").read_text()
    licences = " AND ".join(str(licence.text) for licence in manifest.findall("license"))
    for name, value in (("version", manifest.findtext("version")), ("license", licences)):
        assert f'{name}="{value}"' in setup


def test_the_parameter_file_lists_every_parameter_with_its_default(package: Path) -> None:
    given = yaml.safe_load((package / "config" / "sem_depth.yaml").read_text())["/**"]["ros__parameters"]
    defaults = {entry.name: entry.default for entry in fields(Parameters) if entry.name != "autostart"}
    given["cameras"] = tuple(given["cameras"])
    assert given == defaults
    assert {name: type(value) for name, value in given.items()} == {n: type(v) for n, v in defaults.items()}


def test_the_nodes_page_lists_every_parameter_topic_and_encoding(repository: Path) -> None:
    page = (repository / "docs" / "node.md").read_text()
    rows = set(re.findall(r"^\| `([^`]+)` \|", page, re.M))
    assert {entry.name for entry in fields(Parameters)} <= rows
    assert TOPICS.keys() <= rows
    listed = page.replace("8UC1/3/4", "8UC1, 8UC3, 8UC4")
    assert all(encoding in listed for encoding in ENCODINGS if not encoding.startswith("bayer_"))


@pytest.fixture
def ros2() -> str:
    """The `ros2` command, with the package where it looks for packages."""
    for module in ("launch", "launch_ros", "ros2launch"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the Python package {module}, which comes with a ROS distribution and not from PyPI")
    command = shutil.which("ros2")
    if command is None:
        pytest.skip("needs the command ros2, which comes with a ROS distribution")
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    if not any((prefix / "lib" / "sem_depth_node" / "sem_depth_node").is_file() for prefix in prefixes):
        pytest.skip("needs sem_depth_node built with colcon and its setup file sourced")
    return command


@contextlib.contextmanager
def launched(ros2: str, file: str, *arguments: str) -> Iterator[int]:
    """A launch file, started with arguments; its ROS domain."""
    domain = free_domain()
    process = subprocess.Popen(
        [sys.executable, ros2, "launch", "sem_depth_node", file, *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield domain
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        print(said)
    assert "process has finished cleanly" in said
    assert "Traceback" not in said


def test_launch_starts_the_node_with_what_it_was_told(ros2: str, tiny_bundle: ModelBundle) -> None:
    arguments = (
        f"bundle:={tiny_bundle.folder}", "engine:=onnxruntime", "image:=/camera/image_raw",
        "camera_info:=/camera/camera_info", "namespace:=front", "shared_memory:=true",
    )  # fmt: skip
    with (
        launched(ros2, "sem_depth.launch.py", *arguments) as domain,
        bench(domain, node="/front/sem_depth", namespace="/front") as robot,
    ):
        wait_for(lambda: robot.ros.count_subscribers("/camera/image_raw"), "the node", patience=60)
        robot.camera("/camera/image_raw", "/camera/camera_info")
        robot.listen_to_all()
        robot.show(image_message(STAMP), info_message(STAMP))
        depth = plane(robot.output("depth/image", STAMP))
        assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)
        assert robot.state() == "active"


def test_launch_starts_several_cameras_on_one_node(ros2: str, tiny_bundle: ModelBundle) -> None:
    arguments = (
        f"bundle:={tiny_bundle.folder}", "engine:=onnxruntime", "cameras:=front, left", "namespace:=rig",
        "image:=/drivers/{camera}/image_raw", "lidar:=/points", "shared_memory:=false",
    )  # fmt: skip
    with launched(ros2, "multi_camera.launch.py", *arguments) as domain:
        for camera in ("front", "left"):
            with bench(domain, node="/rig/sem_depth", namespace=f"/rig/{camera}") as robot:
                image, info = f"/drivers/{camera}/image_raw", f"/rig/{camera}/camera_info"
                wait_for(lambda r=robot, image=image: r.ros.count_subscribers(image), "the node", patience=60)
                robot.camera(image, info)
                robot.listen("depth/image")
                wait_for(lambda r=robot, c=camera: r.ros.count_publishers(f"/rig/{c}/depth/image"), "the output")
                robot.show(image_message(STAMP), info_message(STAMP))
                depth = plane(robot.output("depth/image", STAMP))
                assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)
                _, values = robot.diagnosis("cameras", lambda status, values: True)
                assert values.keys() == {"front", "left"}
                assert robot.ros.count_subscribers("/points") == 1


@pytest.mark.parametrize(
    ("file", "asked_for"),
    [
        ("sem_depth.launch.py", {"image", "camera_info", "compressed", "bundle", "engine", "rviz", "namespace"}),
        ("multi_camera.launch.py", {"cameras", "image", "camera_info", "compressed", "bundle", "engine", "lidar"}),
    ],
)
def test_every_launch_argument_is_described(ros2: str, file: str, asked_for: set[str]) -> None:
    said = subprocess.run(
        [sys.executable, ros2, "launch", "sem_depth_node", file, "-s"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    named = set(re.findall(r"^    '(\w+)':$", said, re.M))
    assert asked_for | {"use_sim_time", "autostart", "params_file", "shared_memory"} <= named
    assert "No description given" not in said


def test_the_shared_memory_profile_is_taken(tiny_bundle: ModelBundle) -> None:
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}
    with RunningNode(free_domain(), parameters, environment=SHARED_MEMORY) as node:
        node.said("active")
        segments = re.findall(r"^(\w+)-(\w+) .*/dev/shm/fastrtps_", Path(f"/proc/{node.pid}/maps").read_text(), re.M)
        assert max(int(end, 16) - int(start, 16) for start, end in segments) >= 128 << 20
        assert not any("XML" in line for line in node.log), node.log
