"""Semantic encoders of the paper-size network: what the UNet's cross-attention is conditioned on, as a switch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

from sem_depth_training.models.seecoder import SeeCoder
from sem_depth_training.models.semantic_encoder import ImageSemantics

Conditioning = Literal["seecoder", "seecoder_pa", "clip", "text", "none"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class SeeCoderTokens(nn.Module):
    """SeeCoder's queries of the image resized to ``size`` (height, width)."""

    def __init__(self, seecoder: SeeCoder, size: tuple[int, int]) -> None:
        super().__init__()
        self.seecoder = seecoder
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, N, D] of an RGB image [B, 3, H, W] in [0, 1]."""
        return self.seecoder(_resize(image, self.size))


class ClipTokens(nn.Module):
    """The class and patch tokens of a CLIP image encoder (arXiv 2103.00020), projected to the UNet's token size."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CLIPVisionConfig, dim: int) -> None:
        super().__init__()
        self.vision = CLIPVisionModel(config)
        self.projection = nn.Linear(config.hidden_size, dim)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, 1 + patches, D] of an RGB image [B, 3, H, W] in [0, 1]; the image is resized to CLIP's square."""
        side = self.vision.config.image_size
        pixels = (_resize(image, (side, side)) - self.mean) / self.std
        hidden = self.vision(pixel_values=pixels).last_hidden_state
        return self.projection(self.vision.post_layernorm(hidden))


class ConstantTokens(nn.Module):
    """The same tokens for every image: learned from their start, or frozen (text prompts)."""

    def __init__(self, tokens: Tensor, learned: bool) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens, requires_grad=learned)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, N, D] for a batch of B images."""
        return self.tokens[None].expand(image.shape[0], -1, -1)


class PaperSemanticEncoder(nn.Module):
    """Tokens for the UNet, and maps of the image at 1/2 and 1/4 that let the decoder put depth edges where they are.

    The paper does not say how its decoder reaches full resolution; the UNet's finest features are at 1/8. The maps come
    from a small convolutional stem of ``detail_channels`` trained with the decoder.
    """

    def __init__(self, tokens: nn.Module, detail_channels: tuple[int, int]) -> None:
        super().__init__()
        self.tokens = tokens
        half, quarter = detail_channels
        self.halve = _downsampling(3, half)
        self.quarter = _downsampling(half, quarter)

    def forward(self, image: Tensor) -> ImageSemantics:
        """Tokens and maps of an RGB image [B, 3, H, W] in [0, 1]."""
        half = self.halve(image * 2.0 - 1.0)
        return ImageSemantics(self.tokens(image), [half, self.quarter(half)])


def text_tokens(folder: Path, prompts: Sequence[str]) -> Tensor:
    """Text tokens [77, D] of scene descriptions, averaged over the prompts (as VPD, arXiv 2303.02153, does).

    ``folder`` is a diffusers folder of Stable Diffusion with ``tokenizer`` and ``text_encoder`` inside.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True).eval()
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        return encoder(tokens.input_ids).last_hidden_state.mean(dim=0)


def _downsampling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear; halving both sides averages 2x2 pixels exactly, so that a half-size SeeCoder sees no aliasing.

    An image of that size comes out as it went in; asking for its size would tie an exported graph to the answer.
    """
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
