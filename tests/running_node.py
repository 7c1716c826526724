"""The node in a process of its own, and a camera and listener beside it, over real DDS."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from sem_depth_node.shipped import shipped_folder

# With the default transports a single large message may wait 3 s for its repetition.
_PROFILE = str(shipped_folder("config") / "fastdds_shared_memory.xml")
SHARED_MEMORY = {"FASTRTPS_DEFAULT_PROFILES_FILE": _PROFILE, "FASTDDS_DEFAULT_PROFILES_FILE": _PROFILE}

PATIENCE = 60.0  # seconds; long, because machines are busy, and nothing waits longer than it must

OUTPUTS = {
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "depth/confidence": Image,
    "depth/points": PointCloud2,
    "depth/preview": Image,
    "depth/timing": DiagnosticArray,
}

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """The first answer of `look` that is true; fails the test where none comes."""
    end = time.monotonic() + patience
    while True:
        if found := look():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:g} s in vain for {what}")
        time.sleep(0.02)


def free_domain() -> int:
    """A ROS domain whose discovery port nobody listens on."""
    for domain in random.sample(range(1, 101), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind(("", 7400 + 250 * domain))  # DDSI-RTPS 9.6.1.1, multicast discovery
            return domain
    raise AssertionError("no ROS domain from 1 to 100 is free")


class RunningNode:
    """`sem_depth_node` as a process. Leaving the `with` ends it.

    Attributes:
        domain: its ROS domain.
        log: lines it has printed.
    """

    def __init__(
        self,
        domain: int,
        parameters: Mapping[str, object],
        *ros_arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.domain = domain
        self.log: list[str] = []
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={_yaml(value)}")]
        command = [sys.executable, "-m", "sem_depth_node.ros.node", "--ros-args"]
        command += [*arguments, *ros_arguments]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **SHARED_MEMORY, **(environment or {}), "ROS_DOMAIN_ID": str(domain)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def said(self, *words: str) -> str:
        """Wait for a line with all of `words`."""
        try:
            return wait_for(
                lambda: next((line for line in list(self.log) if all(word in line for word in words)), None),
                f"a line with {words}",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; the node said:\n" + "\n".join(self.log)) from None

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal; returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("the node did not end:\n" + "\n".join(self.log)) from None
        finally:
            self._reader.join()

    def __enter__(self) -> RunningNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


class Bench:
    """What a robot has around the node: a camera, listeners, a console. All in this process.

    Args:
        domain: ROS domain.
        node: fully qualified name of the node under test.
        namespace: of its topics.
    """

    def __init__(self, domain: int, node: str = "/sem_depth", namespace: str = "") -> None:
        self.domain = domain
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.ros = rclpy.create_node("bench", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.ros)
        self._name, self._namespace = node, namespace
        self._publishers: dict[str, Any] = {}
        self._subscriptions: dict[str, Any] = {}
        self.received: dict[str, list[Any]] = defaultdict(list)
        self.listen("/diagnostics", DiagnosticArray)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closed.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """End it."""
        self._closed.set()
        self._thread.join()
        self._executor.shutdown()
        self.ros.destroy_node()
        rclpy.shutdown(context=self._context)

    # Listening

    def listen(self, topic: str, message_type: type | None = None) -> None:
        """Subscribe to an output ("depth/image") or any topic ("/x")."""
        message_type = message_type or OUTPUTS[topic]
        name = topic if topic.startswith("/") else f"{self._namespace}/{topic}"
        self._subscriptions[topic] = self.ros.create_subscription(
            message_type, name, self.received[topic].append, QoSProfile(depth=20)
        )

    def listen_to_all(self) -> None:
        """Subscribe to every output that is not subscribed to, and wait until its publisher is known."""
        for topic in OUTPUTS.keys() - self._subscriptions.keys():
            self.listen(topic)
        for topic in OUTPUTS:
            name = f"{self._namespace}/{topic}"
            wait_for(lambda name=name: self.ros.count_publishers(name), f"a publisher of {name}")

    def ignore_all(self) -> None:
        """Unsubscribe from every output."""
        for topic in OUTPUTS.keys() & self._subscriptions.keys():
            self.ros.destroy_subscription(self._subscriptions.pop(topic))
            self.received[topic].clear()

    def output(self, topic: str, stamp: int) -> Any:
        """The message of an output that has this stamp (nanoseconds)."""
        return wait_for(
            lambda: next((m for m in list(self.received[topic]) if nanoseconds(m) == stamp), None),
            f"{topic} of stamp {stamp}",
        )

    def has(self, topic: str, stamp: int) -> bool:
        """Whether the message of an output that has this stamp has come."""
        return any(nanoseconds(message) == stamp for message in list(self.received[topic]))

    # The camera

    def camera(
        self,
        image: str = "image",
        camera_info: str = "camera_info",
        compressed: bool = False,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
    ) -> None:
        """Advertise image and camera_info anew, and wait until the node subscribes to both as they are offered."""
        for publisher in self._publishers.values():
            self.ros.destroy_publisher(publisher)
        topics = {"image": image, "camera_info": camera_info}
        for key, topic in topics.items():
            self.advertise(key, reliability, durability, topic, compressed)
        for key, publisher in self._publishers.items():
            name = publisher.topic_name
            wait_for(lambda name=name: self.subscribed_as(name) == (reliability, durability), f"subscription to {name}")
            # The node's first subscription may have been matched, and ended, just now.
            wait_for(lambda key=key: self._publishers[key].get_subscription_count() == 1, f"one subscriber of {name}")

    def advertise(
        self,
        key: str,
        reliability: ReliabilityPolicy,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        topic: str = "",
        compressed: bool = False,
    ) -> None:
        """Advertise "image" or "camera_info", under a name that may be another."""
        kind = CameraInfo if key == "camera_info" else CompressedImage if compressed else Image
        topic = topic or key
        name = topic if topic.startswith("/") else f"{self._namespace}/{topic}"
        qos = QoSProfile(depth=10, reliability=reliability, durability=durability)
        self._publishers[key] = self.ros.create_publisher(kind, name, qos)

    def subscribed_as(self, topic: str) -> tuple[ReliabilityPolicy, DurabilityPolicy] | None:
        """Reliability and durability of the node's subscription to a topic."""
        infos = self.ros.get_subscriptions_info_by_topic(topic)
        if len(infos) != 1:
            return None
        return infos[0].qos_profile.reliability, infos[0].qos_profile.durability

    def show(self, image: Image | CompressedImage, info: CameraInfo | None = None) -> None:
        """Publish camera_info, where given, and image."""
        if info is not None:
            self._publishers["camera_info"].publish(info)
        self._publishers["image"].publish(image)

    def show_info(self, info: CameraInfo) -> None:
        """Publish only camera_info."""
        self._publishers["camera_info"].publish(info)

    # The console

    def state(self) -> str:
        """Label of the node's lifecycle state."""
        return str(self._call(GetState, "get_state", GetState.Request()).current_state.label)

    def transition(self, which: int) -> bool:
        """Ask for a transition of lifecycle_msgs/Transition; whether it succeeded."""
        return bool(self.begin_transition(which)())

    def begin_transition(self, which: int) -> Callable[[], bool]:
        """Ask for a transition; what is returned waits for the answer."""
        answer = self._begin(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=which)))
        return lambda: bool(answer().success)

    def set(self, **parameters: object) -> SetParametersResult:
        """Set parameters one by one; the first refusal, or success."""
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()]
        )
        results = self._call(SetParameters, "set_parameters", request).results
        return next((result for result in results if not result.successful), results[0])

    def diagnosis(self, status: str, accept: Callable[[Any, dict[str, str]], bool]) -> tuple[Any, dict[str, str]]:
        """The first entry of /diagnostics from now on that `accept` takes: status and its key-values."""
        seen = len(self.received["/diagnostics"])
        name = f"{self._name.lstrip('/')}: {status}"

        def look() -> tuple[Any, dict[str, str]] | None:
            for array in self.received["/diagnostics"][seen:]:
                for entry in array.status:
                    values = {pair.key: pair.value for pair in entry.values}
                    if entry.name == name and accept(entry, values):
                        return entry, values
            return None

        return wait_for(look, f"diagnostics {name!r} as expected")

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        return self._begin(kind, name, request)()

    def _begin(self, kind: Any, name: str, request: Any) -> Callable[[], Any]:
        client = self.ros.create_client(kind, f"{self._name}/{name}")
        assert client.wait_for_service(PATIENCE), f"no service {name}"
        future = client.call_async(request)

        def answer() -> Any:
            wait_for(future.done, f"an answer of {name}", 3 * PATIENCE)
            self.ros.destroy_client(client)
            return future.result()

        return answer


@contextlib.contextmanager
def bench(domain: int, **options: str) -> Iterator[Bench]:
    """A `Bench` that is closed at the end."""
    opened = Bench(domain, **options)
    try:
        yield opened
    finally:
        opened.close()


def nanoseconds(message: Any) -> int:
    """Stamp of a message."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
