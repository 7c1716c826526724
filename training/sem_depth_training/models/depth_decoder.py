"""From the UNet's features to depth and its scale of error."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class DepthDecoder(nn.Module):
    """Sums the UNet's features at their finest size, then doubles the size once for each of `widths`.

    `skip_channels` are the channels of the backbone's maps joined at each doubling (0: none), so that depth edges keep
    the image's resolution. Outputs log depth in `log_range` and the log of a Laplacian scale in `log_scale_range`,
    both [B, H, W] at `size`; the last step to full size is bilinear.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        width: int,
        widths: Sequence[int],
        skip_channels: Sequence[int],
        log_range: tuple[float, float],
        log_scale_range: tuple[float, float] = (-4.0, 1.0),
    ) -> None:
        super().__init__()
        self.log_range = log_range
        self.log_scale_range = log_scale_range
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in feature_channels)
        self.merge = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        inputs = [width, *widths[:-1]]
        self.narrow = nn.ModuleList(_convolution(a, b, 1) for a, b in zip(inputs, widths, strict=True))
        self.fuse = nn.ModuleList(_convolution(b + skip, b) for b, skip in zip(widths, skip_channels, strict=True))
        self.head = nn.Conv2d(widths[-1], 2, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-2)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self, features: Sequence[Tensor], skips: Sequence[Tensor], size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        finest = features[-1].shape[-2:]
        x = self.lateral[-1](features[-1])
        for lateral, feature in zip(self.lateral[:-1], features[:-1], strict=True):
            y = lateral(feature)
            x = x + (y if y.shape[-2:] == finest else _resize(y, finest))
        x = self.merge(x)
        for index, (narrow, fuse) in enumerate(zip(self.narrow, self.fuse, strict=True)):
            x = narrow(x)
            x = _resize(x, [2 * x.shape[-2], 2 * x.shape[-1]])
            if skips:
                x = torch.cat([x, skips[index]], dim=1)
            x = fuse(x)
        # Full precision from here: bfloat16 has steps of 3 % in depth.
        outputs = torch.sigmoid(_resize(self.head(x).float(), size))
        return _span(outputs[:, 0], self.log_range), _span(outputs[:, 1], self.log_scale_range)


def _span(unit: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * unit
