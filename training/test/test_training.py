"""A run that was stopped and started again ends where an undisturbed run ends."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from rich.console import Console

from sem_depth_node.camera import CameraModel
from sem_depth_training.averaging import WeightAverage
from sem_depth_training.checkpoint import TrainingError, network_of, read_checkpoint, write_state
from sem_depth_training.config import read_config
from sem_depth_training.data.augmentation import AugmentationConfig
from sem_depth_training.data.batches import Batch, BatchesByStep, Mixture, WeightedFrames
from sem_depth_training.data.frames import DataError, Frame, read_index, write_depth, write_picture
from sem_depth_training.export import round_to_half
from sem_depth_training.losses import total_loss
from sem_depth_training.models.autoencoder import ImageAutoencoder
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.presets import compact
from sem_depth_training.networks import network_for
from sem_depth_training.released_weights import release_weights
from sem_depth_training.sample_pictures import sample_pictures
from sem_depth_training.train import (
    _make_folder,
    _parameter_groups,
    _predict,
    _schedule,
    _terms,
    fit,
    precision_remark,
    taught_depth,
)


@pytest.fixture
def config_file(driving_index: Path, tmp_path: Path) -> Path:
    path = tmp_path / "fit.yaml"
    fields = {
        "conditioning": "seecoder_pa",  # its positions jitter in training, so randomness counts too
        "stochastic_depth": 0.3,
        "augmentation": {"turn": 3.0, "style": 0.5},
        "steps": 5,
        "batch_size": 2,
        "sizes": [[64, 96], [96, 64]],
        "precision": "no",
        "workers": 0,
        "log_every": 1,
        "warmup_steps": 2,
        "autoencoder": {"steps": 2, "batch_size": 2},
        "data": [{"name": "plane", "index": str(driving_index), "mix": 0.5}],
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

    # Killed when the latent encoder was done and no checkpoint written yet.
    (tmp_path / "early").mkdir()
    shutil.copy(tmp_path / "whole" / "latent_encoder.pt", tmp_path / "early")
    early = read_checkpoint(fit(config, tmp_path / "early"))
    assert all(torch.equal(early["network"][name], value) for name, value in whole["network"].items())


def test_rates_that_changed_hold_after_a_resume(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file)
    before = read_checkpoint(fit(config.model_copy(update={"steps": 2}), tmp_path / "run"))["network"]
    still = config.model_copy(update={"learning_rate": 1e-12, "backbone_learning_rate": 2e-12, "weight_decay": 0.0})
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: its optimizer has other groups .*frozen_backbone_blocks"):
        fit(still.model_copy(update={"frozen_backbone_blocks": 0}), tmp_path / "run")
    after = read_checkpoint(fit(still, tmp_path / "run"))["network"]
    for name, _ in network_for(config).named_parameters():
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["seecoder", "seecoder_pa", "clip", "none"])
def test_a_step_computes_where_the_network_is_and_reaches_every_weight(
    config_file: Path, driving_index: Path, conditioning: str
) -> None:
    # The device "meta" stands in for a GPU: it computes nothing, and refuses what was left on the CPU.
    config = read_config(config_file).model_copy(update={"conditioning": conditioning})
    network = network_for(config, for_training=True).to("meta").train()
    mixture = Mixture([WeightedFrames(read_index(driving_index, "train"), 1.0)], 100.0)
    batch = BatchesByStep(mixture, config.sizes, 2, config.augmentation, 0)[0].to(torch.device("meta"))
    assert {tensor.device.type for tensor in batch.state().values()} == {"meta"}
    average = WeightAverage(network, 0.9)

    loss = total_loss(_terms(_predict(network, batch), batch, network.canonical_focal_length), config.losses)
    loss.backward()
    average.update(network, 1)
    average.load({name: tensor.cpu() for name, tensor in network_for(config).state_dict().items()})

    assert loss.device.type == "meta"
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert {tensor.device.type for tensor in average.state.values()} == {"meta"}


class _TwoProcesses:
    """`fit` under torchrun in two processes, which print their number and their id first."""

    def __init__(self, config_file: Path, output: Path, changes: str = "") -> None:
        script = output.parent / "two_processes.py"
        script.write_text(
            "import math, os, sys\n"
            "import torch\n"
            "from pathlib import Path\n"
            "from sem_depth_training import cli, train\n"
            "rank = int(os.environ['RANK'])\n"
            f"{changes}\n"
            "os.write(1, f'process {rank} {os.getpid()}\\n'.encode())\n"
            f"sys.argv = ['fit', 'fit', {str(config_file)!r}, '-o', {str(output)!r}]\n"
            "cli.main()\n"
        )
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.run = subprocess.Popen(
            [*torchrun, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.processes: dict[int, int] = {}

    def lines(self) -> Iterator[str]:
        """What they print, line by line."""
        assert self.run.stdout is not None
        for line in self.run.stdout:
            if line.startswith("process "):
                _, rank, number = line.split()
                self.processes[int(rank)] = int(number)
            yield line
        self.run.wait(timeout=60)


def test_a_loss_of_one_process_that_is_not_finite_stops_all_and_loses_no_step(
    config_file: Path, tmp_path: Path
) -> None:
    after_three = (
        "total = train.total_loss\n"
        "calls = []\n"
        "def broken(terms, weights):\n"
        "    calls.append(1)\n"
        "    return total(terms, weights) * (math.nan if rank == 1 and len(calls) > 3 else 1.0)\n"
        "train.total_loss = broken\n"
    )
    run = _TwoProcesses(config_file, tmp_path / "run", after_three)
    text = "".join(run.lines())
    assert run.run.returncode != 0
    assert "not_finite_1.pt" in text, text
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 3
    assert (tmp_path / "run" / "not_finite_1.pt").exists()


def test_a_signal_to_the_main_process_while_the_latent_encoder_trains_stops_all(
    config_file: Path, tmp_path: Path
) -> None:
    fields = yaml.safe_load(config_file.read_text()) | {"autoencoder": {"steps": 100_000, "batch_size": 2}}
    config_file.write_text(yaml.safe_dump(fields))
    run = _TwoProcesses(config_file, tmp_path / "run")
    told = []
    for line in run.lines():
        told.append(line)
        if line.startswith("autoencoder step 100/"):
            os.kill(run.processes[0], signal.SIGTERM)
    assert run.run.returncode == 0, "".join(told)
    assert "of the autoencoder; run the same command again" in "".join(told)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["latent_encoder_unfinished.pt"]


@pytest.fixture
def another_precision() -> Iterator[None]:
    """accelerate keeps the precision of a process's first run for all of them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_accumulated_batches_are_one_step_and_resume_exactly(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"accumulate": 2, "precision": "bf16", "checkpoint_every": 1})
    fit(config, tmp_path / "killed", KillAt("step 2/5"))
    resumed, whole = (read_checkpoint(fit(config, tmp_path / name)) for name in ("killed", "whole"))
    assert resumed["step"] == whole["step"] == 5
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())
    once = read_checkpoint(fit(config.model_copy(update={"accumulate": 1}), tmp_path / "once"))
    name = "decoder.head.weight"
    assert not torch.equal(once["network"][name], whole["network"][name])


def test_gradient_checkpointing_changes_memory_and_not_the_weights(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 2, "conditioning": "seecoder"})
    fit(config, tmp_path / "plain")
    recomputed = config.model_copy(update={"gradient_checkpointing": True})
    shutil.copytree(tmp_path / "plain", tmp_path / "recomputed", ignore=lambda *_: ["checkpoint.pt"])
    plain, again = (
        read_checkpoint(tmp_path / "plain" / "checkpoint.pt"),
        read_checkpoint(fit(recomputed, tmp_path / "recomputed")),
    )
    for name, value in plain["network"].items():
        torch.testing.assert_close(again["network"][name], value, rtol=1e-4, atol=1e-5)


def test_rates_warm_up_and_fall_by_a_cosine_each_part_with_its_own_peak(config_file: Path) -> None:
    config = read_config(config_file).model_copy(
        update={"steps": 110, "warmup_steps": 10, "learning_rate": 1e-3, "backbone_learning_rate": 1e-4}
    )
    factor = _schedule(config)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [factor(step) for step in (10, 60, 110)] == pytest.approx([1.0, 0.505, 0.01])
    network = network_for(config, for_training=True)
    peaks = {
        id(parameter): group["peak"] for group in _parameter_groups(network, config) for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        frozen = name.startswith("latent_encoder.") or not parameter.requires_grad
        expected = None if frozen else 1e-4 if name.startswith("semantic_encoder.backbone.") else 1e-3
        assert peaks.get(id(parameter)) == expected, name


def test_the_average_of_weights_follows_them_with_its_decay() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = WeightAverage(layer, 0.9)
    torch.nn.init.ones_(layer.weight)
    average.update(layer, 10_000)
    assert average.state["weight"].item() == pytest.approx(0.1)
    average.update(layer, 10_000)
    assert average.state["weight"].item() == pytest.approx(0.19)
    average.update(layer, 0)  # at first it hardly remembers
    assert average.state["weight"].item() == pytest.approx(0.19 * 0.1 + 0.9)


def test_stochastic_depth_leaves_blocks_out_of_samples_in_training_alone(config_file: Path) -> None:
    config = read_config(config_file).model_copy(update={"stochastic_depth": 0.6})
    backbone = network_for(config, for_training=True, pretrained=True).semantic_encoder.backbone
    block = backbone.blocks[-2]  # the last that adds to its input: 0.6 * 14 / 15
    x = torch.randn(1, 192, 2, 3, generator=torch.Generator().manual_seed(0)).expand(400, -1, -1, -1)
    with torch.no_grad():
        added = block.eval()(x) - x
        torch.manual_seed(1)
        drawn = backbone.train().blocks[-2](x) - x
    left_out = (drawn == 0).all(3).all(2).all(1)
    assert left_out.float().mean().item() == pytest.approx(0.56, abs=0.08)
    torch.testing.assert_close(drawn[~left_out], added[~left_out] / (1 - 0.56), rtol=1e-4, atol=1e-5)
    assert network_for(config).train().semantic_encoder.backbone.blocks[-2].drop == 0, "unless it is trained"


def test_losses_told_after_a_resume_are_means_of_what_was_done_since(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file)
    fit(config, tmp_path / "killed", KillAt("step 3/5"))
    resumed, whole = (Console(file=io.StringIO(), width=200) for _ in range(2))
    fit(config.model_copy(update={"log_every": 2}), tmp_path / "killed", resumed)
    fit(config, tmp_path / "whole", whole)

    def step_4(console: Console) -> str:
        assert isinstance(console.file, io.StringIO)
        (line,) = (line for line in console.file.getvalue().splitlines() if line.startswith("step 4/5"))
        return line.split(" | ")[0]

    assert step_4(resumed) == step_4(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_loses_no_step(
    config_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    fields = yaml.safe_load(config_file.read_text()) | {"steps": 1000, "workers": 1, "checkpoint_every": 1000}
    config_file.write_text(yaml.safe_dump(fields))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*torchrun, "-m", "sem_depth_training.cli", "fit", str(config_file), "-o", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert run.stdout is not None
    told = []
    for line in run.stdout:
        told.append(line)
        if line.startswith("step 2/"):
            os.killpg(run.pid, number)
    run.wait(timeout=60)
    text = "".join(told)
    assert "stopped at step" in text, text
    done = [int(line.split("/")[0].split()[1]) for line in told if line.startswith("step ")]
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == done[-1]


def test_a_checkpoint_of_another_network_is_refused(config_file: Path, tmp_path: Path) -> None:
    fit(read_config(config_file).model_copy(update={"steps": 1}), tmp_path / "run")
    other = read_config(config_file).model_copy(update={"conditioning": "none"})
    with pytest.raises(TrainingError, match=r"trained with conditioning 'seecoder_pa', the configuration says 'none'"):
        fit(other, tmp_path / "run")


def test_a_run_starts_from_the_weights_of_another(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 2})
    first = fit(config, tmp_path / "first")
    other_data = [source.model_copy(update={"name": "the plane again"}) for source in config.data]
    second = config.model_copy(update={"initial": [first], "steps": 1, "learning_rate": 1e-12, "data": other_data})
    second = second.model_copy(update={"backbone_learning_rate": 1e-12})

    started, given = (read_checkpoint(path) for path in (fit(second, tmp_path / "second"), first))

    assert started["step"] == 1
    for name, _ in network_for(config).named_parameters():  # at these rates; statistics of batches move without one
        torch.testing.assert_close(started["network"][name], given["average"][name], rtol=0, atol=1e-6)
    for name in (name for name in given["average"] if name.startswith("latent_encoder.")):
        assert torch.equal(started["network"][name], given["average"][name])
    assert not (tmp_path / "second" / "latent_encoder.pt").exists()
    assert [data["name"] for data in started["training_data"]] == ["plane", "the plane again"]


def test_a_run_starts_from_the_mean_of_runs_with_one_origin(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 2})
    origin = fit(config, tmp_path / "origin")
    both = [fit(config.model_copy(update={"initial": [origin], "seed": seed}), tmp_path / str(seed)) for seed in (1, 2)]
    still = {"steps": 1, "learning_rate": 1e-12, "backbone_learning_rate": 1e-12}

    started = read_checkpoint(fit(config.model_copy(update={"initial": both, **still}), tmp_path / "mean"))

    one, other = (read_checkpoint(path)["average"] for path in both)
    assert not torch.equal(one["decoder.head.weight"], other["decoder.head.weight"])
    for name, _ in network_for(config).named_parameters():
        torch.testing.assert_close(started["network"][name], (one[name] + other[name]) / 2, rtol=0, atol=1e-6)
    release_weights(both, tmp_path / "mean.safetensors")
    released = read_checkpoint(tmp_path / "mean.safetensors")["average"]["decoder.head.weight"]
    torch.testing.assert_close(
        released, (one["decoder.head.weight"] + other["decoder.head.weight"]) / 2, rtol=1e-3, atol=6e-8
    )
    stranger = fit(config.model_copy(update={"seed": 5}), tmp_path / "stranger")
    with pytest.raises(TrainingError, match=r"stranger/checkpoint\.pt: has another latent encoder than .*origin"):
        fit(config.model_copy(update={"initial": [origin, stranger], **still}), tmp_path / "none")
    unlike = fit(config.model_copy(update={"conditioning": "none"}), tmp_path / "unlike")
    with pytest.raises(TrainingError, match=r"unlike/checkpoint\.pt: is of another network than .*origin"):
        release_weights([origin, unlike], tmp_path / "none.safetensors")


def test_released_weights_are_the_rounded_average_and_start_a_run(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 1})
    checkpoint, released = fit(config, tmp_path / "first"), tmp_path / "released" / "tiny.safetensors"
    assert release_weights([checkpoint], released) < checkpoint.stat().st_size / 5
    again = tmp_path / "again.safetensors"
    release_weights([released], again)
    assert str(tmp_path).encode() not in released.read_bytes(), "a release tells folders of the machine that trained"
    assert again.read_bytes() == released.read_bytes()

    network, _ = network_of(read_checkpoint(checkpoint), checkpoint)
    round_to_half(network)
    kept = read_checkpoint(released)["average"]
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    fit(config.model_copy(update={"initial": [released]}), tmp_path / "second")
    with pytest.raises(TrainingError, match=r"weights\.pt: expected a name that ends in \.safetensors"):
        release_weights([checkpoint], tmp_path / "weights.pt")


def test_weights_that_do_not_fit_are_named(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 1})
    first = fit(config, tmp_path / "first")
    other = config.model_copy(update={"initial": [first], "conditioning": "none"})
    with pytest.raises(TrainingError, match=r"first/checkpoint\.pt: was trained with conditioning 'seecoder_pa'"):
        fit(other, tmp_path / "second")
    state = torch.load(first)
    state["average"]["decoder.head.weight"] = torch.zeros(3, 16, 3, 3)
    del state["average"]["decoder.head.bias"]
    torch.save(state, tmp_path / "cut.pt")
    problem = r"cut\.pt: its weights do not fit(.|\n)*decoder\.head\.bias: missing(.|\n)*head\.weight: \[3, 16, 3, 3\]"
    with pytest.raises(TrainingError, match=problem):
        fit(config.model_copy(update={"initial": [tmp_path / "cut.pt"]}), tmp_path / "second")


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "told"),
    [
        ("bf16", "cpu", {"architecture": "x86_64", "avx512_bf16": False}, True),
        ("bf16", "cpu", {"architecture": "x86_64", "avx512_bf16": True}, False),
        ("bf16", "cpu", {"architecture": "aarch64"}, False),
        ("bf16", "cuda", {"architecture": "x86_64", "avx512_bf16": False}, False),
        ("no", "cpu", {"architecture": "x86_64", "avx512_bf16": False}, False),
    ],
)
def test_a_processor_that_only_emulates_bfloat16_is_told(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, capabilities: dict[str, Any], told: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert ("no instructions for bf16" in (precision_remark(precision, device) or "")) is told


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(config_file)
    broken = config.losses.model_copy(update={"l1": float("nan")})
    with pytest.raises(TrainingError, match=r"not finite at step 0 .*not_finite\.pt"):
        fit(config.model_copy(update={"losses": broken}), tmp_path / "run")
    assert torch.isfinite(torch.load(tmp_path / "run" / "not_finite.pt")["depth"]).all()
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 0


def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_were(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def total_of_infinite_slope(terms: dict[str, torch.Tensor], weights: Any) -> torch.Tensor:
        zero = terms["l1"] - terms["l1"].detach()
        return total_loss(terms, weights) + torch.sqrt(zero)  # 0, whose derivative is infinite

    monkeypatch.setattr("sem_depth_training.train.total_loss", total_of_infinite_slope)
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 0 .*not_finite\.pt"):
        fit(read_config(config_file), tmp_path / "run")
    state = read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["step"] == 0
    assert all(bool(torch.isfinite(weights).all()) for weights in state["network"].values())


def test_a_network_learns_from_a_teacher_of_another_preset(
    config_file: Path, paper_weights: dict[str, Any], tmp_path: Path
) -> None:
    fields = yaml.safe_load(config_file.read_text())
    paper = {**fields, **paper_weights, "steps": 1, "sizes": [[64, 96]], "stochastic_depth": 0.0}
    config_file.write_text(yaml.safe_dump(paper))
    teacher = fit(read_config(config_file), tmp_path / "teacher")
    student = {**fields, "teacher": {"checkpoint": str(teacher), "mirrored": True}, "steps": 2, "sizes": [[64, 96]]}
    student["data"] = [{**fields["data"][0], "name": "the plane again"}]
    config_file.write_text(yaml.safe_dump(student))
    console = Console(file=io.StringIO(), width=300)
    state = read_checkpoint(fit(read_config(config_file), tmp_path / "student", console))
    assert "distillation" in console.file.getvalue()
    names = [data["name"] for data in state["training_data"]]
    assert names[0] == "plane"
    assert any("stable-diffusion" in name for name in names), "what the teacher was made from counts"
    assert not any(name.startswith("teacher") for name in state["network"])


def test_frozen_statistics_stay_while_their_scales_learn(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file)
    first = fit(config.model_copy(update={"steps": 1}), tmp_path / "first")
    before = read_checkpoint(first)["average"]
    further = config.model_copy(update={"initial": [first], "steps": 2, "ema_decay": 0.1})
    moved = {}
    for frozen in (False, True):
        run = fit(further.model_copy(update={"frozen_statistics": frozen}), tmp_path / f"frozen_{frozen}")
        after = read_checkpoint(run)["network"]
        moved[frozen] = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in moved[False] if "running" in name}
    assert statistics, "without it they follow the batches"
    assert moved[True] == {name for name in moved[False] if "running" not in name and "num_batches" not in name}
    scales = {name.replace("running_var", "weight") for name in statistics if name.endswith("running_var")}
    assert scales <= moved[True]


def test_a_mirrored_teacher_says_the_same_of_both_sides() -> None:
    torch.manual_seed(0)
    network = compact("none").eval()
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        alone, mirrored = taught_depth(network, image, False), taught_depth(network, image.flip(2), False).flip(2)
        both = taught_depth(network, image, True)
    assert not torch.allclose(alone, mirrored, atol=1e-3), "one pass does tell left from right"
    torch.testing.assert_close(both, (alone + mirrored) / 2)
    with torch.no_grad():
        torch.testing.assert_close(taught_depth(network, image.flip(2), True).flip(2), both)


def test_stereo_pairs_supervise_and_a_run_without_them_is_refused(
    config_file: Path, driving_index: Path, tmp_path: Path
) -> None:
    config = read_config(config_file)
    config = config.model_copy(update={"losses": config.losses.model_copy(update={"photometric": 1.0}), "steps": 2})
    with pytest.raises(TrainingError, match=r"losses\.photometric: no source has stereo pairs"):
        fit(config, tmp_path / "run")
    text = driving_index.read_text()
    for number, side in ((0, "l"), (1, "r")):
        (tmp_path / f"7{side}.jpg").write_bytes((tmp_path / f"{number}_image.png").read_bytes())
        text = text.replace(f"{number}_image.png", f"7{side}.jpg")
    driving_index.write_text(text)
    source = config.data[0].model_copy(update={"baseline": 0.5})
    console = Console(file=io.StringIO(), width=300)
    fit(config.model_copy(update={"data": [source]}), tmp_path / "run", console)
    assert "photometric 0." in console.file.getvalue()


def test_ctrl_c_while_the_latent_encoder_trains_loses_none_of_it(config_file: Path, tmp_path: Path) -> None:
    fields = yaml.safe_load(config_file.read_text())
    fields |= {"autoencoder": {"steps": 4, "batch_size": 2}, "steps": 1}
    config_file.write_text(yaml.safe_dump(fields))
    config = read_config(config_file)
    fit(config, tmp_path / "killed", KillAt("training the image autoencoder"))
    assert torch.load(tmp_path / "killed" / "latent_encoder_unfinished.pt")["step"] == 1
    fit(config, tmp_path / "killed")
    fit(config, tmp_path / "whole")
    killed, whole = (torch.load(tmp_path / name / "latent_encoder.pt") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], value) for name, value in whole.items())
    assert not (tmp_path / "killed" / "latent_encoder_unfinished.pt").exists()


def test_what_stops_the_latent_encoder_is_told_and_its_steps_are_kept(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = yaml.safe_load(config_file.read_text())
    fields |= {"autoencoder": {"steps": 4, "batch_size": 2}, "steps": 1}
    config_file.write_text(yaml.safe_dump(fields))
    config = read_config(config_file)
    fit(config, tmp_path / "whole")

    forward, calls = ImageAutoencoder.forward, []

    def third_fails(self: ImageAutoencoder, image: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, image)

    monkeypatch.setattr(ImageAutoencoder, "forward", third_fails)
    with pytest.raises(TrainingError, match=r"out of memory at step 2 of the image autoencoder with 2 .*batch_size"):
        fit(config, tmp_path / "run")
    fit(config, tmp_path / "run")
    resumed, whole = (torch.load(tmp_path / name / "latent_encoder.pt") for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    monkeypatch.setattr(ImageAutoencoder, "forward", lambda self, image: forward(self, image) * float("nan"))
    with pytest.raises(TrainingError, match=r"image autoencoder is not finite at step 0; lower autoencoder\.learning"):
        fit(config, tmp_path / "diverged")
    assert not (tmp_path / "diverged" / "latent_encoder.pt").exists()


def test_processes_of_a_run_that_save_at_once_leave_one_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            state = {"weights": torch.rand(300_000)}
            list(pool.map(lambda process, state=state: write_state(path, state, process), range(4)))  # type: ignore[misc]
            assert torch.equal(torch.load(path)["weights"], state["weights"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_gpu_out_of_memory_keeps_what_was_trained_and_says_what_to_change(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = DepthNetwork.forward, []

    def forward_until_full(self: DepthNetwork, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        if len(calls) == 3:  # what PyTorch raises where a GPU's memory does not suffice
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, image)

    monkeypatch.setattr(DepthNetwork, "forward", forward_until_full)
    config = read_config(config_file)
    with pytest.raises(TrainingError, match=r"out of memory at step 2 with 2 images of 64x96.*Halve batch_size"):
        fit(config, tmp_path / "run")
    fit(config, tmp_path / "run")
    fit(config, tmp_path / "whole")
    resumed, whole = (read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("run", "whole"))
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())


def test_a_sources_mixing_reaches_the_training(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"steps": 1})
    trained = []
    for mix in (0.0, 0.0, 1.0):
        source = config.data[0].model_copy(update={"mix": mix})
        checkpoint = fit(config.model_copy(update={"data": [source]}), tmp_path / f"run{len(trained)}")
        trained.append(read_checkpoint(checkpoint)["network"]["decoder.lateral.0.weight"])
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_damaged_latent_encoder_is_named_with_what_to_do(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("latent_encoder_unfinished.pt", "latent_encoder.pt"):
        (run / name).write_bytes(b"cut short")
        with pytest.raises(TrainingError, match=rf"{name}: damaged, .*delete it and run the same command again"):
            fit(read_config(config_file), run)


def test_a_frame_that_cannot_be_decoded_is_named_by_whoever_draws_it(config_file: Path, tmp_path: Path) -> None:
    config = read_config(config_file).model_copy(update={"memory": 0.0, "workers": 1, "steps": 30})
    (tmp_path / "2_image.png").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"^\S*2_image\.png: cannot be decoded as an image; fetch"):
        fit(config, tmp_path / "run")
    kept = config.model_copy(update={"memory": 1.0})
    with pytest.raises(DataError, match=r"2_image\.png: cannot be decoded"):
        fit(kept, tmp_path / "run")


def test_frames_read_when_drawn_give_the_same_batches_as_kept_ones(driving_index: Path) -> None:
    sources = [WeightedFrames(read_index(driving_index, "train"), 1.0, mix=0.5)]
    augmentation = AugmentationConfig(fog=0.5, rain=0.5, turn=5.0, style=0.5, join=0.5)
    kept, read = (
        BatchesByStep(Mixture(sources, 100.0, memory), [(64, 96)], 4, augmentation, 3) for memory in (1e9, 0.0)
    )
    for step in range(3):
        for name, tensor in kept[step].state().items():
            assert torch.equal(tensor, read[step].state()[name]), name


def test_a_frame_is_mixed_with_frames_of_its_own_source_alone(driving_index: Path) -> None:
    frames = read_index(driving_index, "train")
    mixture = Mixture([WeightedFrames(frames[:1], 1.0), WeightedFrames(frames[1:], 1.0, mix=0.75)], 100.0)
    rng = np.random.default_rng(0)
    assert all(mixture.companion(rng, 0) is None for _ in range(20))
    companions = [mixture.companion(rng, 1) for _ in range(200)]
    drawn = {companion.image.tobytes() for companion in companions if companion is not None}
    assert drawn == {frame.read_image().tobytes() for frame in frames[1:]}
    assert 25 < companions.count(None) < 75


@pytest.mark.parametrize("paired", [False, True])
def test_a_batch_shows_the_nearer_of_two_frames_through_one_window(tmp_path: Path, paired: bool) -> None:
    # Two images of one rig, of two sizes: a far wall with a narrow stripe in the middle, and a near, broader stripe at
    # the same place before a background that is farther still.
    def frame(name: str, height: int, width: int, grey: int, metres: float, stripe: float, half: float) -> Frame:
        image, depth = np.full((height, width, 3), grey, np.uint8), np.full((height, width), metres, np.float32)
        columns = slice(round(width * (0.5 - half)), round(width * (0.5 + half)))
        image[:, columns], depth[:, columns] = grey + 30, stripe
        paths = [tmp_path / f"{name}_{kind}.png" for kind in ("image", "depth", "sky")]
        write_picture(paths[0], image)
        write_depth(paths[1], depth)
        write_picture(paths[2], np.zeros((height, width), np.uint8))
        camera = CameraModel(width, height, width * 0.6, width * 0.6, width / 2, height / 2)
        return Frame(*paths, camera, name, "", paths[0] if paired else None, 0.5)

    frames = [frame("far", 96, 320, 60, 40.0, 40.0, 0.03), frame("near", 92, 310, 160, 60.0, 8.0, 0.06)]
    still = AugmentationConfig(colour=0, gamma=0, tint=0, blur=0, noise=0, jpeg=0, stretch=0, zoom=1.3)
    mixture = Mixture([WeightedFrames(frames, 1.0, mix=1.0)], 100.0, partners=paired)
    batches = BatchesByStep(mixture, [(96, 320)], 4, still, 0)
    mixed = 0
    for step in range(6):
        batch = batches[step]
        assert isinstance(batch, Batch)
        for image, depth, shift in zip(batch.image, batch.depth, batch.pair_shift, strict=True):
            shown, metres = image[48, :, 0].int(), depth[48]
            wall, far_stripe, near_stripe = ((shown - grey).abs() < 3 for grey in (60, 90, 190))
            if not (wall.any() and near_stripe.any()):
                continue  # a frame with itself, or a window beside the stripe
            mixed += 1
            assert not far_stripe.any(), "the near stripe stands before it"
            assert metres[wall].median() / metres[near_stripe].median() == pytest.approx(40 / 8, rel=0.05)
            assert shift == 0, "a partner does not show what was mixed in"
    assert mixed >= 5


def test_a_sample_shows_its_image_its_truth_and_what_was_predicted(driving_index: Path) -> None:
    mixture = Mixture([WeightedFrames(read_index(driving_index, "train"), 1.0)], 100.0)
    batch = BatchesByStep(mixture, [(64, 96)], 4, AugmentationConfig(), 0)[0]
    truth = torch.log(batch.depth.clamp(min=1) * 384 / batch.focal[:, None, None])
    picture = sample_pictures(batch, truth, torch.full_like(truth, -4.0), 384.0)
    assert picture.shape == (3, 3 * 64, 4 * 96)
    assert torch.equal(picture[:, :64, :96].permute(1, 2, 0), batch.image[0])
    known = batch.depth[0] >= 1
    true, predicted = picture[:, :64, 96:192], picture[:, :64, 192:288]
    assert (true[:, known].int() - predicted[:, known].int()).abs().max() <= 12
    assert (true[:, batch.depth[0] == 0] == 0).all()
    assert (picture[:, :64, 288:] > 250).all()


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"the last good one")
    path.with_suffix(".partial").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be written .*free space"):
        write_state(path, {"weights": torch.zeros(100_000)})
    assert path.read_bytes() == b"the last good one"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match=r"file: cannot be made a folder"):
        _make_folder(tmp_path / "file")


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
