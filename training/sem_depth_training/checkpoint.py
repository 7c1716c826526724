"""The file a training run leaves: weights, their average, the optimizer, and the configuration."""

from pathlib import Path
from typing import Any

import torch

from sem_depth_training.config import FitConfig
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.networks import network_for

CHECKPOINT = "checkpoint.pt"


class TrainingError(Exception):
    """Training cannot start or go on; the message says why and what to do."""


def write_state(path: Path, state: object) -> None:
    """Write `state` whole or not at all. Raises TrainingError when it cannot be written."""
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path}: cannot be written ({error}); free space there, the last good one is kept"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved by `fit`. Raises TrainingError for a file that is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: no such checkpoint") from error
    except Exception as error:
        raise TrainingError(f"{path}: not a checkpoint of sem-depth-train ({error})") from error
    missing = {"config", "training_data", "step", "network", "average", "optimizer", "random"} - set(state)
    if missing:
        raise TrainingError(f"{path}: not a checkpoint of sem-depth-train, it lacks {', '.join(sorted(missing))}")
    return dict(state)


def network_of(state: dict[str, Any]) -> tuple[DepthNetwork, FitConfig]:
    """The network with averaged weights, in evaluation mode, and the configuration that trained it."""
    config = FitConfig.model_validate(state["config"])
    network = network_for(config)
    network.load_state_dict(state["average"])
    return network.eval(), config
