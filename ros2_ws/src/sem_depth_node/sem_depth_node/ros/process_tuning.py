"""Settings of the process that frames depend on."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Python passes its lock on after this long. With the default of 5 ms, rclpy's executor, which works a millisecond or
# two in Python after each message, held up the thread that has a frame in work.
SWITCH_INTERVAL = 0.0005  # seconds

# Of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = 2**30  # bytes


def tune_process() -> None:
    """Let threads take turns quickly, and keep freed memory instead of giving it back to the system.

    Each message is copied into new memory when it is published. Memory fresh from the system costs a page fault every
    4 kB, which for the cloud of a large image is longer than the copy itself.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _KEPT), (_ARENA_MAX, 1)):
            mallopt(option, value)
