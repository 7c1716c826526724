"""Publishers and subscriptions without QoS events.

rclpy makes events for each, to log that a peer's QoS does not fit. One that is due just when its publisher or
subscription is destroyed leaves the callback group waiting for it forever. The subscriptions here follow their
publishers, and listeners log for themselves that they do not fit.
"""

from __future__ import annotations

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

NO_PUBLISHER_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)
NO_SUBSCRIPTION_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)
