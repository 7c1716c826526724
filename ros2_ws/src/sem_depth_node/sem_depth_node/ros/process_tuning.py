"""Settings of the process that large messages are published from."""

from __future__ import annotations

import contextlib
import ctypes

# Of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = 2**30  # bytes


def keep_freed_memory() -> None:
    """Keep freed memory for the next message instead of giving it back to the system.

    Each message is copied into new memory when it is published. Memory fresh from the system costs a page fault every
    4 kB, which for the cloud of a large image is longer than the copy itself.
    """
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _KEPT), (_ARENA_MAX, 1)):
            mallopt(option, value)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, once: opening a network leaves much that no message will use."""
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)
