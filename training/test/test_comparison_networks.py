"""The networks to compare with are those that were published, by their counts, and run as exported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

from sem_depth_training.comparison_networks import CANDIDATES, export_comparison_networks, export_network, peak_memory
from sem_depth_training.describe import flops_of, parameters_of
from sem_depth_training.models.comparison import LiteMono, OnBytes

SIZE = (192, 640)


@pytest.mark.parametrize(
    ("name", "millions", "giga_operations", "output"),
    [
        ("depth_anything_v2_small", 24.79, None, (1, 196, 644)),  # 24.8 in the table of its repository
        ("midas_small", 16.60, None, (1, 192, 640)),  # its checkpoint has 21.3, 4.72 of them in a block never run
        ("lite_mono", 3.07, 10.0, (1, 192, 640)),  # 3.1 and 5.1 multiply-adds in arXiv 2211.13202
    ],
)
def test_the_networks_have_their_published_size(
    name: str, millions: float, giga_operations: float | None, output: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        network = CANDIDATES[name].build(SIZE).eval().requires_grad_(False)
        image = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    assert parameters_of(network) / 1e6 == pytest.approx(millions, abs=0.01)
    assert network(image).shape == output
    if giga_operations is not None:
        assert flops_of(network, lambda: network(image))["Global"] / 1e9 == pytest.approx(giga_operations, abs=0.1)


def test_an_exported_network_gives_what_torch_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = (64, 96)
    network = OnBytes(LiteMono(), size).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))  # layer scales start at almost nothing
    export_network(network, size, tmp_path / "lite_mono.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "lite_mono.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    (depth,) = session.run(None, {"image": image})
    np.testing.assert_allclose(depth, network(torch.from_numpy(image)).numpy(), atol=1e-4)
    assert np.ptp(depth) > 1e-3
    assert peak_memory(tmp_path / "lite_mono.onnx") > peak_memory() + 10


def test_a_size_that_no_network_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size is 100x640, expected multiples of 32"):
        export_comparison_networks(tmp_path, (100, 640), Console())


def test_measuring_memory_imports_no_torch() -> None:
    code = "import sys, sem_depth_training.network_memory; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
