"""An exported bundle does what the network does, and is the same each time; so is the shipped one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.tensorrt_build import BuildRequest, build_engine
from sem_depth_node.engines.watch import BuildWatch
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.data.frames import read_index
from sem_depth_training.evaluate import PROTOCOL, bundle_predictor, frame_metrics
from sem_depth_training.export import ExportError, _writing_to, check_graph, export_graphs, round_to_half, size_profile
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.presets import compact
from sem_depth_training.networks import pretraining

SIZES = [(64, 96), (96, 64)]
PROFILE = size_profile((64, 64), (96, 160), (160, 256))


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
def open_graphs(network: DepthNetwork, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return export_graphs(network, [PROFILE.opt], tmp_path_factory.mktemp("open"), PROFILE)


@pytest.mark.parametrize("size", [PROFILE.min, PROFILE.opt, PROFILE.max, (160, 64), (64, 224)])
def test_a_graph_for_a_profile_agrees_with_torch_at_every_size(
    network: DepthNetwork, open_graphs: list[Path], size: tuple[int, int], driving_index: Path
) -> None:
    graph = BundleInput(open_graphs[0], *size, PROFILE)
    assert check_graph(network, graph, read_index(driving_index, "train")) < 1e-4


def test_a_graph_for_a_profile_agrees_with_the_graph_for_one_size(graphs: list[Path], open_graphs: list[Path]) -> None:
    rng = np.random.default_rng(0)
    for graph, size in zip(graphs, SIZES, strict=False):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        fixed = OnnxRuntimeEngine(BundleInput(graph, *size)).infer(image)
        any_size = OnnxRuntimeEngine(BundleInput(open_graphs[0], *size, PROFILE)).infer(image)
        np.testing.assert_allclose(any_size.depth, fixed.depth, rtol=1e-4)
        np.testing.assert_allclose(any_size.log_scale, fixed.log_scale, atol=1e-4)


def test_a_graph_for_a_profile_compiles_with_tensorrt_rtx(open_graphs: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (pip install tensorrt-rtx-cu12)")
    profile = (PROFILE.min, PROFILE.max)
    request = BuildRequest(str(open_graphs[0]), *PROFILE.opt, "tensorrt_rtx", "8.9", profile=profile)
    report = build_engine(request, tmp_path / "plan", BuildWatch())
    assert report.engine_bytes > 0


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (((32, 64), (96, 96), (192, 192)), "smallest height is 32 and width 64, expected at least 64"),
        (((64, 64), (96, 100), (192, 192)), "height 96 and width 100 are not both divisible by 32"),
        (((64, 64), (96, 256), (192, 192)), "height 96 and width 256 are outside the profile"),
        (((64, 64), (64, 64), (64, 192)), "expected both sides to grow"),
    ],
)
def test_sizes_that_make_no_profile_are_named(sizes: tuple[tuple[int, int], ...], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        size_profile(*sizes)


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"out/bundle: cannot be written \(No space left .*MiB free.* set TMPDIR"),
        _writing_to(tmp_path, tmp_path / "out" / "bundle"),
        Path("/dev/full").open("wb") as file,
    ):
        file.write(bytes(100_000))


@pytest.fixture(scope="module")
def shipped(repository: Path) -> ModelBundle:
    return ModelBundle.load(repository / "ros2_ws" / "src" / "sem_depth_node" / "models" / "compact")


@pytest.fixture(scope="module")
def released(repository: Path) -> Path:
    return repository / "training" / "weights" / "compact.safetensors"


# The PyTorch that exported the shipped graphs; its builds ("+cpu", "+cu130") give the same ones.
EXPORTED_WITH = "2.13.0"
IS_ANOTHER = torch.__version__.partition("+")[0] != EXPORTED_WITH
ANOTHER = f"the shipped graphs are those of PyTorch {EXPORTED_WITH}, this is {torch.__version__}"


def test_the_released_weights_export_to_the_shipped_bytes(shipped: ModelBundle, released: Path, tmp_path: Path) -> None:
    state = read_checkpoint(released)
    network, config = network_of(state, released)
    round_to_half(network)
    files = export_graphs(network, config.bundle.inputs, tmp_path)
    assert {file.name for file in files} == set(shipped.manifest.files)
    assert (tmp_path / "weights.bin").read_bytes() == (shipped.folder / "weights.bin").read_bytes()
    told = [data.model_dump() for data in shipped.manifest.training_data]
    assert told == [*state["training_data"], *pretraining(config)]
    assert shipped.manifest.name == config.bundle.name
    assert shipped.manifest.description == config.bundle.description
    assert shipped.manifest.weights_licence == config.bundle.weights_licence
    if IS_ANOTHER:
        pytest.skip(ANOTHER)
    for file in files:
        assert file.read_bytes() == (shipped.folder / file.name).read_bytes(), file.name


@pytest.mark.skipif(IS_ANOTHER, reason=ANOTHER)
def test_the_whole_shipped_bundle_comes_out_of_the_export_command(
    shipped: ModelBundle, released: Path, shared_dir: Path, tmp_path: Path
) -> None:
    index = shared_dir / "data" / "driving" / "index.csv"
    dataset = shipped.manifest.metrics[0].dataset
    command = [sys.executable, "-m", "sem_depth_training.cli", "export", str(released), "-o", str(tmp_path / "again")]
    subprocess.run([*command, "--index", str(index), "--dataset", dataset], check=True)
    for file in shipped.manifest.files:
        assert (tmp_path / "again" / file).read_bytes() == (shipped.folder / file).read_bytes(), file
    told, again = (
        json.loads((folder / "manifest.json").read_text()) for folder in (shipped.folder, tmp_path / "again")
    )
    # Measured anew, by this processor's own order of summing.
    values, values_again = (manifest["metrics"][0].pop("values") for manifest in (told, again))
    assert values_again == pytest.approx(values, rel=1e-3)
    assert again == told


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
