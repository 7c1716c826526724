"""`sem-depth replay` as a process of its own, watched by a subscriber over DDS."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bag_samples as samples
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability, QosReliability
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from sem_depth_node.bags.reader import BagReader, BagTopic
from sem_depth_node.bags.replay import ReplaySettings, play
from sem_depth_node.bags.writer import LATCHED_QOS, RELIABLE_QOS
from sem_depth_node.ros.replay import publisher_qos
from sem_depth_node.stamps import nanoseconds


@dataclass
class Listener:
    """A node that keeps what it hears, with the time it heard it."""

    node: Any
    executor: Any
    environment: dict[str, str]
    heard: dict[str, list[tuple[float, Any]]] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def listen(self, message_class: Any, topic: str, qos: QoSProfile | int = 10) -> None:
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(message_class, topic, lambda m: heard.append((time.monotonic(), m)), qos)

    def replay(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return self.start("replay", *arguments)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """A command of sem-depth in a process of its own."""
        command = [sys.executable, "-m", "sem_depth_node.cli", *map(str, arguments)]
        self.processes.append(subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True))
        return self.processes[-1]

    def spin_until(self, done: Callable[[], bool], timeout: float = 90.0) -> None:
        give_up = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < give_up, {topic: len(heard) for topic, heard in self.heard.items()}
            self.executor.spin_once(0.05)


@pytest.fixture
def listener() -> Iterator[Listener]:
    domain = random.randint(1, 100)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    listener = Listener(node, executor, {**os.environ, "ROS_DOMAIN_ID": str(domain)})
    yield listener
    for process in listener.processes:  # of tests that failed
        process.kill()
        process.wait()
    node.destroy_node()
    rclpy.shutdown(context=context)


def finish(replay: subprocess.Popen[str]) -> str:
    _, said = replay.communicate(timeout=90)
    assert replay.returncode == 0, said
    return said


def stamps(heard: list[tuple[float, Any]]) -> list[int]:
    return [nanoseconds(message.header.stamp) for _, message in heard]


EVERY_STAMP = [samples.BEGIN + n * samples.PERIOD for n in range(samples.FRAMES)]


@pytest.mark.parametrize("kind", ["mcap", "rosbag1"])
def test_everything_arrives_unchanged(kind: str, tmp_path: Path, listener: Listener) -> None:
    if kind == "rosbag1":
        bag = samples.write_rosbag1(tmp_path / "drive.bag")
    else:
        bag = samples.write_rosbag2(tmp_path / "bag", "mcap", "message")
    listener.listen(Image, samples.IMAGE)
    listener.listen(CameraInfo, samples.INFO)
    listener.listen(PointCloud2, samples.LIDAR)
    report = tmp_path / "report.json"
    replay = listener.replay(bag, "--wait-for", "3", "--wait-timeout", "20", "--report", report)
    listener.spin_until(lambda: all(len(heard) == samples.FRAMES for heard in listener.heard.values()))
    finish(replay)

    for topic, heard in listener.heard.items():
        assert stamps(heard) == EVERY_STAMP, topic
    image = listener.heard[samples.IMAGE][2][1]
    assert (image.encoding, image.width, image.height, image.header.frame_id) == ("rgb8", 96, 32, "camera")
    assert bytes(image.data) == samples.picture(2).tobytes()
    assert list(listener.heard[samples.INFO][0][1].k) == samples.CAMERA.K.ravel().tolist()
    assert bytes(listener.heard[samples.LIDAR][0][1].data) == samples.wall_points().tobytes()
    published = json.loads(report.read_text())["published"]
    assert published[samples.IMAGE] == published[samples.INFO] == published[samples.LIDAR] == samples.FRAMES


def test_recorded_rate_and_clock(tmp_path: Path, listener: Listener) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag", compressed=True)
    listener.listen(CompressedImage, samples.COMPRESSED)
    listener.listen(Clock, "/clock")
    replay = listener.replay(bag, "--rate", "0.5", "--clock", "--topics", samples.COMPRESSED)
    listener.spin_until(lambda: len(listener.heard[samples.COMPRESSED]) == samples.FRAMES)
    finish(replay)
    times = [at for at, _ in listener.heard[samples.COMPRESSED]]
    # Nothing may come early; how late it comes is the machine's affair.
    assert times[-1] - times[0] > 0.9 * 2 * (samples.FRAMES - 1) * samples.PERIOD / 1e9
    ticks = [nanoseconds(message.clock) for _, message in listener.heard["/clock"]]
    assert ticks == sorted(ticks)
    assert len(ticks) > samples.FRAMES
    assert ticks[0] >= samples.BEGIN
    assert ticks[-1] <= EVERY_STAMP[-1] + 1_000_000


def test_start_duration_and_topics(tmp_path: Path, listener: Listener) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    listener.listen(Image, samples.IMAGE)
    listener.listen(CameraInfo, samples.INFO)
    # Recording began with the transforms; the frames follow at 1, 101, 201 ... ms.
    replay = listener.replay(bag, "--start", "0.05", "--duration", "0.2", "-t", samples.INFO, "--rate", "4")
    finish(replay)
    listener.spin_until(lambda: len(listener.heard[samples.INFO]) == 2)
    assert stamps(listener.heard[samples.INFO]) == EVERY_STAMP[1:3]
    assert listener.heard[samples.IMAGE] == []


def test_loop_until_interrupted(tmp_path: Path, listener: Listener) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    listener.listen(CameraInfo, samples.INFO)
    replay = listener.replay(bag, "--loop", "--rate", "10", "-t", samples.INFO)
    listener.spin_until(lambda: len(listener.heard[samples.INFO]) > 2 * samples.FRAMES)
    replay.send_signal(signal.SIGINT)
    said = finish(replay)
    assert "Traceback" not in said
    assert stamps(listener.heard[samples.INFO])[: 2 * samples.FRAMES] == 2 * EVERY_STAMP


def test_a_loop_lasts_as_long_as_the_bag_whatever_of_it_is_played(tmp_path: Path) -> None:
    source = samples.write_rosbag2(tmp_path / "bag")
    waited: list[int] = []

    def wait_until(due: int, time: int) -> bool:
        waited.append(due)
        return len(waited) < 6

    with BagReader(source) as bag:
        settings = ReplaySettings(loop=True, rate=2.0, topics=[samples.TF_STATIC])
        played = list(play(bag, settings, now=lambda: waited[-1] if waited else 0, wait_until=wait_until))
        length = (bag.end - bag.start) // 2
    assert len(played) == 3
    assert waited[1] == pytest.approx(length, abs=2)
    assert waited[-1] == pytest.approx(3 * length, abs=6)


def test_latched_topic_reaches_who_comes_late(tmp_path: Path, listener: Listener) -> None:
    qos = {samples.INFO: LATCHED_QOS}
    bag = samples.write_rosbag2(tmp_path / "bag", qos=qos)
    replay = listener.replay(bag, "--loop", "--wait-for", "0", "-t", samples.INFO, "-t", samples.IMAGE, "--rate", "0.1")
    listener.listen(Image, samples.IMAGE)
    listener.spin_until(lambda: len(listener.heard[samples.IMAGE]) == 1)
    late = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listener.listen(CameraInfo, samples.INFO, late)
    listener.spin_until(lambda: bool(listener.heard[samples.INFO]))
    assert stamps(listener.heard[samples.INFO])[0] == EVERY_STAMP[0]
    replay.send_signal(signal.SIGINT)
    finish(replay)


def test_types_that_are_not_installed_are_named_and_left_out(tmp_path: Path, listener: Listener) -> None:
    try:
        import tf2_msgs  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("tf2_msgs is installed, so the sample bag has no unknown type")
    said = finish(listener.replay(samples.write_rosbag2(tmp_path / "bag"), "--wait-for", "0", "--rate", "10"))
    assert "not published: /tf_static (message type tf2_msgs/msg/TFMessage is not installed)" in said


def test_missing_bag_is_exit_code_2(tmp_path: Path, listener: Listener) -> None:
    replay = listener.replay(tmp_path / "none.bag")
    _, said = replay.communicate(timeout=90)
    assert replay.returncode == 2
    assert said.splitlines() == [f"error: {tmp_path / 'none.bag'}: no such bag"]


def test_what_is_replayed_is_recorded_byte_for_byte(tmp_path: Path, listener: Listener) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    topics = (samples.IMAGE, samples.INFO, samples.LIDAR)
    with BagReader(bag) as source:
        known = [f"{topic}={source.topics[topic].type}" for topic in topics]
        expected = {topic: [m.data for m in source.messages([topic])] for topic in topics}
    recorder = listener.start("record", "-o", tmp_path / "recording", *known)
    finish(listener.replay(bag, "--wait-for", "3", "--wait-timeout", "60"))
    recorder.send_signal(signal.SIGINT)
    assert f"recording 3 topics into {tmp_path / 'recording'}" in finish(recorder)
    with BagReader(tmp_path / "recording") as recording:
        for topic, sent in expected.items():
            received = [m.data for m in recording.messages([topic])]
            assert len(received) == len(sent)
            for got, data in zip(received, sent, strict=True):
                assert got[: len(data)] == data
                assert got[len(data) :] in (b"", b"\0", b"\0\0", b"\0\0\0")  # DDS fills words of four bytes
        times = [m.time for m in recording.messages([samples.IMAGE])]
    assert times == sorted(times)
    assert abs(times[-1] - time.time_ns()) < 600e9  # when it was received, not when it was first recorded


def test_recording_what_nobody_publishes_is_exit_code_2(tmp_path: Path, listener: Listener) -> None:
    recorder = listener.start("record", "-o", tmp_path / "recording", "/silence", "--wait-timeout", "0.5")
    _, said = recorder.communicate(timeout=90)
    assert recorder.returncode == 2
    assert said == "error: nobody publishes /silence (waited 0.5 s)\n"
    assert list(tmp_path.iterdir()) == []


def test_quality_of_service_follows_the_bag() -> None:
    best_effort = RELIABLE_QOS._replace(reliability=QosReliability.BEST_EFFORT, depth=3)
    sensor = publisher_qos(BagTopic("/image", "sensor_msgs/msg/Image", 1, (best_effort,)))
    assert sensor.reliability == ReliabilityPolicy.BEST_EFFORT
    assert sensor.durability == DurabilityPolicy.VOLATILE
    assert (
        publisher_qos(BagTopic("/image", "", 1, (best_effort,)), "reliable").reliability == ReliabilityPolicy.RELIABLE
    )
    assert publisher_qos(BagTopic("/image", "", 1)).reliability == ReliabilityPolicy.RELIABLE
    for latched in (
        BagTopic("/map", "", 1, (RELIABLE_QOS._replace(durability=QosDurability.TRANSIENT_LOCAL),)),
        BagTopic("/map", "", 1, latched=True),
        BagTopic("/robot/tf_static", "", 1),
    ):
        assert publisher_qos(latched).durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert publisher_qos(latched).reliability == ReliabilityPolicy.RELIABLE
