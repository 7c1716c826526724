"""How old the node's answers are, how many it gives, and what it costs beside the engine: a real node over real DDS.

Camera and listeners are in this process, the node in one of its own, every output subscribed. Setups take turns, each
with a fresh node, so that a machine whose speed drifts slows all of them alike.
"""

from __future__ import annotations

import array
import contextlib
import os
import statistics
import struct
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image

from sem_depth_node.child_process import ProcessError
from sem_depth_node.ros.node_process import NodeProcess
from sem_depth_node.ros.outputs import TOPICS
from sem_depth_node.ros.spinning import spinning_node

LISTENED = tuple(topic for topic in TOPICS if topic != "depth/scale_check")
# What a frame's age is told of: each output, and the moment when all of them are there.
ALL = "all"
_GETS_READY = 900.0  # seconds; a GPU's engine may have to be compiled
# Frames of this long are not counted: first use, and subscriptions that leave and come back with the other's QoS.
_WARM_UP = 3.0
# For the frame in work when the camera stops.
_LAST_FRAME = 1.0


@dataclass(frozen=True)
class NodeSetup:
    """What to run and what to show to it.

    Attributes:
        name: as it appears in the table.
        parameters: of the node, as "name:=value".
        rate: images a second.
        width, height: of the images (rgb8), pixels.
    """

    name: str
    parameters: tuple[str, ...] = ()
    rate: float = 10.0
    width: int = 1242
    height: int = 375


@dataclass(frozen=True)
class Spread:
    """Of the frames of all turns, ms."""

    p5: float
    median: float
    p95: float


@dataclass(frozen=True)
class NodeMeasurement:
    """What was measured of one setup, over all turns.

    Attributes:
        setup: as given.
        sent, lost, answered: images shown; those that never reached the node; those answered with every output.
        rate: images answered a second; median of the turns.
        age: by output, from the image's stamp to the moment DDS here received the output; `ALL` is the last of them.
        times: by what they were spent on, of the frames answered (see `FrameTiming`).
        first_depth: seconds from the start of the process to the first depth image, the camera running already.
        peak_memory_mib: largest resident size of the node in any turn.
        processors: processor seconds a second of the node; median of the turns.
        rig_processors: the same of camera and listeners, which share the machine with it.
    """

    setup: NodeSetup
    sent: int
    lost: int
    answered: int
    rate: float
    age: Mapping[str, Spread]
    times: Mapping[str, Spread]
    first_depth: float
    peak_memory_mib: float
    processors: float
    rig_processors: float


@dataclass
class _Turn:
    """What one turn heard.

    Attributes:
        sent: stamps of the images shown, ns.
        arrivals: when DDS here received each output, by stamp and topic, ns.
        times: `depth/timing` by stamp, ms.
    """

    sent: set[int] = field(default_factory=set)
    arrivals: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    times: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    lost: int = 0
    first_depth: float = 0.0
    peak_memory_mib: float = 0.0
    processors: float = 0.0
    rig_processors: float = 0.0

    @property
    def answered(self) -> list[int]:
        """Stamps of the images that every output came of."""
        return [stamp for stamp in sorted(self.sent) if len(self.arrivals[stamp]) == len(LISTENED)]


def measure_node(
    setups: Sequence[NodeSetup], rounds: int, seconds: float, say: Callable[[str], object] = lambda text: None
) -> list[NodeMeasurement]:
    """Let the setups take turns of `seconds`, `rounds` times over.

    Args:
        setups: to measure.
        rounds: turns of each.
        seconds: counted in a turn; about 10 s of start, warm-up and end come to it.
        say: told of each turn.

    Raises:
        ProcessError: a node did not start, ended early, or answered nothing.
        ValueError: there is nothing to do.
    """
    if not setups or rounds < 1 or seconds <= 0:
        raise ValueError(f"{len(setups)} setups, {rounds} rounds of {seconds:g} s: expected one or more, and a time")
    turns: dict[int, list[_Turn]] = defaultdict(list)
    for round_ in range(rounds):
        for index, setup in enumerate(setups):
            say(f"{setup.name}: turn {round_ + 1} of {rounds}")
            turns[index].append(_turn(setup, seconds))
    return [_summary(setup, turns[index]) for index, setup in enumerate(setups)]


def _turn(setup: NodeSetup, seconds: float) -> _Turn:
    namespace = f"/sem_depth_benchmark_{os.getpid()}"  # so that a robot in the same domain is left alone
    arguments = ["-r", f"__ns:={namespace}", "-r", f"/diagnostics:={namespace}/diagnostics"]
    arguments += [word for parameter in setup.parameters for word in ("-p", parameter)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        rig = _Rig(stack.enter_context(spinning_node("camera_and_listeners", namespace)), setup)
        with rig.camera(), NodeProcess(arguments, Path(folder) / "node.log") as node:
            turn = _Turn(first_depth=(rig.wait_for_depth(node) - node.started) / 1e9)
            time.sleep(_WARM_UP)
            rig.pause_camera()
            received = rig.frames_received(node)
            used, rig_used, begin = node.processor_seconds, time.process_time(), time.monotonic()
            rig.turn = turn
            rig.resume_camera()
            time.sleep(seconds)
            turn.seconds = time.monotonic() - begin
            turn.processors = (node.processor_seconds - used) / turn.seconds
            turn.rig_processors = (time.process_time() - rig_used) / turn.seconds
            rig.pause_camera()
            turn.lost = len(turn.sent) - (rig.frames_received(node) - received)
            turn.peak_memory_mib = node.peak_memory_mib
            node.check_alive()
            if not turn.answered:
                raise ProcessError(f"no image was answered with every output in {seconds:g} s; {node.tail}")
    return turn


class _Rig:
    """A camera and the listeners to every output.

    Attributes:
        turn: that what is heard belongs to.
    """

    def __init__(self, node: Node, setup: NodeSetup) -> None:
        self._setup, self._node = setup, node
        pixels = np.random.default_rng(0).integers(0, 256, (setup.height, setup.width, 3), np.uint8)
        self._pixels = array.array("B", pixels.tobytes())
        self._image = node.create_publisher(Image, "image", 10)
        self._info = node.create_publisher(CameraInfo, "camera_info", 10)
        self._showing, self._ended = threading.Event(), threading.Event()
        self._idle = threading.Event()
        self._received: tuple[float, int] = (0.0, 0)
        self.turn = _Turn()
        for topic in LISTENED:
            # Serialized, because taking a cloud apart costs more than the node has spent on it.
            node.create_subscription(TOPICS[topic], topic, self._listener(topic), 10, raw=True)
        node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, 10)

    @contextlib.contextmanager
    def camera(self) -> Iterator[None]:
        """Show images meanwhile."""
        thread = threading.Thread(target=self._show, name="camera")
        self._showing.set()
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._showing.set()
            thread.join()

    def pause_camera(self) -> None:
        """Show no more images, and wait until the last one is answered."""
        self._showing.clear()
        self._idle.wait()
        time.sleep(_LAST_FRAME)

    def resume_camera(self) -> None:
        """Go on."""
        self._showing.set()

    def wait_for_depth(self, node: NodeProcess) -> int:
        """When the first depth image came, ns."""
        give_up = time.monotonic() + _GETS_READY
        while True:
            node.check_alive()
            for outputs in list(self.turn.arrivals.values()):
                if "depth/image" in outputs:
                    return outputs["depth/image"]
            if time.monotonic() > give_up:
                raise ProcessError(f"no depth image came in {_GETS_READY:g} s; {node.tail}")
            time.sleep(0.02)

    def frames_received(self, node: NodeProcess) -> int:
        """Images that have reached the node, by its own count; call it while the camera pauses."""
        now = time.monotonic()
        while self._received[0] < now:
            node.check_alive()
            time.sleep(0.02)
        return self._received[1]

    def _show(self) -> None:
        width, height, clock = self._setup.width, self._setup.height, self._node.get_clock()
        f, cx, cy = 0.58 * width, width / 2 - 0.5, 0.46 * height
        info = CameraInfo(width=width, height=height, k=[f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0])
        image = Image(width=width, height=height, encoding="rgb8", step=3 * width, data=self._pixels)
        image.header.frame_id = info.header.frame_id = "camera"
        due = time.monotonic()
        while not self._ended.is_set():
            if not self._showing.is_set():
                self._idle.set()
                self._showing.wait()
                self._idle.clear()
                due = time.monotonic()
                continue
            stamp = clock.now()
            image.header.stamp = info.header.stamp = stamp.to_msg()
            self.turn.sent.add(stamp.nanoseconds)
            self._info.publish(info)
            self._image.publish(image)
            due = max(due + 1 / self._setup.rate, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _listener(self, topic: str) -> Callable[[bytes, Mapping[str, Any]], None]:
        def receive(data: bytes, info: Mapping[str, Any]) -> None:
            # Every output begins with its header: after four bytes that say how it is encoded, seconds, nanoseconds.
            seconds, nanoseconds = struct.unpack_from("<iI", data, 4)
            stamp = seconds * 10**9 + nanoseconds
            # When DDS received it, not when Python got round to it.
            self.turn.arrivals[stamp][topic] = int(info["received_timestamp"])
            if topic == "depth/timing":
                values = deserialize_message(data, DiagnosticArray).status[0].values
                self.turn.times[stamp] = {pair.key.removesuffix(" (ms)"): float(pair.value) for pair in values}

        return receive

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for pair in status.values:
                if pair.key == "frames received":
                    self._received = time.monotonic(), int(pair.value)


def _summary(setup: NodeSetup, turns: Sequence[_Turn]) -> NodeMeasurement:
    age: dict[str, list[float]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    for turn in turns:
        for stamp in turn.answered:
            arrivals = turn.arrivals[stamp]
            for topic, arrival in (*arrivals.items(), (ALL, max(arrivals.values()))):
                age[topic].append((arrival - stamp) / 1e6)
            for name, value in turn.times[stamp].items():
                times[name].append(value)
    return NodeMeasurement(
        setup,
        sent=sum(len(turn.sent) for turn in turns),
        lost=sum(turn.lost for turn in turns),
        answered=sum(len(turn.answered) for turn in turns),
        rate=statistics.median(len(turn.answered) / turn.seconds for turn in turns),
        age={topic: _spread(values) for topic, values in age.items()},
        times={name: _spread(values) for name, values in times.items()},
        first_depth=statistics.median(turn.first_depth for turn in turns),
        peak_memory_mib=max(turn.peak_memory_mib for turn in turns),
        processors=statistics.median(turn.processors for turn in turns),
        rig_processors=statistics.median(turn.rig_processors for turn in turns),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(value) for value in np.percentile(values, [5, 50, 95])))
