"""Latencies in a recording of the node, from when messages were recorded and from what the node says of each frame."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sem_depth_node.bags.reader import BagReader
from sem_depth_node.stamps import nanoseconds


@dataclass(frozen=True)
class Distribution:
    """Median and 95th percentile of milliseconds."""

    median: float
    p95: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Distribution:
        """Of at least one value."""
        return cls(statistics.median(milliseconds), float(np.percentile(milliseconds, 95)))


@dataclass(frozen=True)
class NodeTiming:
    """Where the node's time went, from depth/timing.

    Attributes:
        latency: from an image's arrival in the node to its last output sent.
        engine: inside the engine.
        overhead: decoding, resizing, validity, building and sending messages.
    """

    latency: Distribution
    engine: Distribution
    overhead: Distribution


def arrivals(bag: BagReader, topic: str) -> dict[int, int]:
    """By header stamp, when each message of `topic` was recorded; both nanoseconds.

    Raises:
        BagError: there is no such topic.
    """
    return {nanoseconds(bag.decode(message).header.stamp): message.time for message in bag.messages([topic])}


def node_timing(bag: BagReader, topic: str) -> NodeTiming | None:
    """What the node published on its depth/timing `topic`; None where that was not recorded."""
    if topic not in bag.topics or not bag.topics[topic].count:
        return None
    values: dict[str, list[float]] = {}
    for message in bag.messages([topic]):
        for status in bag.decode(message).status:
            for pair in status.values:
                values.setdefault(pair.key, []).append(float(pair.value))
    return NodeTiming(
        *(Distribution.of(values[f"{name} (ms)"]) for name in ("latency", "engine", "overhead")),
    )
