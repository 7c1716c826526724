"""Recording topics into a rosbag2, for machines without `ros2 bag record`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from sem_depth_node.bags.writer import BagWriter
from sem_depth_node.ros.replay import message_class_of

# Deep enough that a reliable publisher does not overwrite what a disk that stalls has not taken yet.
_DEPTH = 50
_POLL = 0.1


class Recorder:
    """Writes the messages of some topics to a bag, at the times they were received, as they were serialized.

    Subscribes reliably to topics whose publishers are all reliable, best effort else. Messages are written by a thread
    of their own; when it falls behind by `_DEPTH` messages, the callbacks wait for it.

    Args:
        node: to subscribe with.
        writer: open.

    Attributes:
        received: messages by topic so far.
    """

    def __init__(self, node: Node, writer: BagWriter) -> None:
        self.received: dict[str, int] = {}
        self._node = node
        self._writer = writer
        self._queue: queue.Queue[tuple[str, int, bytes] | None] = queue.Queue(_DEPTH)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="recorder")
        self._thread.start()

    def subscribe(self, topic: str, message_type: str, *, reliable: bool) -> None:
        """Begin to record a topic.

        Raises:
            ImportError: its message type is not installed.
        """
        self._writer.add_topic(topic, message_type)
        self.received[topic] = 0
        self._node.create_subscription(
            message_class_of(message_type),
            topic,
            self._callback(topic),
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=_DEPTH,
                reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            ),
            raw=True,
        )

    def close(self) -> None:
        """Write what has been received and stop.

        Raises:
            OSError, or what else the writer met: the recording is not whole.
        """
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _callback(self, topic: str) -> Callable[[bytes, Mapping[str, Any]], None]:
        def receive(data: bytes, info: Mapping[str, Any]) -> None:
            # When DDS received it, not when Python got round to it.
            self._queue.put((topic, int(info["received_timestamp"]), data))
            self.received[topic] += 1

        return receive

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # keep the callbacks from waiting for a queue that nobody empties
            topic, received, data = item
            try:
                self._writer.write_serialized(topic, received, data)
            except Exception as error:  # handed to the thread that closes the recorder
                self._failure = error


def wait_for_publishers(node: Node, topics: Mapping[str, str | None], timeout: float) -> dict[str, tuple[str, bool]]:
    """Wait until each topic has a publisher.

    Args:
        node: whose view of the graph counts.
        topics: names, and the type where it is known; those need no publisher yet.
        timeout: seconds.

    Returns:
        By topic its type and whether all of its publishers are reliable (true where there is none yet).

    Raises:
        TimeoutError: names the topics that nobody publishes.
    """
    give_up = time.monotonic() + timeout
    while True:
        found: dict[str, tuple[str, bool]] = {}
        for topic, known in topics.items():
            offers = node.get_publishers_info_by_topic(topic)
            if offers:
                reliable = all(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
                found[topic] = offers[0].topic_type, reliable
            elif known is not None:
                found[topic] = known, True
        if len(found) == len(topics):
            return found
        if time.monotonic() >= give_up:
            missing = ", ".join(sorted(set(topics) - set(found)))
            raise TimeoutError(f"nobody publishes {missing} (waited {timeout:g} s)")
        time.sleep(_POLL)
