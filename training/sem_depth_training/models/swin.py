"""Swin Transformer (arXiv 2103.14030) as a feature pyramid, with the parameter names of the published checkpoints.

The layout is the one used for dense prediction: the window size never shrinks, images and feature maps are padded at
the right and at the bottom to whole patches and windows, and every stage's output has its own layer norm. Module names
follow the checkpoints, so their tensors load without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -100.0  # added to the attention logits of tokens that are neighbours only through the cyclic shift


def _relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every pair of positions in a window, int64 [window**2, window**2]."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    positions = torch.stack([rows.flatten(), columns.flatten()])
    offsets = positions[:, :, None] - positions[:, None, :] + (window - 1)
    return offsets[0] * (2 * window - 1) + offsets[1]


def _windows(x: Tensor, window: int) -> Tensor:
    """Cut [B, H, W, C] into windows [B * H/window * W/window, window**2, C], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def _merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo :func:`_windows`: [B, height, width, C]."""
    channels = windows.shape[-1]
    x = windows.reshape(-1, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def _shift_mask(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Attention bias [windows, 1, window**2, window**2] that keeps apart what the cyclic shift brought together."""

    def region(length: int) -> Tensor:
        index = torch.arange(length, device=like.device)
        return (index >= length - window).long() + (index >= length - shift).long()

    regions = _windows((region(height)[:, None] * 3 + region(width))[None, :, :, None], window)[..., 0]
    apart = regions[:, None, :, None] != regions[:, None, None, :]
    return apart.to(like.dtype) * MASKED


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window))
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attend inside windows [B * M, N, C]; mask [M, 1, N, N] is added to the logits of every image's M windows."""
        count, tokens, dim = windows.shape
        q, k, v = self.qkv(windows).reshape(count, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(tokens, tokens, self.heads).permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask).repeat(count // mask.shape[0], 1, 1, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(count, tokens, dim))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """(Shifted-)window attention and a feed-forward layer, both pre-norm and residual."""

    def __init__(self, dim: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, H, W, C] to the same shape; mask is the stage's shift mask."""
        height, width = x.shape[1:3]
        pad_bottom, pad_right = -height % self.window, -width % self.window
        h = F.pad(self.norm1(x), (0, 0, 0, pad_right, 0, pad_bottom))
        if self.shift:
            h = torch.roll(h, (-self.shift, -self.shift), dims=(1, 2))
        h = self.attn(_windows(h, self.window), mask if self.shift else None)
        h = _merge_windows(h, self.window, height + pad_bottom, width + pad_right)
        if self.shift:
            h = torch.roll(h, (self.shift, self.shift), dims=(1, 2))
        x = x + h[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Halve the resolution and double the channels: each 2x2 block of tokens becomes one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] to [B, ceil(H/2), ceil(W/2), 2C]."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks of one resolution, alternating plain and shifted windows, then (but for the last stage) patch merging."""

    def __init__(self, dim: int, depth: int, window: int, heads: int, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(dim, window, heads, shift=0 if index % 2 == 0 else window // 2) for index in range(depth)
        )
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output [B, H, W, C] and the next stage's input."""
        padded = (x.shape[1] + -x.shape[1] % self.window, x.shape[2] + -x.shape[2] % self.window)
        mask = _shift_mask(*padded, self.window, self.window // 2, like=x)
        for block in self.blocks:
            x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    """Image to normalised tokens, one for each patch; the image is zero-padded to whole patches."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, ceil(H/patch), ceil(W/patch), dim]."""
        image = F.pad(image, (0, -image.shape[3] % self.patch, 0, -image.shape[2] % self.patch))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Four-stage Swin Transformer; Swin-L with windows of 12 is ``(192, (2, 2, 18, 2), (6, 12, 24, 48), 12)``.

    Stochastic depth is left out: the network is used pretrained, frozen or fine-tuned briefly.
    """

    def __init__(
        self, embed_dim: int, depths: Sequence[int], heads: Sequence[int], window: int, patch: int = 4
    ) -> None:
        super().__init__()
        self.channels = [embed_dim * 2**index for index in range(len(depths))]
        self.patch_embed = PatchEmbedding(embed_dim, patch)
        self.layers = nn.ModuleList(
            SwinStage(dim, depth, window, stage_heads, last=index == len(depths) - 1)
            for index, (dim, depth, stage_heads) in enumerate(zip(self.channels, depths, heads, strict=True))
        )
        for index, dim in enumerate(self.channels):
            self.add_module(f"norm{index}", nn.LayerNorm(dim))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of an image [B, 3, H, W]: ``res2`` (stride 4) to ``res5`` (stride 32), each [B, C, H', W']."""
        features = {}
        x = self.patch_embed(image)
        for index, stage in enumerate(self.layers):
            output, x = stage(x)
            features[f"res{index + 2}"] = self.get_submodule(f"norm{index}")(output).permute(0, 3, 1, 2)
        return features
