"""Publishing a bag over ROS 2 at its recorded rate, for machines without `ros2 bag play`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability, QosReliability
from rosgraph_msgs.msg import Clock

from sem_depth_node.bags.reader import BagError, BagMessage, BagReader, BagTopic
from sem_depth_node.bags.replay import NANOSECONDS, ReplaySettings, latched_before, play

Reliability = Literal["bag", "reliable", "best_effort"]

_CLOCK_PERIOD = NANOSECONDS // 100
_DISCOVERY_POLL = 0.05
# Subscribers that adapt their QoS to ours leave and come back once: only a count that lasts is the real one.
_DISCOVERY_SETTLES = 1.0
# Latched topics keep every message for late joiners, as several publishers may each have contributed one.
_LATCHED_DEPTH = 100
_QUEUE_DEPTH = 10


@dataclass
class ReplayReport:
    """What a replay did.

    Attributes:
        published: messages by topic.
        skipped: topics that could not be published, and why.
        subscriptions: matched when playing began.
        latest: the farthest behind schedule a message was, seconds.
        seconds: playing time.
    """

    published: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    subscriptions: int = 0
    latest: float = 0.0
    seconds: float = 0.0


class BagPlayer:
    """Publishes the messages of a bag from a node.

    Args:
        node: to make publishers on.
        bag: open.
        settings: what to play and how fast.
        clock: publish the bag's time on /clock at 100 Hz of wall time.
        reliability: "bag" for what the bag says each topic's publisher offered (reliable where it does not say), or
            one policy for all topics.

    Attributes:
        report: filled while playing.

    Raises:
        BagError: none of the topics can be published.
    """

    def __init__(
        self,
        node: Node,
        bag: BagReader,
        settings: ReplaySettings,
        *,
        clock: bool = False,
        reliability: Reliability = "bag",
    ) -> None:
        self.report = ReplayReport()
        self._bag = bag
        self._settings = settings
        self._publishers: dict[str, Publisher] = {}
        chosen = bag.topics if settings.topics is None else settings.topics
        for name in chosen:
            if name not in bag.topics:
                raise BagError(f"{bag.path}: no topic {name}; {bag.listing()}")
            topic = bag.topics[name]
            try:
                message_class = message_class_of(topic.type)
            except ImportError as error:
                self.report.skipped[name] = str(error)
                continue
            self._publishers[name] = node.create_publisher(message_class, name, publisher_qos(topic, reliability))
        if not self._publishers:
            reasons = "; ".join(sorted(set(self.report.skipped.values()))) or bag.listing()
            raise BagError(f"{bag.path}: no topic of it can be published: {reasons}")
        self._clock = node.create_publisher(Clock, "/clock", 10) if clock else None
        self._clock_due = 0
        self._playable = ReplaySettings(
            settings.rate, settings.loop, settings.start, settings.duration, tuple(self._publishers)
        )
        self._published = dict.fromkeys(self._publishers, 0)
        self.report.published = self._published

    def wait_for_subscriptions(self, count: int, timeout: float) -> bool:
        """Wait until `count` subscriptions altogether have matched for a second; False after `timeout` seconds."""
        give_up = time.monotonic() + timeout
        since: float | None = None
        while True:
            self.report.subscriptions = sum(p.get_subscription_count() for p in self._publishers.values())
            now = time.monotonic()
            since = (since or now) if self.report.subscriptions >= count else None
            if since is not None and now - since >= _DISCOVERY_SETTLES:
                return True
            if now >= give_up:
                return False
            time.sleep(_DISCOVERY_POLL)

    def play(self, on_message: Callable[[BagMessage], None] = lambda message: None) -> None:
        """Publish until the end of the bag (or for ever, looping), then until reliable subscribers have everything.

        Args:
            on_message: called after each message is published.
        """
        began = time.monotonic()
        latched = [name for name in self._publishers if is_latched(self._bag.topics[name])]
        for message in latched_before(self._bag, self._playable, latched):
            self._publish(message)
        for message in play(self._bag, self._playable, wait_until=self._wait_until):
            self._publish(message)
            on_message(message)
        self.report.seconds = time.monotonic() - began
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=5))

    def _publish(self, message: BagMessage) -> None:
        self._publishers[message.topic].publish(message.data)
        self._published[message.topic] += 1

    def _wait_until(self, due: int, bag_time: int) -> bool:
        while (left := due - time.monotonic_ns()) > 0:
            pause = left
            if self._clock is not None:
                self._tick(bag_time - round(left * self._settings.rate))
                pause = min(left, _CLOCK_PERIOD)
            time.sleep(pause / NANOSECONDS)
        self.report.latest = max(self.report.latest, -left / NANOSECONDS)
        if self._clock is not None:
            self._tick(bag_time)
        return True

    def _tick(self, bag_time: int) -> None:
        assert self._clock is not None
        if time.monotonic_ns() < self._clock_due:
            return
        self._clock_due = time.monotonic_ns() + _CLOCK_PERIOD
        seconds, nanoseconds = divmod(bag_time, NANOSECONDS)
        self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))


def message_class_of(message_type: str) -> Any:
    """The rclpy class of a message type such as "sensor_msgs/msg/Image".

    Raises:
        ImportError: its package is not installed or has no such message.
    """
    package, _, name = message_type.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise ImportError(f"message type {message_type} is not installed") from None


def is_latched(topic: BagTopic) -> bool:
    """Whether late subscribers shall get what was published before: /tf_static, rosbag1's latched, transient local."""
    offered = [qos.durability for qos in topic.qos]
    return (
        topic.name.rpartition("/")[2] == "tf_static"
        or topic.latched
        or (bool(offered) and all(durability is QosDurability.TRANSIENT_LOCAL for durability in offered))
    )


def publisher_qos(topic: BagTopic, reliability: Reliability = "bag") -> QoSProfile:
    """What to offer for a topic: what every recorded publisher offered, reliable where the bag does not say."""
    if reliability == "bag":
        best_effort = any(qos.reliability is QosReliability.BEST_EFFORT for qos in topic.qos)
    else:
        best_effort = reliability == "best_effort"
    latched = is_latched(topic)
    depth = max([_QUEUE_DEPTH, *(qos.depth for qos in topic.qos)])
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_LATCHED_DEPTH if latched else depth,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort and not latched else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
