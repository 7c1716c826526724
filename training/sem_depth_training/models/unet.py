"""A diffusers UNet run once at a fixed timestep, its up-path features kept (as VPD, arXiv 2303.02153, does)."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


class SinglePassUNet(nn.Module):
    """Latents [B, C, h, w] and tokens [B, N, D] to feature maps from coarse to fine, one scale an up block.

    `adapter_channels`, where given, are the channels of image features added (after a 1x1 convolution) to the input of
    each down block, at 1/8, 1/16, 1/32... of the image: the idea of T2I-Adapter (arXiv 2302.08453). The paper has no
    such path; a small network that must learn from few frames gains from seeing the pretrained backbone's maps.
    `forward(latents, tokens, adapters)` wants one map of `adapters` for each of them.
    """

    def __init__(self, timestep: int, adapter_channels: Sequence[int] = (), **unet: Any) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet)
        # Noise is never predicted: the end of the published UNet has no use here.
        self.unet.conv_norm_out = self.unet.conv_act = None
        self.unet.conv_out = nn.Identity()
        # Features are taken before each upsampling, so that every up block gives a scale of its own.
        self.upsamplers = nn.ModuleList(block.upsamplers[0] for block in self.unet.up_blocks[:-1])
        for block in self.unet.up_blocks:
            block.upsamplers = None
        self.timestep = timestep
        widths = list(self.unet.config["block_out_channels"])
        inputs = [widths[0], *widths[:-1]]
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels, width, 1)
            for channels, width in zip(adapter_channels, inputs, strict=bool(adapter_channels))
        )
        self.channels = self._output_channels(widths)

    @staticmethod
    def _output_channels(widths: Sequence[int]) -> tuple[int, ...]:
        return tuple(reversed(widths))

    def forward(self, latents: Tensor, tokens: Tensor, adapters: Sequence[Tensor] = ()) -> list[Tensor]:
        unet = self.unet
        timestep = torch.full((1,), self.timestep, dtype=torch.long, device=latents.device)
        embedding = unet.time_embedding(unet.time_proj(timestep).to(latents.dtype)).expand(latents.shape[0], -1)
        x = unet.conv_in(latents)
        skips = [x]
        for index, block in enumerate(unet.down_blocks):
            if self.adapters:
                x = x + self.adapters[index](adapters[index])
            if getattr(block, "has_cross_attention", False):
                x, kept = block(x, temb=embedding, encoder_hidden_states=tokens)
            else:
                x, kept = block(x, temb=embedding)
            skips.extend(kept)
        if getattr(unet.mid_block, "has_cross_attention", False):
            x = unet.mid_block(x, embedding, encoder_hidden_states=tokens)
        elif unet.mid_block is not None:
            x = unet.mid_block(x, embedding)
        features = []
        for index, block in enumerate(unet.up_blocks):
            if index:
                # The size of the next skip, because sizes need not be multiples of the whole stride.
                x = self.upsamplers[index - 1](x, skips[-1].shape[-2:])
            count = len(block.resnets)
            kept, skips = tuple(skips[-count:]), skips[:-count]
            arguments = {"hidden_states": x, "res_hidden_states_tuple": kept, "temb": embedding}
            if getattr(block, "has_cross_attention", False):
                arguments["encoder_hidden_states"] = tokens
            x = block(**arguments)
            features.append(x)
        return features
