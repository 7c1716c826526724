"""The weights of a checkpoint alone, as small as the bundle that is exported from them: what a release keeps."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sem_depth_training.checkpoint import RELEASED_STATE, RELEASED_SUFFIX, TrainingError, network_of, read_mean
from sem_depth_training.export import round_to_half
from sem_depth_training.models.depth_network import DepthNetwork


def release_weights(
    checkpoints: Sequence[Path], output: Path, adjust: Callable[[DepthNetwork], None] | None = None
) -> int:
    """Write the averaged weights of a checkpoint, rounded as `export` rounds them; returns the bytes written.

    Of several checkpoints it is the mean, as `read_mean` takes it. `adjust` may change the network before that, as
    `calibrate_confidence` does.

    The file takes a checkpoint's place in `export`, `evaluate` and as the `initial` of a run, and exports to the same
    bytes. It cannot be resumed: the optimizer is left out.

    Raises TrainingError for a wrong checkpoint, or where `output` is not NAME.safetensors or cannot be written.
    """
    if output.suffix != RELEASED_SUFFIX:
        raise TrainingError(f"{output}: expected a name that ends in {RELEASED_SUFFIX}")
    state = read_mean(checkpoints)
    network, _ = network_of(state, checkpoints[0])
    if adjust is not None:
        adjust(network)
    round_to_half(network)
    content = {key: state[key] for key in RELEASED_STATE}
    content["config"] = _without_folders(content["config"])
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    try:
        save_file(
            {name: _compact(tensor) for name, tensor in network.state_dict().items()},
            partial,
            {"sem_depth": json.dumps(content)},
        )
        partial.replace(output)
    except Exception as error:  # safetensors has an error of its own for a full disk
        partial.unlink(missing_ok=True)
        raise TrainingError(f"{output}: cannot be written ({error}); free space there or name another place") from error
    return output.stat().st_size


def _without_folders(value: Any) -> Any:
    """A configuration whose absolute paths say only folder and file: the rest is of the machine that trained."""
    if isinstance(value, dict):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return str(Path(*Path(value).parts[-2:]))
    return value


def _compact(tensor: Tensor) -> Tensor:
    """In half precision where nothing is lost by it."""
    half = tensor.half()
    fits = tensor.dtype == torch.float32 and torch.equal(half.float(), tensor)
    return (half if fits else tensor).contiguous()
