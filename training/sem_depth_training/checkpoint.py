"""The file a training run leaves: weights, their average, the optimizer, and the configuration."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from sem_depth_training.averaging import mean_of
from sem_depth_training.config import FitConfig
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.networks import network_for

CHECKPOINT = "checkpoint.pt"
RELEASED_SUFFIX = ".safetensors"
RELEASED_STATE = ("config", "training_data", "step")
_SHOWN = 10  # problems listed by name


class TrainingError(Exception):
    """Training cannot start or go on; the message says why and what to do."""


def write_state(path: Path, state: object, process: int = 0) -> None:
    """Write `state` whole or not at all. Raises TrainingError when it cannot be written.

    Several processes of one run, by their numbers, may write the same state at once: each has a partial file.
    """
    partial = path.with_suffix(f".partial{process or ''}")
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch says of a full disk that a position is unexpected
        free = shutil.disk_usage(path.parent).free
        partial.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else "writing broke off"
        raise TrainingError(
            f"{path}: cannot be written ({reason}, {free >> 20} MiB free there); free space and run the same command "
            "again, the last good one is kept"
        ) from error


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Within it a state of `write_state` is read and loaded; what goes wrong is raised as TrainingError with `path`."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # PyTorch goes on for a page
        raise TrainingError(
            f"{path}: damaged, or written by another version ({reason}); delete it and run the same command again"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved by `fit`, or what of it `release_weights` keeps: `RELEASED_STATE` and the weights' `average`.

    Raises TrainingError for a file that is neither.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such checkpoint")
    try:
        state = _read_released(path) if path.suffix == RELEASED_SUFFIX else _read_whole(path)
    except Exception as error:
        raise TrainingError(f"{path}: not a checkpoint of sem-depth-train ({error})") from error
    missing = {*RELEASED_STATE, "average"} - set(state)
    if missing:
        raise TrainingError(f"{path}: not a checkpoint of sem-depth-train, it lacks {', '.join(sorted(missing))}")
    return state


def read_mean(paths: Sequence[Path]) -> dict[str, Any]:
    """The mean of the averaged weights of checkpoints that had one origin, and what all of them were trained on.

    Configuration and steps are the first's; of one checkpoint it is what `read_checkpoint` reads. Raises TrainingError
    for a file that is no checkpoint, is of another network, or has another frozen latent encoder than the first.
    """
    states = [read_checkpoint(path) for path in paths]
    if len(states) == 1:
        return states[0]  # to the last bit: a mean makes 0 of -0
    first = states[0]["average"]
    for state, path in zip(states[1:], paths[1:], strict=True):
        weights = state["average"]
        if {name: x.shape for name, x in weights.items()} != {name: x.shape for name, x in first.items()}:
            raise TrainingError(f"{path}: is of another network than {paths[0]}, so they have no mean")
        for name in (name for name in first if name.startswith("latent_encoder.")):
            if not torch.allclose(weights[name], first[name], 1e-2, 1e-3):  # released weights are rounded to half
                raise TrainingError(
                    f"{path}: has another latent encoder than {paths[0]} ({name}), so they have no mean; name runs "
                    "that started from the same weights"
                )
    data = {entry["name"]: entry for state in states for entry in state["training_data"]}
    average = mean_of([state["average"] for state in states])
    return {key: states[0][key] for key in RELEASED_STATE} | {"training_data": [*data.values()], "average": average}


def _read_whole(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _read_released(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["sem_depth"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return {**state, "average": weights}


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


def network_of(state: dict[str, Any], source: Path) -> tuple[DepthNetwork, FitConfig]:
    """The network with averaged weights, in evaluation mode, and the configuration that trained it.

    Raises TrainingError where `state`, which was read from `source`, is not what this version writes.
    """
    try:
        config = FitConfig.model_validate(state["config"])
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_url=False)
        )
        raise TrainingError(
            f"{source}: its configuration is of another version of sem-depth-train: {problems}"
        ) from error
    network = network_for(config)
    load_weights(network, state["average"], source)
    return network.eval(), config
