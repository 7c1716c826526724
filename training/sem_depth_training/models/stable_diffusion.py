"""The parts of Stable Diffusion 1.5 (arXiv 2112.10752) in the paper's network: the VAE's encoder and the UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn

SD15_UNET: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
"""Configuration of the UNet, as arguments of :class:`diffusers.UNet2DConditionModel` (where ``attention_head_dim`` is,
for historical reasons, the number of heads)."""

SD15_VAE: Mapping[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
"""Configuration of the VAE, as arguments of :class:`diffusers.AutoencoderKL`."""

LATENT_SCALE = 0.18215
"""Factor that brings the latents of the VAE to about unit variance; the UNet was trained on such latents."""


class LatentEncoder(nn.Module):
    """The VAE's encoder: RGB in [0, 1], [B, 3, H, W], to the scaled mode of the posterior, [B, 4, H/8, W/8].

    H and W must be multiples of 8. The mode (rather than a sample) makes the same image give the same depth.
    """

    def __init__(self, vae: Mapping[str, Any] = SD15_VAE) -> None:
        super().__init__()
        autoencoder = AutoencoderKL(**vae)
        self.encoder = autoencoder.encoder
        self.quant_conv = autoencoder.quant_conv

    def forward(self, image: Tensor) -> Tensor:
        """Encode an image."""
        mode, _log_variance = self.quant_conv(self.encoder(image * 2.0 - 1.0)).chunk(2, dim=1)
        return mode * LATENT_SCALE
