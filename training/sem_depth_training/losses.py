"""Training losses on log canonical depth."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class LossWeights(BaseModel):
    """Weight of each term of the loss; 0 leaves it out.

    `photometric` needs sources with stereo pairs, `distillation` the section teacher; without them they are not there.
    """

    model_config = ConfigDict(extra="forbid")

    silog: float = Field(1.0, ge=0)
    l1: float = Field(1.0, ge=0)
    laplacian: float = Field(0.2, ge=0)
    gradient: float = Field(0.5, ge=0)
    sky: float = Field(0.2, ge=0)
    unseen: float = Field(0.02, ge=0)
    upward: float = Field(0.3, ge=0)
    photometric: float = Field(0.0, ge=0)
    distillation: float = Field(0.5, ge=0)


@dataclass(frozen=True)
class Target:
    """What is known of a batch, [B, H, W] each.

    log_depth: log canonical depth where `valid`; sky: bool; dense: bool [B], depth rendered for every pixel.
    far: float [B], the log canonical depth that sky must at least have.
    """

    log_depth: Tensor
    valid: Tensor
    sky: Tensor
    dense: Tensor
    far: Tensor


def loss_terms(log_depth: Tensor, log_scale: Tensor, target: Target) -> dict[str, Tensor]:
    """Each term of the loss, unweighted, averaged over the images that have what it needs.

    silog: scale-invariant log error (Eigen et al., arXiv 1406.2283) with lambda 0.85, its square root.
    l1: absolute error of log depth.
    laplacian: negative log likelihood of the log residual under a Laplacian of scale exp(log_scale). The residual is
        detached: the scale learns the error, it does not excuse it.
    gradient: difference of log-depth gradients on dense images, at three strides.
    sky: how much nearer than `far` the sky is; there the scale learns to be small where the sky is far enough.
    unseen: pulls the scale to exp(0) where an image with sparse depth has no measurement above its highest one. A lidar
        sees nothing there, and the network must not be sure of what nobody taught it.
    upward: there depth goes on upward as it is below: walls and trees stand upright.
    """
    valid = target.valid
    count = valid.sum((1, 2)).clamp(min=1)
    error = torch.where(valid, log_depth - target.log_depth, torch.zeros_like(log_depth))
    absolute = error.abs()
    mean, mean_square = error.sum((1, 2)) / count, (error * error).sum((1, 2)) / count
    silog = torch.sqrt((mean_square - 0.85 * mean * mean).clamp(min=0) + 1e-6)
    has_depth = valid.any(2).any(1)
    likelihood = torch.where(valid, absolute.detach() * torch.exp(-log_scale) + log_scale + math.log(2), 0.0)
    shortfall = torch.where(target.sky, (target.far[:, None, None] - log_depth).clamp(min=0), 0.0)
    unseen = _unseen(target)
    rise = log_depth[:, :-1] - log_depth[:, 1:].detach()
    sky_scale = torch.where(target.sky, shortfall.detach() * torch.exp(-log_scale) + log_scale, 0.0)
    return {
        "silog": _mean(silog, has_depth),
        "l1": _mean(absolute.sum((1, 2)) / count, has_depth),
        "laplacian": _mean(likelihood.sum((1, 2)) / count, has_depth),
        "gradient": _mean(_gradient_difference(error, valid), has_depth & target.dense),
        "sky": ((shortfall + 0.1 * sky_scale).sum() / target.sky.sum().clamp(min=1)),
        "unseen": torch.where(unseen, log_scale.abs(), 0.0).sum() / unseen.sum().clamp(min=1),
        "upward": torch.where(unseen[:, :-1], rise.abs(), 0.0).sum() / unseen.sum().clamp(min=1),
    }


def photometric_loss(log_depth: Tensor, focal_ratio: Tensor, pair: Tensor, pair_shift: Tensor) -> Tensor:
    """How unlike the image is to its stereo partner seen through the predicted depth (Godard et al., arXiv 1609.03677).

    0.85 (1 - SSIM) / 2 + 0.15 L1 of colours in [0, 1], averaged over the pixels that the partner sees.

    Args:
        log_depth: log canonical depth [B, H, W].
        focal_ratio: f / canonical focal length [B], which takes canonical metres to metres.
        pair, pair_shift: as in `Batch`.
    """
    images = pair.permute(1, 0, 4, 2, 3).float() / 255
    height, width = log_depth.shape[1:]
    columns = torch.arange(width, device=log_depth.device, dtype=torch.float32)
    rows = torch.arange(height, device=log_depth.device, dtype=torch.float32)
    metres = torch.exp(log_depth) * focal_ratio[:, None, None]
    seen_at = columns + pair_shift[:, None, None] / metres
    y = rows[:, None].expand(height, width).expand_as(seen_at)
    # grid_sample without align_corners counts from the edges: pixel centre u is at (2 u + 1) / width - 1.
    grid = torch.stack([(2 * seen_at + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    warped = F.grid_sample(images[1], grid, padding_mode="border", align_corners=False)
    inside = (seen_at >= 0) & (seen_at <= width - 1) & (pair_shift != 0)[:, None, None]
    difference = 0.15 * (warped - images[0]).abs().mean(1) + 0.85 * _dissimilarity(warped, images[0])
    return torch.where(inside, difference, 0.0).sum() / inside.sum().clamp(min=1)


def distillation_loss(log_depth: Tensor, taught: Tensor) -> Tensor:
    """Mean absolute difference of log canonical depth to that of a teacher, [B, H, W] both."""
    return (log_depth - taught).abs().mean()


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2 over 3x3 pixels (Wang et al. 2004), mean over the colours: [B, 3, H, W] to [B, H, W]."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return ((1 - similarity) / 2).clamp(0, 1).mean(1)


def total_loss(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum of `loss_terms`."""
    factors = weights.model_dump()
    return torch.stack([factors[name] * term for name, term in terms.items()]).sum()


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def _gradient_difference(error: Tensor, valid: Tensor) -> Tensor:
    total = torch.zeros_like(error[:, 0, 0])
    for stride in (1, 2, 4):
        for axis in (1, 2):
            length = error.shape[axis] - stride
            both = valid.narrow(axis, stride, length) & valid.narrow(axis, 0, length)
            step = (error.narrow(axis, stride, length) - error.narrow(axis, 0, length)).abs()
            total = total + torch.where(both, step, 0.0).sum((1, 2)) / both.sum((1, 2)).clamp(min=1)
    return total / 6


def _unseen(target: Target) -> Tensor:
    """Pixels of images with sparse depth above their highest measurement, the sky left out."""
    rows = target.valid.any(2)
    above = (rows.cumsum(1) == 0) & (rows.any(1) & ~target.dense)[:, None]
    return above[:, :, None] & ~target.sky
