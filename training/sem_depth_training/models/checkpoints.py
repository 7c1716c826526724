"""Public checkpoints into the parts of the paper's network, every tensor accounted for.

Nothing is loaded in part: a file that lacks a tensor, has one too many or one of another shape is refused, and named.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionModel

from sem_depth_training.models.seecoder import SeeCoder
from sem_depth_training.models.stable_diffusion import SD15_UNET, SD15_VAE, LatentEncoder
from sem_depth_training.models.unet import SinglePassUNet
from sem_depth_training.shortened_list import shortened_list

SEECODER_PREFIX = "ctx.image."
UNUSED_UNET_PARTS = ("conv_norm_out.", "conv_out.")  # they predict noise, which one pass for depth never does


class CheckpointError(ValueError):
    """A checkpoint is not what the network needs; the message names the file and the tensors."""


def load_seecoder(seecoder: SeeCoder, path: Path) -> None:
    """Load a released SeeCoder or SeeCoder-PA file (``.safetensors`` or ``.pth``).

    Raises CheckpointError where tensors are missing, unexpected or of another shape.
    """
    tensors = read_tensors(path)
    foreign = [name for name in tensors if not name.startswith(SEECODER_PREFIX)]
    if len(foreign) == len(tensors):
        raise CheckpointError(
            f"{path}: no tensor name starts with '{SEECODER_PREFIX}' (found {shortened_list(foreign)}); "
            "expected a SeeCoder checkpoint such as seecoder-v1-0.safetensors"
        )
    own = {name.removeprefix(SEECODER_PREFIX): value for name, value in tensors.items()}
    _load(seecoder, own, path)


def load_stable_diffusion(
    latent_encoder: LatentEncoder,
    unet: SinglePassUNet,
    path: Path,
    unet_config: Mapping[str, Any] = SD15_UNET,
    vae_config: Mapping[str, Any] = SD15_VAE,
) -> None:
    """Load VAE encoder and UNet from a diffusers folder or from a single-file Stable Diffusion 1.5 checkpoint.

    The adapters of the UNet, which no public checkpoint has, keep their values. Raises CheckpointError where tensors
    are missing, unexpected or of another shape.
    """
    if path.is_dir():
        vae_tensors = _diffusers_tensors(AutoencoderKL, path / "vae")
        unet_tensors = _diffusers_tensors(UNet2DConditionModel, path / "unet")
    else:
        vae_tensors, unet_tensors = _single_file_tensors(path, unet_config, vae_config)
    encoder_tensors = {
        name: value for name, value in vae_tensors.items() if not name.startswith(("decoder.", "post_quant_conv."))
    }
    _load(latent_encoder, encoder_tensors, path)
    renamed = {
        _unet_name(name): value for name, value in unet_tensors.items() if not name.startswith(UNUSED_UNET_PARTS)
    }
    _load(unet, renamed, path, keeps=("adapters.",))


def load_clip_vision(folder: Path) -> CLIPVisionModel:
    """A CLIP image encoder from a transformers folder (``openai/clip-vit-large-patch14`` has one)."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: expected a transformers folder with config.json, found none")
    model, report = CLIPVisionModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if report["missing_keys"]:
        raise CheckpointError(f"{folder}: missing {shortened_list(report['missing_keys'])}")
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a torch file (only tensors, no code) with or without ``state_dict``."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `sem-depth-train fetch-weights` downloads the public checkpoints")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error}); download it again") from error
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _load(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, keeps: tuple[str, ...] = ()) -> None:
    """Copy tensors into a module, all or nothing; parameters that start with one of ``keeps`` stay as they are."""
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(keeps or "\0")}
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    reshaped = [
        f"{name} {list(tensors[name].shape)} (expected {list(own[name].shape)})"
        for name in sorted(own.keys() & tensors.keys())
        if tensors[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {shortened_list(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{source}: does not fit {type(module).__name__}: {listed}")
    module.load_state_dict(dict(tensors), strict=not keeps)


def _diffusers_tensors(kind: type[AutoencoderKL] | type[UNet2DConditionModel], folder: Path) -> dict[str, Tensor]:
    """Read through diffusers, which knows shards, variants and the old names of attention layers."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{config}: no such file; expected a diffusers folder with {folder.name}/config.json")
    found = json.loads(config.read_text()).get("_class_name")
    if found != kind.__name__:
        raise CheckpointError(f"{config}: _class_name is {found}, expected {kind.__name__}")
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: diffusers could not read it: {error}") from error
    if report["missing_keys"] or report["unexpected_keys"]:
        raise CheckpointError(
            f"{folder}: missing {shortened_list(report['missing_keys'])}; "
            f"unexpected {shortened_list(report['unexpected_keys'])}"
        )
    return model.state_dict()


def _single_file_tensors(
    path: Path, unet_config: Mapping[str, Any], vae_config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tensors = read_tensors(path)
    for prefix, part in (("first_stage_model.", "VAE"), ("model.diffusion_model.", "UNet")):
        if not any(name.startswith(prefix) for name in tensors):
            raise CheckpointError(
                f"{path}: no tensor name starts with '{prefix}', so it holds no {part} (found "
                f"{shortened_list(tensors)}); expected a single-file Stable Diffusion 1.5 checkpoint"
            )
    try:
        vae = convert_ldm_vae_checkpoint(tensors, dict(vae_config))
        unet = convert_ldm_unet_checkpoint(tensors, dict(unet_config))
    except KeyError as error:
        raise CheckpointError(f"{path}: missing tensor {error}") from error
    return vae, unet


def _unet_name(name: str) -> str:
    """The name that a tensor of :class:`UNet2DConditionModel` has in :class:`SinglePassUNet`."""
    parts = name.split(".")
    if parts[0] == "up_blocks" and parts[2] == "upsamplers":
        return ".".join(["upsamplers", parts[1], *parts[4:]])
    return f"unet.{name}"
