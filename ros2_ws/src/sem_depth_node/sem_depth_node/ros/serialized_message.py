"""A large message kept as it goes over the wire, so that publishing copies its data once instead of twice.

rclpy turns a Python message into a C one, which the middleware then serialises: two copies of every point. The C
library below it also publishes what is serialised already, from wherever that lies.
"""

from __future__ import annotations

import array
import ctypes
import struct
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy._rclpy_pybind11 import RCLError
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message

# XCDR's encapsulation takes 4 bytes; every message here begins with a header, and that with its stamp.
_STAMP = 4
_STAMP_FORMAT = "<iI" if sys.byteorder == "little" else ">iI"


_CACHE_LINE = 64  # bytes


class _ByteArray(ctypes.Structure):
    """rcl_serialized_message_t: rcutils_uint8_array_t, its allocator unused because rcl only reads."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("allocator", ctypes.c_void_p * 5),
    )


class _ErrorString(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 1024),)


# Loaded by rclpy already; named as every distribution names them.
_publish = ctypes.CDLL("librcl.so").rcl_publish_serialized_message
_publish.argtypes = (ctypes.c_void_p, ctypes.POINTER(_ByteArray), ctypes.c_void_p)
_publish.restype = ctypes.c_int
_rcutils = ctypes.CDLL("librcutils.so")
_rcutils.rcutils_get_error_string.restype = _ErrorString
_rcutils.rcutils_reset_error.restype = None


class SerializedMessage:
    """A message of a type that has a header first and bytes named `data`, serialised with `size` zeros in them.

    Args:
        message: filled but for its data.
        size: bytes of data, a few at least.

    Attributes:
        serialized: the message in CDR, uint8, as the middleware takes it.
        data: uint8 (size,), writable: the message's bytes `data` in `serialized`.
    """

    def __init__(self, message: Any, size: int) -> None:
        # Where data lies in the serialisation is found by what is put there, which nothing else resembles.
        found_by = np.random.default_rng(0).bytes(size)
        message.data = array.array("B", found_by)
        serialized = serialize_message(message)
        first, length = serialized.rindex(found_by), len(serialized)
        memory = np.empty(length + _CACHE_LINE, np.uint8)
        start = -(memory.ctypes.data + first) % _CACHE_LINE  # so that data begins a cache line
        self.serialized: NDArray[np.uint8] = memory[start : start + length]
        self.serialized[:] = np.frombuffer(serialized, np.uint8)
        self.data: NDArray[np.uint8] = self.serialized[first : first + size]
        self.data.fill(0)
        self._message = _ByteArray(self.serialized.ctypes.data, length, length)

    def publish(self, publisher: Publisher, stamp: Any) -> None:
        """Publish with this stamp, a builtin_interfaces/Time. The middleware has copied everything on return.

        Raises:
            RCLError: the middleware refuses it.
            InvalidHandle: the publisher is destroyed.
        """
        struct.pack_into(_STAMP_FORMAT, self.serialized.data, _STAMP, stamp.sec, stamp.nanosec)
        with publisher.handle:
            code = _publish(publisher.handle.pointer, ctypes.byref(self._message), None)
        if code:
            reason = _rcutils.rcutils_get_error_string().text.decode(errors="replace")
            _rcutils.rcutils_reset_error()
            raise RCLError(f"failed to publish on {publisher.topic_name}: {reason} (code {code})")
