"""An exported bundle does what the network does, and is the same each time; so is the shipped one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_training.data.frames import read_index
from sem_depth_training.evaluate import PROTOCOL, bundle_predictor, frame_metrics
from sem_depth_training.export import ExportError, check_graph, export_graphs, round_to_half
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.presets import compact

SIZES = [(64, 96), (96, 64)]


@pytest.fixture(scope="module")
def network() -> DepthNetwork:
    torch.manual_seed(0)
    network = compact(pretrained=True).eval()
    # The head starts near zero, which would hide differences before it.
    torch.nn.init.normal_(network.decoder.head.weight, std=0.3)
    round_to_half(network)
    return network


@pytest.fixture(scope="module")
def graphs(network: DepthNetwork, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return export_graphs(network, SIZES, tmp_path_factory.mktemp("graphs"))


def test_onnx_runtime_agrees_with_torch_at_every_size(
    network: DepthNetwork, graphs: list[Path], driving_index: Path
) -> None:
    for graph, size in zip(graphs, SIZES, strict=False):
        assert check_graph(network, BundleInput(graph, *size), read_index(driving_index, "train")) < 1e-3


def test_disagreement_is_refused_by_name(network: DepthNetwork, graphs: list[Path], driving_index: Path) -> None:
    other = compact().eval()
    torch.nn.init.normal_(other.decoder.head.weight, std=0.3)
    with pytest.raises(ExportError, match=r"model_64x96\.onnx.*differ by .*0_image\.png"):
        check_graph(other, BundleInput(graphs[0], *SIZES[0]), read_index(driving_index, "train"))


def test_weights_are_shared_and_the_export_is_the_same_each_time(
    network: DepthNetwork, graphs: list[Path], tmp_path: Path
) -> None:
    again = export_graphs(network, SIZES, tmp_path)
    assert [file.name for file in again] == ["model_64x96.onnx", "model_96x64.onnx", "weights.bin"]
    for first, second in zip(graphs, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    count = sum(tensor.numel() for tensor in network.state_dict().values())
    assert graphs[-1].stat().st_size < 3 * count, "half precision, once for both sizes"


def test_graphs_tell_nothing_of_the_machine_that_made_them(graphs: list[Path]) -> None:
    for file in graphs[:-1]:
        model = onnx.load(str(file), load_external_data=False)
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()


@pytest.fixture(scope="module")
def shipped(repository: Path) -> ModelBundle:
    return ModelBundle.load(repository / "ros2_ws" / "src" / "sem_depth_node" / "models" / "compact")


def test_the_shipped_bundle_is_small_and_tells_of_its_data(shipped: ModelBundle) -> None:
    assert sum(file.stat().st_size for file in shipped.folder.iterdir()) < 40e6
    assert "non-commercial" in shipped.manifest.weights_licence
    assert any("KITTI" in data.name and "NC" in data.licence for data in shipped.manifest.training_data)


def test_the_shipped_bundle_gives_positive_depth_at_every_size(shipped: ModelBundle) -> None:
    rng = np.random.default_rng(0)
    for size in shipped.inputs:
        output = OnnxRuntimeEngine(size).infer(rng.integers(0, 256, (size.height, size.width, 3), np.uint8))
        assert output.depth.shape == (size.height, size.width)
        assert (output.depth > 0).all()
        assert np.isfinite(output.log_scale).all()


def test_the_manifest_tells_the_measured_accuracy(shipped: ModelBundle, shared_dir: Path) -> None:
    reported = shipped.manifest.metrics[0]
    assert reported.protocol == PROTOCOL
    frames = read_index(shared_dir / "data" / "driving" / "index.csv", "val")
    measured = np.mean([m["abs_rel"] for m in frame_metrics(bundle_predictor(shipped), frames)])
    assert measured == pytest.approx(reported.values["abs_rel"], abs=2e-4), json.dumps(reported.values)
    assert measured < 0.23, "what the viewing direction alone gives"
