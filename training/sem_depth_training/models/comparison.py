"""Depth networks that a user would pick instead, rebuilt from their published configurations.

They are here to be timed and counted, so their weights are random: time does not depend on weights. Where a published
network holds layers that its forward pass never uses, these are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from sem_depth_training.models.efficientnet_lite import LITE3, EfficientNetLite

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnBytes(nn.Module):
    """A network behind the input of our bundles: uint8 RGB [B, H, W, 3], normalised inside, resized where it must be.

    `size` (height, width) is what `network`, on normalised float [B, 3, h, w], is given.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(_IMAGENET_STD).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The network's own kind of depth or disparity."""
        x = image.float().permute(0, 3, 1, 2) * (1 / 255)
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        depth: Tensor = self.network((x - self.mean) * self.scale)
        return depth


class DepthAnythingV2Small(nn.Module):
    """Depth Anything V2 Small (arXiv 2406.09414): DINOv2 ViT-S/14 and a DPT head, as transformers builds them.

    Takes sides that are multiples of 14. The configuration is the one published with the weights
    (depth-anything/Depth-Anything-V2-Small-hf).
    """

    def __init__(self) -> None:
        super().__init__()
        backbone = Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
            out_indices=[3, 6, 9, 12],
            apply_layernorm=True,
            reshape_hidden_states=False,
        )
        config = DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=384,
            reassemble_factors=[4, 2, 1, 0.5],
            neck_hidden_sizes=[48, 96, 192, 384],
            fusion_hidden_size=64,
            head_hidden_size=32,
        )
        self.network = DepthAnythingForDepthEstimation(config)

    def forward(self, image: Tensor) -> Tensor:
        """Relative inverse depth [B, H, W]."""
        depth: Tensor = self.network(pixel_values=image).predicted_depth
        return depth


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + y


class _Fusion(nn.Module):
    """RefineNet's fusion: the coarser path and a finer map, refined and doubled in size."""

    def __init__(self, channels: int, outputs: int, joins: bool) -> None:
        super().__init__()
        self.of_finer = _ResidualUnit(channels) if joins else None
        self.refine = _ResidualUnit(channels)
        self.output = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if self.of_finer is not None and finer is not None:
            x = x + self.of_finer(finer)
        x = F.interpolate(self.refine(x), scale_factor=2, mode="bilinear", align_corners=True)
        y: Tensor = self.output(x)
        return y


class MidasSmall(nn.Module):
    """MiDaS v2.1 small (arXiv 1907.01341; isl-org/MiDaS, `MidasNet_custom`): EfficientNet-Lite3 and RefineNet blocks.

    64 features, doubled from scale to scale. The residual unit that the published coarsest block holds and never runs
    is left out: 4.7 million of its 21 million parameters.
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(LITE3)
        widths = [features, 2 * features, 4 * features, 8 * features]
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=1, bias=False)
            for channels, width in zip(self.backbone.channels[1:], widths, strict=True)
        )
        self.fusion = nn.ModuleList(
            _Fusion(width, outputs, joins=index < 3)
            for index, (width, outputs) in enumerate(zip(widths, [features, *widths[:-1]], strict=True))
        )
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Relative inverse depth [B, H, W]."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(image)[1:], strict=True)]
        x = self.fusion[3](maps[3])
        for index in (2, 1, 0):
            x = self.fusion[index](x, maps[index])
        depth: Tensor = self.head(x)[:, 0]
        return depth


class _ConvNormGelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
        )


class _Mlp(nn.Module):
    """Two linear layers over channels-last features, scaled by a learned factor."""

    def __init__(self, width: int, expand: int = 6) -> None:
        super().__init__()
        self.expand = nn.Linear(width, expand * width)
        self.project = nn.Linear(expand * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * self.project(F.gelu(self.expand(x)))
        return y


class _DilatedBlock(nn.Module):
    """Lite-Mono's consecutive dilated convolutions: one depthwise layer of them."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm(self.depthwise(x)).permute(0, 2, 3, 1))
        return x + y.permute(0, 3, 1, 2)


class _FourierPosition(nn.Module):
    """Sines and cosines of row and column, projected to `width` channels."""

    def __init__(self, width: int, waves: int = 32, temperature: float = 10000.0) -> None:
        super().__init__()
        self.periods = [temperature ** (2 * (index // 2) / waves) for index in range(waves)]
        self.project = nn.Conv2d(2 * waves, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        periods = torch.tensor(self.periods, device=x.device)

        def of(length: int) -> Tensor:
            angles = torch.arange(1, length + 1, device=x.device)[:, None] * (2 * math.pi / length) / periods
            return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)

        rows, columns = of(height)[:, None].expand(-1, width, -1), of(width)[None].expand(height, -1, -1)
        position: Tensor = self.project(torch.cat([rows, columns], dim=-1).permute(2, 0, 1)[None])
        return position


class _GlobalBlock(nn.Module):
    """Lite-Mono's local-global interaction: cross-covariance attention (XCiT, arXiv 2106.09681), then an MLP."""

    def __init__(self, width: int, heads: int, position: bool) -> None:
        super().__init__()
        self.heads = heads
        self.position = _FourierPosition(width) if position else None
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.attention_scale = nn.Parameter(torch.full((width,), 1e-6))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)

    def forward(self, image: Tensor) -> Tensor:
        x = image if self.position is None else image + self.position(image)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention_scale * self._attend(self.attention_norm(x))
        y = self.mlp(self.norm(x)).transpose(1, 2).unflatten(2, image.shape[-2:])
        return image + y

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).transpose(1, 2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(dim=-1)
        y: Tensor = self.output((weights @ v).flatten(1, 2).transpose(1, 2))
        return y


class _ReflectConv(nn.Conv2d):
    """Monodepth2's 3x3 convolution: the border is mirrored."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode="reflect")


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class LiteMono(nn.Module):
    """Lite-Mono (arXiv 2211.13202; noahzn/Lite-Mono), the standard model with the dilations published for 640x192.

    Of its outputs only the finest is computed, as in use.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 80, 128),
        dilations: Sequence[Sequence[int]] = ((1, 2, 3), (1, 2, 3), (1, 2, 3, 1, 2, 3, 2, 4, 6)),
        heads: int = 8,
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(_ConvNormGelu(3, first, 2), *(_ConvNormGelu(first, first, 1) for _ in range(2)))
        inputs = [first + 3, *(2 * width + 3 for width in widths[:-1])]
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in zip(inputs, widths, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(_DilatedBlock(width, d) for d in steps), _GlobalBlock(width, heads, position=index == 0))
            for index, (width, steps) in enumerate(zip(widths, dilations, strict=True))
        )
        halves = [width // 2 for width in widths]
        self.before = nn.ModuleList(
            _ReflectConv(a, b) for a, b in zip([halves[1], halves[2], widths[2]], halves, strict=True)
        )
        self.after = nn.ModuleList(_ReflectConv(b + skip, b) for b, skip in zip(halves, [0, *widths[:-1]], strict=True))
        self.head = _ReflectConv(halves[0], 1)

    def forward(self, image: Tensor) -> Tensor:
        """Disparity in 0..1, [B, H, W]."""
        pooled = image
        features: list[Tensor] = []
        joined = [self.stem(image)]
        for shrink, stage in zip(self.shrink, self.stages, strict=True):
            pooled = F.avg_pool2d(pooled, 3, stride=2, padding=1)
            x = shrink(torch.cat([*joined, pooled], dim=1))
            features.append(stage(x))
            joined = [x, features[-1]]
        x = features[2]
        for index in (2, 1, 0):
            x = _double(F.elu(self.before[index](x)))
            if index:
                x = torch.cat([x, features[index - 1]], dim=1)
            x = F.elu(self.after[index](x))
        return torch.sigmoid(_double(self.head(x)))[:, 0]
