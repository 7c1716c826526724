"""A subscription whose QoS follows what the publishers offer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from sem_depth_node.ros.qos_events import NO_SUBSCRIPTION_EVENTS

# What a parameter says to leave the policy to the publishers; the same word that rmw uses.
BEST_AVAILABLE = "best_available"


class AdaptiveSubscription:
    """Subscribes reliably where every publisher of the topic is reliable, best effort else; likewise transient local.

    A fixed choice either stays silent (reliable, beside a best-effort camera) or loses large images (best effort, on
    the default transports). Where publishers come and go, `adapt` subscribes anew if the answer has changed.

    The usual parameters `qos_overrides.<topic>.subscription.<policy>` override it. Those of reliability and durability
    are `best_available` by default; another value ends the adapting.

    Args:
        node: to subscribe with.
        message_type: of the topic.
        topic: name, before remapping.
        callback: for every message.
        depth: of the history.
        callback_group: of the callback.

    Attributes:
        message_type: as given.
        topic_name: after remapping.
        publishers: of the topic, when last looked at.
        other_types: that these publish in place of `message_type`, as ROS writes them.

    Raises:
        ValueError: the topic's name or an override of its QoS is wrong.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        depth: int,
        callback_group: CallbackGroup,
    ) -> None:
        self._node, self.message_type, self._topic = node, message_type, topic
        self._callback, self._depth, self._callback_group = callback, depth, callback_group
        self.topic_name: str = node.resolve_topic_name(topic)
        self._reliability = self._override("reliability", ("reliable", "best_effort"))
        self._durability = self._override("durability", ("transient_local", "volatile"))
        self._subscription: Subscription | None = None
        # A timer may be adapting while another thread destroys.
        self._lock, self._destroyed = threading.Lock(), False
        self.publishers, self.other_types = 0, set[str]()
        self.adapt()

    def adapt(self) -> str | None:
        """Look at the publishers, subscribe anew where they call for another QoS.

        Returns:
            what is different now, in words; None where nothing is.
        """
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        offered = [info.qos_profile for info in publishers]
        self.publishers = len(offered)
        self.other_types = {info.topic_type for info in publishers} - {type_name(self.message_type)}
        with self._lock:
            if self._destroyed or (self._subscription is not None and not offered):
                return None  # whoever comes next will most likely be who left
            reliability, durability = self._choice(offered)
            if self._subscription is not None:
                now = self._subscription.qos_profile
                if (now.reliability, now.durability) == (reliability, durability):
                    return None
            self._subscribe(reliability, durability)
        return (
            f"subscribed to {self.topic_name} {reliability.name.lower()}, {durability.name.lower()} "
            f"({len(offered)} publishers)"
        )

    def destroy(self) -> None:
        """End the subscription, for good."""
        with self._lock:
            self._destroyed = True
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _choice(self, offered: Sequence[QoSProfile]) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
        reliable = bool(offered) and all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
        latched = bool(offered) and all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        reliability, durability = self._reliability, self._durability
        if reliability == BEST_AVAILABLE:
            reliability = "reliable" if reliable else "best_effort"
        if durability == BEST_AVAILABLE:
            durability = "transient_local" if latched else "volatile"
        return ReliabilityPolicy[reliability.upper()], DurabilityPolicy[durability.upper()]

    def _subscribe(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> None:
        self._unsubscribe()
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=self._depth, reliability=reliability, durability=durability
        )
        try:
            self._subscription = self._node.create_subscription(
                self.message_type,
                self._topic,
                self._callback,
                qos,
                callback_group=self._callback_group,
                event_callbacks=NO_SUBSCRIPTION_EVENTS,
                qos_overriding_options=QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)),
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.topic_name} cannot be subscribed to: {error}; correct its name, or its qos_overrides"
            ) from error

    def _override(self, policy: str, choices: tuple[str, ...]) -> str:
        # rclpy's own override would take the first profile for the user's wish and so end the adapting.
        name = f"qos_overrides.{self.topic_name}.subscription.{policy}"
        if not self._node.has_parameter(name):
            description = f"{policy} of the subscription to {self.topic_name}; {BEST_AVAILABLE} follows the publishers"
            self._node.declare_parameter(
                name, BEST_AVAILABLE, ParameterDescriptor(description=description, read_only=True)
            )
        value = str(self._node.get_parameter(name).value)
        if value not in (*choices, BEST_AVAILABLE):
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join((*choices, BEST_AVAILABLE))}")
        return value


def type_name(message_type: type) -> str:
    """A message type as ROS writes it: sensor_msgs/msg/Image."""
    return f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"
