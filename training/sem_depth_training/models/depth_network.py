"""The network family of arXiv 2502.01666: one pass of a diffusion UNet, told what the image shows, to metric depth."""

import torch
from torch import Tensor, nn

from sem_depth_training.models.semantic_encoder import ImageSemantics


class DepthNetwork(nn.Module):
    """Canonical depth from an image.

    Parts (the paper names them; both presets fill them in differently):
      `latent_encoder`    RGB [0, 1] to latents at 1/8, frozen
      `semantic_encoder`  RGB [0, 1] to `ImageSemantics` (tokens, and feature maps where it shares them)
      `unet`              latents, tokens and maps to multi-scale features (`SinglePassUNet`)
      `decoder`           features to log depth and log scale (`DepthDecoder`)

    Canonical depth is metres times `canonical_focal_length` / f, with f the focal length in pixels of the image given
    to the network (Metric3D, arXiv 2307.10984).
    """

    def __init__(
        self,
        latent_encoder: nn.Module,
        semantic_encoder: nn.Module,
        unet: nn.Module,
        decoder: nn.Module,
        canonical_focal_length: float,
        preset: str,
    ) -> None:
        super().__init__()
        self.latent_encoder = latent_encoder.requires_grad_(False)
        self.semantic_encoder = semantic_encoder
        self.unet = unet
        self.decoder = decoder
        self.canonical_focal_length = canonical_focal_length
        self.preset = preset

    def train(self, mode: bool = True) -> "DepthNetwork":
        """The frozen latent encoder stays in evaluation mode."""
        super().train(mode)
        self.latent_encoder.eval()
        return self

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB [B, H, W, 3] to (log canonical depth, log of the Laplacian scale of its error), [B, H, W] each."""
        # Cast first: TensorRT takes uint8 only as the input of a cast.
        rgb = image.float().permute(0, 3, 1, 2) * (1.0 / 255.0)
        with torch.no_grad():
            latents = self.latent_encoder(rgb)
        semantics: ImageSemantics = self.semantic_encoder(rgb)
        coarse, fine = semantics.pyramid[2:], semantics.pyramid[1::-1]
        features = self.unet(latents, semantics.tokens, coarse)
        log_depth, log_scale = self.decoder(features, fine, rgb.shape[-2:])
        return log_depth, log_scale

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB [B, H, W, 3] to (canonical depth in metres, log scale), float32 [B, H, W]: a bundle's contract."""
        log_depth, log_scale = self.predict(image)
        return torch.exp(log_depth), log_scale
