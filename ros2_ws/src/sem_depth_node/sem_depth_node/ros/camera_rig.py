"""How many frames of how many cameras the node answers on this machine, and how evenly.

Cameras and listeners are in this process, the node in one or several of its own, DDS in between, as on a robot.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image

from sem_depth_node.child_process import ProcessError
from sem_depth_node.ros.diagnostics import percentile
from sem_depth_node.ros.node_process import NodeProcess
from sem_depth_node.ros.spinning import spinning_node

# "shared": one node with all cameras. "separate": one node, in a process of its own, for each camera.
Arrangement = Literal["shared", "separate"]

# Of all topics, so that a robot in the same domain is left alone.
_NAMESPACE = "/camera_rig"
_GETS_READY = 120.0  # seconds; an engine that must be compiled is to be compiled before
# Subscriptions that adapt their QoS to ours leave and come back once: only a match that lasts is the real one.
_SETTLES = 1.5
# Frames of this long are not counted: first use, first diagnostics.
_WARM_UP = 3.0


@dataclass(frozen=True)
class RigSettings:
    """What to measure.

    Attributes:
        rates: Hz, of each camera.
        width, height: of the images, pixels.
        seconds: to measure for.
        parameters: of the node or nodes, as "name:=value".
    """

    rates: tuple[float, ...] = (10.0,) * 5
    width: int = 1242
    height: int = 375
    seconds: float = 20.0
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if wrong := [rate for rate in self.rates if not 0 < rate < math.inf]:
            raise ValueError(f"rate of a camera is {wrong[0]}, expected above 0")

    @property
    def cameras(self) -> dict[str, float]:
        """Rates by name."""
        return {f"camera{index}": rate for index, rate in enumerate(self.rates)}


@dataclass
class CameraRate:
    """What became of one camera's images.

    Attributes:
        sent: images.
        answered: when each depth image came, seconds.
        latencies: ms in the node, of each.
    """

    sent: int = 0
    answered: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds."""
        times = [begin, *self.answered, end]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass(frozen=True)
class RigMeasurement:
    """One arrangement, measured once.

    Attributes:
        arrangement: as given.
        sent: images a second, by camera; fewer than asked for where the machine is too slow to show them.
        rates: depth images a second, by camera.
        longest_gap: seconds without a depth image, of the camera that fared worst.
        latency_median, latency_p95: ms in the node, over all cameras.
        memory_mib: of the node's processes, shared pages counted once among those who share (PSS).
        processors: processor seconds a second of the node's processes.
        rig_processors: the same of cameras and listeners.
        load_before: the machine's load average (1 min) before.
    """

    arrangement: Arrangement
    sent: dict[str, float]
    rates: dict[str, float]
    longest_gap: float
    latency_median: float
    latency_p95: float
    memory_mib: float
    processors: float
    rig_processors: float
    load_before: float

    @property
    def total_rate(self) -> float:
        """Depth images a second, of all cameras."""
        return sum(self.rates.values())

    @property
    def fairness(self) -> float:
        """Rate of the camera that fared worst over that of the best; 1 where all fare alike or nobody gets anything."""
        best = max(self.rates.values())
        return min(self.rates.values()) / best if best else 1.0


def measure(
    arrangement: Arrangement, settings: RigSettings, say: Callable[[str], object] = lambda text: None
) -> RigMeasurement:
    """Start the node or nodes, show images, count answers, end them.

    Args:
        arrangement: of cameras over nodes.
        settings: what to measure.
        say: told of each phase.

    Raises:
        ProcessError: a node did not start, ended early, or answered nothing.
    """
    load = os.getloadavg()[0]
    cameras = settings.cameras
    with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
        say(f"{arrangement}: starting")
        nodes = [
            stack.enter_context(NodeProcess(arguments, Path(logs) / f"{index}.log"))
            for index, arguments in enumerate(_node_arguments(arrangement, settings))
        ]
        rig = _Rig(stack.enter_context(spinning_node("camera_rig", _NAMESPACE)), settings)
        rig.wait_until_matched(nodes)
        say(f"{arrangement}: measuring for {settings.seconds:g} s")
        rig.run(_WARM_UP)
        before = [used.processor_seconds for used in nodes], time.process_time()
        begin = time.monotonic()
        counts = rig.run(settings.seconds)
        seconds = time.monotonic() - begin
        for process in nodes:
            process.check_alive()
        used = sum(now.processor_seconds for now in nodes) - sum(before[0])
        memory = sum(process.memory_mib for process in nodes)
        rig_used = time.process_time() - before[1]
        latencies = [latency for count in counts.values() for latency in count.latencies]
        if not latencies:
            raise ProcessError(f"no depth image came within {seconds:.0f} s; {nodes[0].tail}")
    return RigMeasurement(
        arrangement,
        {name: counts[name].sent / seconds for name in cameras},
        {name: len(counts[name].answered) / seconds for name in cameras},
        max(count.longest_gap(begin, begin + seconds) for count in counts.values()),
        statistics.median(latencies),
        percentile(latencies, 0.95),
        memory,
        used / seconds,
        rig_used / seconds,
        load,
    )


class _Rig:
    """Cameras and listeners."""

    def __init__(self, node: Node, settings: RigSettings) -> None:
        self._node, self._rates = node, settings.cameras
        pixels = np.random.default_rng(0).integers(0, 256, (settings.height, settings.width, 3), np.uint8)
        self._pixels = array.array("B", pixels.tobytes())
        self._settings = settings
        self._clock = Clock()
        self._counts: dict[str, CameraRate] = {}
        self._images: dict[str, Publisher] = {}
        self._infos: dict[str, Publisher] = {}
        self._subscriptions: list[Any] = []
        for name in self._rates:
            self._images[name] = node.create_publisher(Image, f"{name}/image", 5)
            self._infos[name] = node.create_publisher(CameraInfo, f"{name}/camera_info", 5)
            # Serialized, because only its coming counts.
            self._subscriptions += [
                node.create_subscription(Image, f"{name}/depth/image", self._on_depth(name), 5, raw=True),
                node.create_subscription(DiagnosticArray, f"{name}/depth/timing", self._on_timing(name), 20),
            ]

    def wait_until_matched(self, nodes: Sequence[NodeProcess]) -> None:
        give_up, since = time.monotonic() + _GETS_READY, None
        while True:
            for process in nodes:
                process.check_alive()
            matched = all(
                publisher.get_subscription_count() == 1 for publisher in (*self._images.values(), *self._infos.values())
            ) and all(self._node.count_publishers(s.topic_name) == 1 for s in self._subscriptions)
            now = time.monotonic()
            since = (since or now) if matched else None
            if since is not None and now - since > _SETTLES:
                return
            if now > give_up:
                raise ProcessError(f"the topics of all cameras did not match within {_GETS_READY:g} s; {nodes[0].tail}")
            time.sleep(0.05)

    def run(self, seconds: float) -> dict[str, CameraRate]:
        """Show images for so long; what came of them, by camera."""
        self._counts = counts = {name: CameraRate() for name in self._rates}
        end = time.monotonic() + seconds
        threads = [
            # Cameras of a robot are not in step either.
            threading.Thread(target=self._show, args=(name, rate, index / len(self._rates) / rate, end))
            for index, (name, rate) in enumerate(self._rates.items())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._counts = {}
        return counts

    def _show(self, name: str, rate: float, offset: float, end: float) -> None:
        width, height = self._settings.width, self._settings.height
        f, cx, cy = 0.58 * width, width / 2 - 0.5, height / 2 - 0.5
        info = CameraInfo(width=width, height=height, k=[f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0])
        image = Image(width=width, height=height, encoding="rgb8", step=3 * width, data=self._pixels)
        image.header.frame_id = info.header.frame_id = name
        due = time.monotonic() + offset
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            image.header.stamp = info.header.stamp = self._clock.now().to_msg()
            self._infos[name].publish(info)
            self._images[name].publish(image)
            if count := self._counts.get(name):
                count.sent += 1
            due += 1 / rate

    def _on_depth(self, name: str) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            if count := self._counts.get(name):
                count.answered.append(time.monotonic())

        return receive

    def _on_timing(self, name: str) -> Callable[[DiagnosticArray], None]:
        def receive(message: DiagnosticArray) -> None:
            if count := self._counts.get(name):
                count.latencies += [
                    float(pair.value) for pair in message.status[0].values if pair.key == "latency (ms)"
                ]

        return receive


def _node_arguments(arrangement: Arrangement, settings: RigSettings) -> list[list[str]]:
    common = [word for parameter in settings.parameters for word in ("-p", parameter)]
    names = list(settings.cameras)
    if arrangement == "shared":
        return [["-r", f"__ns:={_NAMESPACE}", "-p", f"cameras:={names}", *common]]
    return [["-r", f"__ns:={_NAMESPACE}/{name}", *common] for name in names]
