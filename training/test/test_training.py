"""A run that was stopped and started again ends where an undisturbed run ends."""

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from sem_depth_training.checkpoint import TrainingError, network_of, read_checkpoint
from sem_depth_training.config import read_config
from sem_depth_training.export import round_to_half
from sem_depth_training.networks import network_for
from sem_depth_training.released_weights import release_weights
from sem_depth_training.train import fit


@pytest.fixture
def config_file(driving_index: Path, tmp_path: Path) -> Path:
    path = tmp_path / "fit.yaml"
    fields = {
        "conditioning": "seecoder_pa",  # its positions jitter in training, so the random state counts too
        "steps": 5,
        "batch_size": 2,
        "sizes": [[64, 96], [96, 64]],
        "precision": "no",
        "workers": 0,
        "log_every": 1,
        "warmup_steps": 2,
        "autoencoder": {"steps": 2, "batch_size": 2},
        "data": [{"name": "plane", "index": str(driving_index)}],
        "bundle": {"name": "tiny", "description": "A test.", "weights_licence": "CC0", "inputs": [[64, 96]]},
    }
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


class KillAt(Console):
    """Sends this process SIGTERM when a line that starts with `text` is printed."""

    def __init__(self, text: str) -> None:
        super().__init__(file=io.StringIO(), width=200)
        self.text = text

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if str(objects[0]).startswith(self.text):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_killed_run_goes_on_exactly(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file)
    fit(config, tmp_path / "killed", KillAt("step 2/5"))
    assert read_checkpoint(tmp_path / "killed" / "checkpoint.pt")["step"] == 2
    fit(config, tmp_path / "killed")
    fit(config, tmp_path / "whole")

    resumed, whole = (read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("killed", "whole"))
    assert resumed["step"] == whole["step"] == 5
    for part in ("network", "average"):
        assert all(torch.equal(resumed[part][name], value) for name, value in whole[part].items())


def test_a_checkpoint_of_another_network_is_refused(config_file: Path, tmp_path: Path) -> None:
    fit(read_config(config_file).model_copy(update={"steps": 1}), tmp_path / "run")
    other = read_config(config_file).model_copy(update={"conditioning": "none"})
    with pytest.raises(TrainingError, match=r"trained with conditioning 'seecoder_pa', the configuration says 'none'"):
        fit(other, tmp_path / "run")


def test_a_run_starts_from_the_weights_of_another(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 2})
    first = fit(config, tmp_path / "first")
    other_data = [source.model_copy(update={"name": "the plane again"}) for source in config.data]
    second = config.model_copy(update={"initial": first, "steps": 1, "learning_rate": 1e-12, "data": other_data})
    second = second.model_copy(update={"backbone_learning_rate": 1e-12})

    started, given = (read_checkpoint(path) for path in (fit(second, tmp_path / "second"), first))

    assert started["step"] == 1
    for name, _ in network_for(config).named_parameters():  # at these rates; statistics of batches move without one
        torch.testing.assert_close(started["network"][name], given["average"][name], rtol=0, atol=1e-6)
    for name in (name for name in given["average"] if name.startswith("latent_encoder.")):
        assert torch.equal(started["network"][name], given["average"][name])
    assert not (tmp_path / "second" / "latent_encoder.pt").exists()
    assert [data["name"] for data in started["training_data"]] == ["plane", "the plane again"]


def test_released_weights_are_the_rounded_average_and_start_a_run(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 1})
    checkpoint, released = fit(config, tmp_path / "first"), tmp_path / "released" / "tiny.safetensors"
    assert release_weights(checkpoint, released) < checkpoint.stat().st_size / 5
    again = tmp_path / "again.safetensors"
    release_weights(released, again)
    assert again.read_bytes() == released.read_bytes()

    network, _ = network_of(read_checkpoint(checkpoint))
    round_to_half(network)
    kept = read_checkpoint(released)["average"]
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    fit(config.model_copy(update={"initial": released}), tmp_path / "second")
    with pytest.raises(TrainingError, match=r"weights\.pt: expected a name that ends in \.safetensors"):
        release_weights(checkpoint, tmp_path / "weights.pt")


def test_weights_that_do_not_fit_are_named(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 1})
    first = fit(config, tmp_path / "first")
    other = config.model_copy(update={"initial": first, "conditioning": "none"})
    with pytest.raises(TrainingError, match=r"first/checkpoint\.pt: was trained with conditioning 'seecoder_pa'"):
        fit(other, tmp_path / "second")
    state = torch.load(first)
    state["average"]["decoder.head.weight"] = torch.zeros(3, 16, 3, 3)
    del state["average"]["decoder.head.bias"]
    torch.save(state, tmp_path / "cut.pt")
    problem = r"cut\.pt: its weights do not fit(.|\n)*decoder\.head\.bias: missing(.|\n)*head\.weight: \[3, 16, 3, 3\]"
    with pytest.raises(TrainingError, match=problem):
        fit(config.model_copy(update={"initial": tmp_path / "cut.pt"}), tmp_path / "second")


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(config_file)
    broken = config.losses.model_copy(update={"l1": float("nan")})
    with pytest.raises(TrainingError, match=r"not finite at step 0 .*not_finite\.pt"):
        fit(config.model_copy(update={"losses": broken}), tmp_path / "run")
    assert torch.isfinite(torch.load(tmp_path / "run" / "not_finite.pt")["depth"]).all()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match="no such checkpoint"):
        read_checkpoint(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        read_checkpoint(path)
    torch.save({"step": 1}, path)
    with pytest.raises(TrainingError, match="it lacks average, config"):
        read_checkpoint(path)
