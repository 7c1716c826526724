"""The networks by name."""

import math
from typing import Literal, get_args

from transformers import CLIPVisionConfig

from sem_depth_training.models.autoencoder import ImageEncoder
from sem_depth_training.models.depth_decoder import DepthDecoder
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.paper_semantics import ClipTokens
from sem_depth_training.models.semantic_encoder import CompactSemanticEncoder
from sem_depth_training.models.unet import SinglePassUNet

CompactConditioning = Literal["seecoder", "seecoder_pa", "clip", "none"]

_CLIP = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 16,
}
"""A CLIP image encoder with about as many weights as SeeCoder's parts here. None so small is public: it starts anew."""

CANONICAL_FOCAL_LENGTH = 384.0
"""Pixels. About that of a KITTI image resized to 640 wide, so that canonical metres are near metres there."""

CANONICAL_RANGE = (0.5, 200.0)
"""Canonical metres that the decoder can express."""


def compact(conditioning: CompactConditioning = "seecoder", pretrained: bool = False) -> DepthNetwork:
    """The network for small computers; its widths were fixed by measured latency (docs/network_shape.md).

    Args:
        conditioning: how the UNet's tokens come about.
        pretrained: start the backbone from ImageNet weights.
    """
    if conditioning not in get_args(CompactConditioning):
        raise ValueError(
            f"conditioning is {conditioning!r}, expected one of {', '.join(get_args(CompactConditioning))}"
        )
    tokens = 128
    semantics = CompactSemanticEncoder(
        dim=tokens,
        global_queries=4,
        local_queries=32,
        heads=4,
        layers=2,
        feedforward_dim=256,
        conditioning=conditioning != "none",
        position_aware=conditioning == "seecoder_pa",
        pretrained=pretrained,
        tokens=ClipTokens(CLIPVisionConfig(**_CLIP), tokens) if conditioning == "clip" else None,
    )
    latents = ImageEncoder()
    channels = semantics.backbone.channels
    unet = SinglePassUNet(
        timestep=1,
        adapter_channels=channels[2:],
        in_channels=latents.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 128),
        layers_per_block=1,
        cross_attention_dim=tokens,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )
    decoder = DepthDecoder(
        unet.channels,
        width=64,
        widths=(32, 16),
        skip_channels=channels[1::-1],
        log_range=(math.log(CANONICAL_RANGE[0]), math.log(CANONICAL_RANGE[1])),
    )
    return DepthNetwork(latents, semantics, unet, decoder, CANONICAL_FOCAL_LENGTH, "compact")
