"""The paper-size network, every part shrunken, trains from public weights and becomes a half-precision bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.config import FitConfig
from sem_depth_training.data.frames import read_index
from sem_depth_training.export import export_bundle
from sem_depth_training.models.checkpoints import SEECODER_PREFIX
from sem_depth_training.models.paper import SHRUNKEN, build_seecoder
from sem_depth_training.train import fit


@pytest.fixture
def config(driving_index: Path, tmp_path: Path) -> FitConfig:
    """Two steps from seeded weights in the public formats."""
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    AutoencoderKL(**SHRUNKEN.vae).save_pretrained(weights / "vae")
    UNet2DConditionModel(**SHRUNKEN.unet).save_pretrained(weights / "unet")
    state = build_seecoder(False, SHRUNKEN).state_dict()
    seecoder = weights / "seecoder.safetensors"
    save_file({SEECODER_PREFIX + name: value for name, value in state.items()}, seecoder)
    return FitConfig.model_validate(
        {
            "preset": "paper",
            "paper": {
                "stable_diffusion": weights,
                "seecoder": seecoder,
                "seecoder_size": [32, 64],
                "shrunken": True,
            },
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


def test_trains_from_public_weights_and_exports_half_precision(
    config: FitConfig, driving_index: Path, tmp_path: Path
) -> None:
    checkpoint = fit(config, tmp_path / "run")
    network, _ = network_of(read_checkpoint(checkpoint))
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
