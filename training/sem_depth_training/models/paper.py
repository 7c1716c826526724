"""The paper-size network of arXiv 2502.01666, its shrunken sibling for tests, and their public weights.

What the paper leaves open is decided here and in ``docs/paper_network.md``: the timestep, the decoder, the size
SeeCoder sees, the canonical focal length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from sem_depth_training.models.checkpoints import (
    CheckpointError,
    load_clip_vision,
    load_seecoder,
    load_stable_diffusion,
)
from sem_depth_training.models.depth_decoder import DepthDecoder
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.paper_semantics import (
    ClipTokens,
    Conditioning,
    ConstantTokens,
    PaperSemanticEncoder,
    SeeCoderTokens,
)
from sem_depth_training.models.seecoder import MultiScaleDecoder, QueryTransformer, SeeCoder
from sem_depth_training.models.stable_diffusion import SD15_UNET, SD15_VAE, LatentEncoder
from sem_depth_training.models.swin import SwinTransformer
from sem_depth_training.models.unet import SinglePassUNet


@dataclass(frozen=True)
class PaperShape:
    """Sizes of every part; the defaults are those of the public checkpoints.

    ``clip`` holds arguments of :class:`transformers.CLIPVisionConfig`, ``swin``, ``seecoder_decoder`` and ``queries``
    those of SeeCoder's parts. ``decoder_width`` is the decoder's width at 1/8, ``decoder_widths`` at 1/4 and 1/2.
    """

    unet: Mapping[str, Any] = field(default_factory=lambda: dict(SD15_UNET))
    vae: Mapping[str, Any] = field(default_factory=lambda: dict(SD15_VAE))
    swin: Mapping[str, Any] = field(
        default_factory=lambda: {"embed_dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 12}
    )
    seecoder_decoder: Mapping[str, Any] = field(default_factory=dict)
    queries: Mapping[str, Any] = field(default_factory=dict)
    clip: Mapping[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        }
    )
    tokens: int = 148
    decoder_width: int = 256
    decoder_widths: tuple[int, int] = (128, 64)
    detail_channels: tuple[int, int] = (32, 64)


CANONICAL_FOCAL_LENGTH = 720.0
"""Pixels. About that of KITTI's colour cameras, so that canonical metres are near metres in a 352x1216 crop."""

IMAGE_SIZE = (352, 1216)
"""Height and width of the KITTI benchmark crop, which the paper's network takes unscaled."""

SEECODER_SIZE = (176, 608)
"""Height and width SeeCoder sees: half the image, see docs/paper_network.md for the measurement."""

PAPER = PaperShape()

SHRUNKEN = PaperShape(
    unet={
        **SD15_UNET,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    },
    vae={**SD15_VAE, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    swin={"embed_dim": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": 4},
    seecoder_decoder={"dim": 32, "heads": 4, "layers": 1, "feedforward_dim": 64},
    queries={
        "dim": 32,
        "global_queries": 2,
        "local_queries": 6,
        "heads": 4,
        "layers": 3,
        "feedforward_dim": 64,
    },
    clip={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
    tokens=8,
    decoder_width=32,
    decoder_widths=(16, 16),
    detail_channels=(8, 8),
)
"""Every part of the paper's network in a form that builds, exports and compiles in seconds."""


def paper_network(
    conditioning: Conditioning = "seecoder",
    *,
    seecoder_size: tuple[int, int] = SEECODER_SIZE,
    canonical_focal_length: float = CANONICAL_FOCAL_LENGTH,
    depth_range: tuple[float, float] = (0.5, 200.0),
    timestep: int = 1,
    text_tokens: Tensor | None = None,
    shape: PaperShape = PAPER,
) -> DepthNetwork:
    """Build the network with fresh weights; :func:`load_public_weights` fills in the public ones.

    Args:
        conditioning: what the UNet is conditioned on; ``none`` gives learned tokens that are the same for every image,
            ``text`` frozen ones, which ``text_tokens`` [N, D] then must hold.
        seecoder_size: height and width SeeCoder sees.
        canonical_focal_length: pixels, see :class:`DepthNetwork`.
        depth_range: nearest and farthest canonical depth, metres.
        timestep: the diffusion step that the UNet is told, 0 to 999.
    """
    if not 0 <= timestep <= 999:
        raise ValueError(f"timestep: expected 0 to 999, found {timestep}")
    unet = SinglePassUNet(timestep, **shape.unet)
    return DepthNetwork(
        latent_encoder=LatentEncoder(shape.vae),
        semantic_encoder=PaperSemanticEncoder(
            _tokens(conditioning, seecoder_size, text_tokens, shape), shape.detail_channels
        ),
        unet=unet,
        decoder=DepthDecoder(
            unet.channels,
            shape.decoder_width,
            shape.decoder_widths,
            skip_channels=shape.detail_channels[::-1],
            log_range=(math.log(depth_range[0]), math.log(depth_range[1])),
        ),
        canonical_focal_length=canonical_focal_length,
        preset="paper",
    )


def build_seecoder(position_aware: bool, shape: PaperShape = PAPER) -> SeeCoder:
    """SeeCoder, or SeeCoder-PA, with fresh weights: as released where ``shape`` is :data:`PAPER`."""
    imencoder = SwinTransformer(**shape.swin)
    # SeeCoder does not take the first map, so its norm, which the released files have, would never see a gradient.
    imencoder.get_submodule("norm0").requires_grad_(False)
    in_channels = dict(zip(("res3", "res4", "res5"), imencoder.channels[1:], strict=True))
    return SeeCoder(
        imencoder,
        MultiScaleDecoder(in_channels, **shape.seecoder_decoder),
        QueryTransformer(position_aware=position_aware, **shape.queries),
    )


def load_public_weights(
    network: DepthNetwork,
    *,
    stable_diffusion: Path,
    seecoder: Path | None = None,
    clip: Path | None = None,
    shape: PaperShape = PAPER,
) -> None:
    """Load the public checkpoints into the parts that have them; decoder, image stem and projections stay fresh.

    ``stable_diffusion`` is a diffusers folder or a single file, ``seecoder`` a released file, ``clip`` a transformers
    folder. Raises CheckpointError where a file does not fit, or is needed and not given.
    """
    latent_encoder, unet = network.latent_encoder, network.unet
    if not isinstance(latent_encoder, LatentEncoder) or not isinstance(unet, SinglePassUNet):
        raise TypeError(f"public weights are for the paper's network, found preset '{network.preset}'")
    load_stable_diffusion(latent_encoder, unet, stable_diffusion, shape.unet, shape.vae)
    tokens = network.semantic_encoder.tokens
    if isinstance(tokens, SeeCoderTokens):
        if seecoder is None:
            raise CheckpointError("conditioning on SeeCoder needs its checkpoint: give the path of the file")
        load_seecoder(tokens.seecoder, seecoder)
    elif isinstance(tokens, ClipTokens):
        if clip is None:
            raise CheckpointError("conditioning on CLIP needs its image encoder: give the transformers folder")
        tokens.vision.load_state_dict(load_clip_vision(clip).state_dict())


def _tokens(
    conditioning: Conditioning, seecoder_size: tuple[int, int], text_tokens: Tensor | None, shape: PaperShape
) -> nn.Module:
    dim = shape.unet["cross_attention_dim"]
    if conditioning in ("seecoder", "seecoder_pa"):
        return SeeCoderTokens(build_seecoder(conditioning == "seecoder_pa", shape), seecoder_size)
    if conditioning == "clip":
        return ClipTokens(CLIPVisionConfig(**shape.clip), dim)
    if conditioning == "none":
        return ConstantTokens(torch.randn(shape.tokens, dim) * 0.02, learned=True)
    if conditioning == "text":
        if text_tokens is None or text_tokens.shape[-1] != dim:
            found = "none" if text_tokens is None else list(text_tokens.shape)
            raise ValueError(f"text conditioning: expected text_tokens [N, {dim}], found {found}")
        return ConstantTokens(text_tokens, learned=False)
    raise ValueError(f"conditioning: expected seecoder, seecoder_pa, clip, text or none, found '{conditioning}'")
