"""A small image autoencoder whose latents at 1/8 resolution feed the compact network's UNet.

It plays the part that Stable Diffusion's VAE plays at paper size. Encoding starts with pixel-unshuffle, so that no
convolution is paid at full resolution (pixel-unshuffle and
a 1x1 convolution together are one convolution of 8x8 patches). It is trained once on reconstruction and then frozen.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.silu(self.first(x)))
        return x + y


class ImageEncoder(nn.Module):
    """RGB in [0, 1], [B, 3, H, W], to latents [B, `latents`, H/8, W/8] of about unit scale."""

    def __init__(self, latents: int = 8, width: int = 48) -> None:
        super().__init__()
        self.channels = latents
        self.input = nn.Conv2d(3, width, 8, stride=8)
        self.body = _Residual(width)
        self.output = nn.Conv2d(width, latents, 1)
        self.norm = nn.BatchNorm2d(latents, affine=False)

    def forward(self, image: Tensor) -> Tensor:
        x = F.silu(self.input(image * 2.0 - 1.0))
        latents: Tensor = self.norm(self.output(self.body(x)))
        return latents


class ImageDecoder(nn.Module):
    """Latents back to RGB in about [0, 1]; needed only while the autoencoder is trained."""

    def __init__(self, latents: int = 8, width: int = 96) -> None:
        super().__init__()
        self.input = nn.Conv2d(latents, width, 3, padding=1)
        self.body = nn.Sequential(_Residual(width), _Residual(width))
        self.output = nn.Conv2d(width, 3 * 64, 1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.output(F.silu(self.body(self.input(latents))))
        return F.pixel_shuffle(x, 8) * 0.5 + 0.5


class ImageAutoencoder(nn.Module):
    """Encoder and decoder; `forward` reconstructs the image."""

    def __init__(self, latents: int = 8, width: int = 48) -> None:
        super().__init__()
        self.encoder = ImageEncoder(latents, width)
        self.decoder = ImageDecoder(latents, 2 * width)

    def forward(self, image: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(image))
        return reconstruction
