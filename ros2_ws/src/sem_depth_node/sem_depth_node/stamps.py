"""Times in ROS messages."""

from typing import Any

NANOSECONDS = 1_000_000_000


def nanoseconds(stamp: Any) -> int:
    """Nanoseconds since the epoch from a builtin_interfaces/Time."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)
