"""Listening to /tf and /tf_static."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription

from sem_depth_node.ros.diagnostics import FaultLog
from sem_depth_node.ros.qos_events import NO_SUBSCRIPTION_EVENTS
from sem_depth_node.transforms import TransformTree

# What tf2 keeps of transforms that change.
_WINDOW = 10_000_000_000  # nanoseconds
_HELD = 1_000_000_000  # nanoseconds
_QUEUE = 100  # as tf2 does: many nodes publish on these two


class TransformListener:
    """Collects the transforms that are published.

    Without the message package tf2_msgs, which says so in the log, only a frame's transform to itself is known.

    Args:
        node: to subscribe with.
        callback_group: of the callbacks.
        faults: told of transforms that are none.
    """

    def __init__(self, node: Node, callback_group: CallbackGroup, faults: FaultLog) -> None:
        self._node, self._faults = node, faults
        self._tree = TransformTree(window=_WINDOW, held=_HELD)
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            node.get_logger().warning(
                f"/tf is not listened to ({error}): only clouds in the camera's own frame can be compared; install "
                "tf2_msgs (ros-<distribution>-tf2-msgs)"
            )
            return
        latched = QoSProfile(depth=_QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, static, qos in (("/tf", False, QoSProfile(depth=_QUEUE)), ("/tf_static", True, latched)):
            self._subscriptions.append(
                node.create_subscription(
                    TFMessage,
                    topic,
                    lambda message, static=static: self._add(message, static),
                    qos,
                    callback_group=callback_group,
                    event_callbacks=NO_SUBSCRIPTION_EVENTS,
                )
            )

    def lookup(self, target: str, source: str, time: int) -> NDArray[np.float64]:
        """The (4, 4) matrix that takes points of frame `source` to frame `target` at `time` (nanoseconds).

        Raises:
            TransformError: the frames are not connected, or not yet.
        """
        with self._lock:
            return self._tree.lookup(target, source, time)

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _add(self, message: Any, static: bool) -> None:
        for stamped in message.transforms:
            try:
                with self._lock:
                    self._tree.add(stamped, static)
            except ValueError as error:
                self._faults.report(
                    "bad_transform", f"{stamped.header.frame_id} to {stamped.child_frame_id}: {error}; left out"
                )
