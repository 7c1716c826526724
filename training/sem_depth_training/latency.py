"""Latency of networks in the CPU engine, interleaved, so that a busy moment of the machine falls on all of them."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_training.export import export_graphs, round_to_half


def measure_latency(
    networks: Mapping[str, nn.Module], height: int, width: int, threads: int, runs: int
) -> dict[str, tuple[float, float]]:
    """Median and fastest seconds of one image for each network in ONNX Runtime, after three runs to warm up."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    engines = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, network in networks.items():
            place = Path(scratch) / name
            place.mkdir()
            round_to_half(network.eval())
            graph = export_graphs(network, [(height, width)], place)[0]
            engines[name] = OnnxRuntimeEngine(BundleInput(graph, height, width), threads)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for run in range(runs + 3):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.infer(image)
            if run >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: (float(np.median(times)), min(times)) for name, times in seconds.items()}
