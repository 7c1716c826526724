"""Confidence is shifted to what holds on other frames, and ranks pixels as before."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from sem_depth_training.calibrated_confidence import calibrate_confidence, shift_to_mean
from sem_depth_training.checkpoint import TrainingError
from sem_depth_training.cli import app
from sem_depth_training.data.frames import DataError, read_index, write_depth
from sem_depth_training.evaluate import network_predictor, predictor_of
from sem_depth_training.models.depth_decoder import DepthDecoder
from sem_depth_training.models.presets import compact

RANGE = (-4.0, 1.0)
SIZE = (64, 96)


def confidences(logits: np.ndarray) -> np.ndarray:
    scale = np.exp(RANGE[0] + (RANGE[1] - RANGE[0]) / (1 + np.exp(-logits)))
    return 1 - np.exp(-math.log(1.1) / scale)


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.7])
def test_the_shift_that_was_made_is_found(shift: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, 5000)
    mean = float(confidences(logits + shift).mean())
    assert shift_to_mean(confidences(logits), mean, RANGE) == pytest.approx(shift, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_no_scale_states_is_refused(share: float) -> None:
    with pytest.raises(TrainingError, match=r"within 10 % at .* of the pixels, and scales within -4\.0\.\.1\.0 state"):
        shift_to_mean(np.full(10, 0.5), share, RANGE)


def test_a_network_states_the_share_that_is_right_and_ranks_as_before(driving_index: Path) -> None:
    torch.manual_seed(0)
    network = compact("none").eval()
    assert isinstance(network.decoder, DepthDecoder)
    torch.nn.init.normal_(network.decoder.head.weight, std=1.0)
    assert network.decoder.head.bias is not None
    network.decoder.head.bias.data[0] = 1.5  # about as far as the frames' depth, so that some of it is right
    frames = read_index(driving_index, "train")
    with pytest.raises(DataError, match="size 72x96: expected sides that 32 divides"):
        network_predictor(network, (72, 96))
    predict = network_predictor(network, SIZE)
    before = predict(frames[0].read_image(), frames[0].camera).confidence
    console = Console(file=io.StringIO(), width=200)

    calibrate_confidence(network, frames, SIZE, console)

    stated, right = [], []
    for frame in frames:
        prediction, truth = predict(frame.read_image(), frame.camera), frame.read_depth()
        mask = (truth > 1e-3) & (truth < 80)
        stated.append(prediction.confidence[mask])
        right.append(np.abs(np.log(prediction.depth[mask] / truth[mask])) <= math.log(1.1))
    share = np.concatenate(right).mean()
    assert 0.01 < share < 0.9
    assert np.concatenate(stated).mean() == pytest.approx(share, abs=0.01)
    after = predict(frames[0].read_image(), frames[0].camera).confidence
    assert np.corrcoef(np.argsort(np.argsort(before.ravel())), np.argsort(np.argsort(after.ravel())))[0, 1] > 0.99


def test_the_command_calibrates_what_it_releases_and_changes_nothing_else(
    repository: Path, driving_index: Path, tmp_path: Path
) -> None:
    weights, output = repository / "training" / "weights" / "compact.safetensors", tmp_path / "out.safetensors"
    # The network is right by construction in every second row: it need not know this picture.
    (frame,) = read_index(driving_index, "val")
    own = predictor_of(weights, (64, 96))(frame.read_image(), frame.camera).depth
    own[::2] *= 1.5
    write_depth(frame.depth, np.nan_to_num(own, nan=0.0, posinf=0.0))
    command = ["release-weights", str(weights), "-o", str(output), "--calibrate", str(driving_index)]

    result = CliRunner().invoke(app, [*command, "--size", "64x96"], catch_exceptions=False)

    assert result.exit_code == 0, result.output
    assert "confidence over 1 frames" in " ".join(result.output.split())
    before, after = load_file(weights), load_file(output)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["decoder.head.bias"]
    changed = before["decoder.head.bias"] != after["decoder.head.bias"]
    assert changed.tolist() == [False, True]
