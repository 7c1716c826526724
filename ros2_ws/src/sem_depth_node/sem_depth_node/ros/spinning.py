"""A node whose callbacks are answered by a thread, for those who do something else meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

_LOOKS = 0.1  # seconds


@contextlib.contextmanager
def spinning_node(name: str, namespace: str) -> Iterator[Node]:
    """A node with a context of its own, spun by one thread until the `with` ends."""
    context = Context()
    rclpy.init(args=[], context=context)  # this command's own arguments are not ROS's
    node = rclpy.create_node(name, namespace=namespace, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=_LOOKS)

    thread = threading.Thread(target=spin, name=name)
    thread.start()
    try:
        yield node
    finally:
        ended.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
