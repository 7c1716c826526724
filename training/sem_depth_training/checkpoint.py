"""The file a training run leaves: weights, their average, the optimizer, and the configuration."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sem_depth_training.config import FitConfig
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.networks import network_for

CHECKPOINT = "checkpoint.pt"
_SHOWN = 10  # problems listed by name


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


def load_weights(network: DepthNetwork, weights: dict[str, Tensor], source: Path) -> None:
    """Load weights that were read from `source`. Raises TrainingError naming those that do not fit."""
    expected = network.state_dict()
    shapes = [
        f"{name}: {list(weights[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = [f"{name}: missing" for name in expected if name not in weights]
    problems += [f"{name}: not part of this network" for name in weights if name not in expected] + shapes
    if problems:
        shown = "\n  ".join(problems[:_SHOWN]) + (f"\n  and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        raise TrainingError(f"{source}: its weights do not fit this network:\n  {shown}")
    network.load_state_dict(weights)


def require_same_network(state: dict[str, Any], config: FitConfig, source: Path, advice: str) -> None:
    """Raises TrainingError where the checkpoint `state` is of another preset or conditioning than `config`."""
    for key in ("preset", "conditioning"):
        if state["config"].get(key) != getattr(config, key):
            raise TrainingError(
                f"{source}: was trained with {key} {state['config'].get(key)!r}, the configuration says "
                f"{getattr(config, key)!r}; {advice}"
            )


def network_of(state: dict[str, Any]) -> tuple[DepthNetwork, FitConfig]:
    """The network with averaged weights, in evaluation mode, and the configuration that trained it."""
    config = FitConfig.model_validate(state["config"])
    network = network_for(config)
    network.load_state_dict(state["average"])
    return network.eval(), config
