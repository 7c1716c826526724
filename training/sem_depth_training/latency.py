"""Latency of networks in the CPU engine, interleaved, so that a busy moment of the machine falls on all of them."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_training.export import export_graphs, round_to_half


class Latency(NamedTuple):
    """Seconds of one image: median and fastest, and the median of the processor time of all threads.

    With one thread the processor time hardly depends on what else the machine does; with more it counts waiting, too.
    """

    median: float
    fastest: float
    processor: float


def measure_latency(
    networks: Mapping[str, nn.Module], height: int, width: int, threads: int, runs: int
) -> dict[str, Latency]:
    """Latency of each network in ONNX Runtime, after three runs to warm up."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    engines = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, network in networks.items():
            place = Path(scratch) / name
            place.mkdir()
            round_to_half(network.eval())
            graph = export_graphs(network, [(height, width)], place)[0]
            engines[name] = OnnxRuntimeEngine(BundleInput(graph, height, width), threads)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for run in range(runs + 3):
        for name, engine in engines.items():
            start, start_processor = time.perf_counter(), time.process_time()
            engine.infer(image)
            if run >= 3:
                seconds[name].append((time.perf_counter() - start, time.process_time() - start_processor))
    return {
        name: Latency(
            float(np.median([wall for wall, _ in times])),
            min(wall for wall, _ in times),
            float(np.median([processor for _, processor in times])),
        )
        for name, times in seconds.items()
    }
