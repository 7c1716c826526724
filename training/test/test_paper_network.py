"""The paper's network in its shrunken form: conditioning, cost, export in both precisions, a TensorRT-RTX engine."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.engine import EngineOutput
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_training.check_paper import read_frame
from sem_depth_training.describe import marigold_costs, network_costs
from sem_depth_training.half_precision import extreme_frames, to_half_precision
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.paper import SHRUNKEN, build_seecoder, paper_network
from sem_depth_training.models.paper_semantics import Conditioning
from sem_depth_training.onnx_graph import export_graph, save_graph, seecoder_scopes
from sem_depth_training.seecoder_size import size_effects

SIZE = (64, 128)
SEECODER_SIZE = (32, 64)
TEXT_TOKENS = torch.linspace(-1, 1, 7 * 32).reshape(7, 32)


def shrunken(conditioning: Conditioning, timestep: int = 1, seed: int = 0) -> DepthNetwork:
    torch.manual_seed(seed)
    network = paper_network(
        conditioning,
        seecoder_size=SEECODER_SIZE,
        timestep=timestep,
        text_tokens=TEXT_TOKENS if conditioning == "text" else None,
        shape=SHRUNKEN,
    ).eval()
    # As initialised, the head answers nearly the same everywhere, and no comparison would notice anything.
    torch.nn.init.normal_(network.decoder.head.weight, std=1.0)
    return network.requires_grad_(False)


def depth_of(network: DepthNetwork, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)[0]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.from_numpy(read_frame(None, SIZE))[None]


@pytest.mark.parametrize("conditioning", get_args(Conditioning))
def test_every_conditioning_gives_depth_of_the_images_size(conditioning: Conditioning, image: Tensor) -> None:
    network = shrunken(conditioning)
    depth, log_scale = network(image)
    assert depth.shape == log_scale.shape == (1, *SIZE)
    assert 0.5 <= depth.min() < depth.max() <= 200.0
    with torch.no_grad():
        rgb = image.float().permute(0, 3, 1, 2) / 255
        tokens, other = (network.semantic_encoder(x).tokens for x in (rgb, rgb.flip(3)))
    assert torch.equal(tokens, other) == (conditioning in ("none", "text"))


def test_what_the_unet_is_conditioned_on_changes_depth(image: Tensor) -> None:
    network = shrunken("none")
    before = depth_of(network, image)
    network.semantic_encoder.tokens.tokens += 1.0
    assert not torch.allclose(before, depth_of(network, image), rtol=1e-3)


def test_the_timestep_is_a_setting(image: Tensor) -> None:
    early, late = (depth_of(shrunken("seecoder", timestep), image) for timestep in (1, 500))
    assert not torch.allclose(early, late, rtol=1e-4)
    with pytest.raises(ValueError, match="timestep: expected 0 to 999, found 1000"):
        shrunken("seecoder", timestep=1000)


def test_a_pixel_wide_edge_moves_depth_at_that_pixel(image: Tensor) -> None:
    """The decoder sees the image at 1/2 and 1/4: what happens to two columns shows there first."""
    network = shrunken("none")
    edged = image.clone()
    edged[:, :, 64:66] = 255 - edged[:, :, 64:66]
    change = (depth_of(network, edged) / depth_of(network, image)).log().abs().mean(dim=(0, 1))
    assert change[62:68].mean() > 3 * change.median()


def test_the_latent_encoder_stays_frozen_in_training() -> None:
    network = paper_network("seecoder", seecoder_size=SEECODER_SIZE, shape=SHRUNKEN).train()
    assert not network.latent_encoder.training
    assert not any(parameter.requires_grad for parameter in network.latent_encoder.parameters())
    assert all(parameter.requires_grad for parameter in network.unet.parameters())


def test_costs_at_full_size_are_those_of_stable_diffusion() -> None:
    costs = {cost.part: cost for cost in network_costs(lambda: paper_network("seecoder"), (352, 1216))}
    assert costs["latent encoder"].parameters == 34_163_664  # encoder and quant_conv of SD 1.5's AutoencoderKL
    assert costs["unet"].parameters == 859_520_964 - 12_164  # SD 1.5's UNet without its last norm and convolution
    marigold = {cost.part: cost for cost in marigold_costs((352, 1216))}
    assert marigold["VAE encoder"].flops == costs["latent encoder"].flops
    total = sum(cost.flops for cost in costs.values())
    assert total < sum(cost.flops for cost in marigold.values())


def test_seecoders_decoder_costs_grow_with_the_image_not_with_its_square() -> None:
    def flops(scale: int) -> int:
        size = (96 * scale, 192 * scale)
        costs = network_costs(lambda: paper_network("seecoder", seecoder_size=size), (192, 384))
        return next(cost.flops for cost in costs if cost.part == "semantic encoder")

    assert flops(4) < 4.2 * flops(2)


def test_showing_seecoder_less_of_the_image_is_measured_against_showing_another_image() -> None:
    torch.manual_seed(0)
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    planes = (rows * 3, columns, 255 - columns)
    frames = [np.repeat(plane[..., None], 3, axis=2).astype(np.uint8) for plane in planes]
    whole, half = size_effects(build_seecoder(False, SHRUNKEN), frames, [SIZE, (32, 64)])
    assert (whole.change, whole.retrieved) == (0.0, 1.0)
    assert half.change > 0.0
    assert whole.gflop > half.gflop > 0.0
    with pytest.raises(ValueError, match="frames: expected at least two, found 1"):
        size_effects(build_seecoder(False, SHRUNKEN), frames[:1], [SIZE])


class Exported(NamedTuple):
    """A network, its graph of half precision in memory, and the files of both precisions."""

    network: DepthNetwork
    half: ir.Model
    paths: Mapping[str, Path]


@pytest.fixture(scope="module", params=["seecoder", "seecoder_pa", "clip"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    network = shrunken(request.param)
    graph = export_graph(network, SIZE)
    folder = tmp_path_factory.mktemp(request.param)
    paths = {precision: folder / f"{precision}.onnx" for precision in ("float32", "float16")}
    save_graph(graph, paths["float32"], "float32.bin")
    to_half_precision(graph, seecoder_scopes(network))
    save_graph(graph, paths["float16"], "float16.bin")
    return Exported(network, graph, paths)


def run(path: Path, frame: npt.NDArray[np.uint8]) -> EngineOutput:
    engine = OnnxRuntimeEngine(BundleInput(path, *SIZE), threads=1)
    return engine.infer(frame)


def test_graphs_agree_with_torch(exported: Exported, image: Tensor) -> None:
    network, _, paths = exported
    expected = depth_of(network, image)[0].numpy()
    assert expected.max() / expected.min() > 2, "depth must vary for a comparison to mean something"
    single, half = (run(paths[precision], image[0].numpy()).depth for precision in ("float32", "float16"))
    np.testing.assert_allclose(single, expected, rtol=1e-3)
    assert np.median(np.abs(half / expected - 1)) < 1e-2


def test_half_precision_is_finite_at_the_extremes(exported: Exported, image: Tensor) -> None:
    engine = OnnxRuntimeEngine(BundleInput(exported.paths["float16"], *SIZE), threads=1)
    for name, frame in extreme_frames(image[0].numpy()).items():
        output = engine.infer(frame)
        assert np.isfinite(output.depth).all(), name
        assert np.isfinite(output.log_scale).all(), name


def test_half_precision_keeps_in_float32_what_overflows(exported: Exported) -> None:
    paths = exported.paths
    onnx.checker.check_model(str(paths["float16"]), full_check=True)
    graph = ir.load(paths["float16"]).graph
    precisions = Counter(
        (node.op_type, node.inputs[0].dtype) for node in graph if node.inputs and node.inputs[0] is not None
    )

    def found(operator: str) -> set[ir.DataType | None]:
        return {dtype for name, dtype in precisions if name == operator}

    for operator in ("Conv", "MatMul", "Gemm"):
        assert found(operator) == {ir.DataType.FLOAT16}, operator
    for operator in ("GroupNormalization", "LayerNormalization", "Softmax", "Exp"):
        assert found(operator) == {ir.DataType.FLOAT}, operator
    weights = {precision: path.with_suffix(".bin").stat().st_size for precision, path in paths.items()}
    assert weights["float16"] < 0.6 * weights["float32"]


@pytest.mark.parametrize("exported", ["seecoder"], indirect=True)
def test_seecoders_sums_stay_in_float32(exported: Exported) -> None:
    sums = [
        (node.metadata_props["pkg.torch.onnx.name_scopes"], node.outputs[0].dtype)
        for node in exported.half.graph
        if node.op_type == "Add"
    ]
    inside = {dtype for scopes, dtype in sums if "'semantic_encoder.tokens.seecoder'" in scopes}
    unet = {dtype for scopes, dtype in sums if "'unet'" in scopes}
    assert inside == {ir.DataType.FLOAT}
    assert unet == {ir.DataType.FLOAT16}


def test_a_weight_beyond_half_precision_is_named(tmp_path: Path) -> None:
    graph = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 21]>
        network (float[1, 1, 8, 8] image, float[64, 1, 3, 3] weight) => (float[1, 64, 6, 6] depth)
        { depth = Conv(image, weight) }"""
    )
    weight = graph.graph.inputs.pop()
    weight.const_value = ir.tensor(np.full((64, 1, 3, 3), 1e5, np.float32), name="weight")
    graph.graph.register_initializer(weight)
    to_half_precision(graph)
    with pytest.raises(ValueError, match=r"weight weight: 100000 is beyond float16's 65504"):
        save_graph(graph, tmp_path / "model.onnx", "model.bin")


def test_check_paper_compiles_and_reports(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (pip install tensorrt-rtx-cu12)")
    report = tmp_path / "report.md"
    arguments = ["check-paper", "--shrunken", "--size", "64x128", "--seecoder-size", "32x64", "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-c", "from sem_depth_training.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = report.read_text()
    engine = re.search(r"TensorRT-RTX engine, compute capability 8\.9 \| (\d+) \|", page)
    assert engine is not None
    assert int(engine[1]) > 0
    layers = re.search(r"by precision: (\d+) half, (\d+) float", page)
    assert layers is not None
    assert int(layers[1]) > int(layers[2]) > 0
    assert "TensorRT's warnings: none." in page
