"""The paper-size network, every part shrunken, trains from public weights and becomes a half-precision bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.select import open_engines
from sem_depth_node.engines.tensorrt_build import BuildRequest, build_engine
from sem_depth_node.engines.watch import BuildWatch
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.config import FitConfig
from sem_depth_training.data.frames import read_index
from sem_depth_training.export import export_bundle, size_profile
from sem_depth_training.models.checkpoints import CheckpointError
from sem_depth_training.networks import network_for
from sem_depth_training.train import fit


@pytest.fixture
def config(driving_index: Path, paper_weights: dict[str, Any]) -> FitConfig:
    """Two steps from seeded weights in the public formats."""
    return FitConfig.model_validate(
        {
            **paper_weights,
            "steps": 2,
            "batch_size": 2,
            "warmup_steps": 0,
            "precision": "no",
            "workers": 0,
            "sizes": [[64, 96]],
            "data": [{"name": "planes", "index": driving_index}],
            "bundle": {
                "name": "paper-shrunken",
                "description": "A test.",
                "weights_licence": "none",
                "inputs": [[64, 96]],
                "precision": "float16",
            },
        }
    )


def test_weights_that_are_not_there_are_named_before_anything_is_built(config: FitConfig) -> None:
    assert config.paper is not None
    # At full size, where building takes gigabytes.
    paper = config.paper.model_copy(update={"seecoder": Path("absent.safetensors"), "shrunken": False})
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file .*fetch-weights"):
        network_for(config.model_copy(update={"paper": paper}), pretrained=True)


@pytest.mark.parametrize("conditioning", ["seecoder", "seecoder_pa", "clip", "none"])
def test_every_weight_that_trains_gets_a_gradient(config: FitConfig, conditioning: str) -> None:
    # Distributed training ends in an error where one does not.
    network = network_for(config.model_copy(update={"conditioning": conditioning}), for_training=True).train()
    depth, log_scale = network(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    (depth.mean() + log_scale.mean()).backward()
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


def test_trains_from_public_weights_and_exports_half_precision_for_one_size_or_many(
    config: FitConfig, driving_index: Path, tmp_path: Path
) -> None:
    checkpoint = fit(config, tmp_path / "run")
    network, _ = network_of(read_checkpoint(checkpoint), checkpoint)
    public = AutoencoderKL.from_pretrained(tmp_path / "weights" / "vae").encoder.state_dict()
    trained = network.latent_encoder.encoder.state_dict()
    assert all(torch.equal(trained[name], public[name]) for name in public), "the latent encoder is frozen"

    frames = read_index(driving_index, "val")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", frames, frames, "planes")
    loaded = ModelBundle.load(bundle.folder)
    assert loaded.manifest.precision == "float16"
    assert any("stable-diffusion" in data.name for data in loaded.manifest.training_data)
    image = np.zeros((64, 96, 3), np.uint8)
    assert np.isfinite(OnnxRuntimeEngine(loaded.inputs[0]).infer(image).depth).all()

    # One graph for many sizes, the size that SeeCoder sees among them.
    profile = size_profile((64, 64), (64, 96), (128, 160))
    opened = export_bundle(checkpoint, tmp_path / "open", frames, frames, "planes", profile)
    assert [file.name for file in sorted(opened.folder.iterdir())] == ["manifest.json", "model.onnx", "weights.bin"]
    fixed = OnnxRuntimeEngine(loaded.inputs[0]).infer(image).depth.copy()
    np.testing.assert_allclose(OnnxRuntimeEngine(opened.inputs[0]).infer(image).depth, fixed, rtol=1e-2)
    (engine,) = open_engines(opened, "onnxruntime", (128, 96))
    assert np.isfinite(engine.infer(np.zeros((128, 96, 3), np.uint8)).depth).all()
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (pip install tensorrt-rtx-cu12)")
    model = opened.inputs[0]
    request = BuildRequest(str(model.path), *profile.opt, "tensorrt_rtx", "8.9", profile=(profile.min, profile.max))
    report = build_engine(request, tmp_path / "plan", BuildWatch())
    assert report.layers_by_precision()["HALF"] > report.layers_by_precision()["FLOAT"]
