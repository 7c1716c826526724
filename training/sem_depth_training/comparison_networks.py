"""Networks to compare the compact one with, as ONNX files for `sem-depth benchmark --against`, and what they cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sem_depth_training.describe import flops_of, parameters_of
from sem_depth_training.models.comparison import DepthAnythingV2Small, LiteMono, MidasSmall, OnBytes
from sem_depth_training.models.presets import compact
from sem_depth_training.onnx_graph import onnx_program

OPSET = 18
_PATCH = 14


@dataclass(frozen=True)
class Candidate:
    """A published network.

    Attributes:
        build: makes the network for an image size (height, width).
        published: million parameters, as its authors give them.
    """

    build: Callable[[tuple[int, int]], nn.Module]
    published: str


def _patched(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (max(1, round(side / _PATCH)) * _PATCH for side in size)
    return height, width


CANDIDATES: Mapping[str, Candidate] = {
    "depth_anything_v2_small": Candidate(lambda size: OnBytes(DepthAnythingV2Small(), _patched(size)), "24.8"),
    "midas_small": Candidate(lambda size: OnBytes(MidasSmall(), size), "21, of which 4.7 never run"),
    "lite_mono": Candidate(lambda size: OnBytes(LiteMono(), size), "3.1"),
}


def export_comparison_networks(folder: Path, size: tuple[int, int], console: Console) -> list[Path]:
    """Write NAME.onnx of each candidate for uint8 images [1, height, width, 3], with seeded random weights.

    Prints a table of parameters, operations and memory, the compact network's first.

    Raises:
        ValueError: a side of `size` is no multiple of 32.
    """
    if any(side % 32 for side in size):
        raise ValueError(f"size is {size[0]}x{size[1]}, expected multiples of 32")
    folder.mkdir(parents=True, exist_ok=True)
    table = Table("network", "parameters (M)", "published (M)", "GFLOP", "peak memory (MiB)")
    for column in table.columns[1:]:
        column.justify = "right"
    table.title = f"one image of {size[0]}x{size[1]}; a process without network takes {peak_memory():.0f} MiB"
    files = []
    builders = {"compact": Candidate(lambda _: compact(), ""), **CANDIDATES}
    for name, candidate in builders.items():
        torch.manual_seed(0)
        network = candidate.build(size).eval().requires_grad_(False)
        file = folder / f"{name}.onnx"
        export_network(network, size, file)
        with torch.device("meta"):
            shadow = candidate.build(size).eval().requires_grad_(False)
            image = torch.zeros(1, *size, 3, dtype=torch.uint8)
        operations = flops_of(shadow, lambda shadow=shadow, image=image: shadow(image))["Global"]  # type: ignore[misc]
        table.add_row(
            name,
            f"{parameters_of(shadow) / 1e6:.2f}",
            candidate.published,
            f"{operations / 1e9:.1f}",
            f"{peak_memory(file):.0f}",
        )
        files.append(file)
    console.print(table)
    return files


def peak_memory(*files: Path) -> float:
    """Peak resident size of a process, MiB, that runs these networks in ONNX Runtime."""
    command = [sys.executable, "-m", "sem_depth_training.network_memory", *map(str, files)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def export_network(network: nn.Module, size: tuple[int, int], file: Path) -> None:
    """Write a network that takes uint8 [1, height, width, 3] to `file`, its weights inside."""
    onnx_program(network, size, OPSET).save(file, external_data=False)
