"""The ablation compares every conditioning with equal budgets, and goes on where it was stopped."""

import io
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from sem_depth_training.ablation import ablation, ablation_markdown
from sem_depth_training.checkpoint import TrainingError, read_checkpoint
from sem_depth_training.config import FitConfig, read_config
from sem_depth_training.models.presets import compact


@pytest.fixture
def config(driving_index: Path, tmp_path: Path) -> FitConfig:
    path = tmp_path / "fit.yaml"
    fields = {
        "steps": 5000,
        "batch_size": 1,
        "sizes": [[64, 96]],
        "precision": "no",
        "workers": 0,
        "autoencoder": {"steps": 1, "batch_size": 1},
        "data": [{"name": "plane", "index": str(driving_index)}],
        "validation": {"index": str(driving_index)},
        "bundle": {"name": "tiny", "description": "A test.", "weights_licence": "CC0", "inputs": [[64, 96]]},
    }
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return read_config(path)


def test_each_conditioning_is_trained_and_measured_once_with_one_latent_encoder(
    config: FitConfig, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=300)
    names = ["seecoder", "clip"]
    scores = ablation(config, tmp_path / "runs", names, [1, 2], 1, console)
    assert scores is not None
    assert set(scores) == set(names)
    states = [read_checkpoint(tmp_path / "runs" / f"{name}_1" / "checkpoint.pt") for name in names]
    for name, value in states[0]["network"].items():
        if name.startswith("latent_encoder."):
            assert torch.equal(states[1]["network"][name], value)

    again = Console(file=io.StringIO(), width=300)
    assert ablation(config, tmp_path / "runs", names, [1, 2], 1, again) == scores
    assert again.file.getvalue() == ""
    with pytest.raises(TrainingError, match=r"metrics\.json: is of 1 steps, expected 2"):
        ablation(config, tmp_path / "runs", names, [1], 2, again)
    metrics = tmp_path / "runs" / "clip_1" / "metrics.json"
    metrics.write_text(metrics.read_text()[:20])
    with pytest.raises(TrainingError, match=r"clip_1/metrics\.json: not the result of a run .*delete it and run"):
        ablation(config, tmp_path / "runs", names, [1], 1, again)

    mean = (scores["clip"][1]["abs_rel"] + scores["clip"][2]["abs_rel"]) / 2
    deviation = abs(scores["clip"][1]["abs_rel"] - scores["clip"][2]["abs_rel"]) / 2**0.5
    assert f"| {mean:.4f} ± {deviation:.4f} |" in ablation_markdown(scores, config, 1)


def test_an_unknown_conditioning_is_named(config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="conditioning text: expected some of seecoder, seecoder_pa, clip, none"):
        ablation(config, tmp_path, ["text"], [1], 1, Console(file=io.StringIO()))


def test_several_processes_are_refused(config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=r"one process, found WORLD_SIZE=2; start it without torchrun"):
        ablation(config, tmp_path, ["none"], [1], 1, Console(file=io.StringIO()))


def test_clip_tokens_take_the_place_of_seecoder_at_about_its_size() -> None:
    def weights(conditioning: str) -> int:
        named = compact(conditioning).semantic_encoder.named_parameters()  # type: ignore[arg-type]
        return sum(tensor.numel() for name, tensor in named if not name.startswith("backbone."))

    assert 0.9 < weights("clip") / weights("seecoder") < 1.1
    network = compact("clip").eval()
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    tokens = network.semantic_encoder(images.permute(0, 3, 1, 2).float() / 255).tokens
    assert tokens.shape == (2, 50, 128)
    assert not torch.equal(tokens[0], tokens[1])
    assert network(images)[0].shape == (2, 64, 96)
