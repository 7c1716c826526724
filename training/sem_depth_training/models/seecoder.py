"""SeeCoder, the image semantic encoder of Prompt-Free Diffusion (arXiv 2305.16223), and its position-aware form.

Three parts: a backbone gives features at several strides, a multi-scale decoder refines them together, and a query
transformer sums them up in a few global and many local queries, which take the place of text tokens in a UNet's
cross-attention. Module names follow the released checkpoints (after their prefix ``ctx.image.``), so the tensors of
``seecoder-v1-0`` and ``seecoder-pa-v1-0`` load without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DecoderAttention = Literal["image", "batch", "tokens"]
"""What a token of the multi-scale decoder attends to.

The published decoder hands batch-first tokens to a sequence-first attention, so that a token attends to the tokens at
its own place in the OTHER images of the batch, and never to its neighbours: ``batch``. With one image a token then
attends to itself alone and attention is its value projection: ``image`` computes that for each image by itself, so
that results depend neither on the batch nor on its size, and cost is linear in the image. ``tokens`` is attention over
the tokens of all levels of an image, quadratic in their number, for networks trained anew.
"""


class Attention(nn.Module):
    """Multi-head attention, batch first, with the parameter names of :class:`torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention: dim must be a multiple of heads, found dim {dim} and heads {heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from query [B, Q, dim] to key and value [B, K, dim]; the result is [B, Q, dim]."""
        q, k, v = (
            self._project(x, part).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for part, x in enumerate((query, key, value))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def value_projection(self, value: Tensor) -> Tensor:
        """Attention of every token to itself alone: softmax over one key is 1, so query and key drop out."""
        return self.out_proj(self._project(value, 2))

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Apply the query (0), key (1) or value (2) part of the joint input projection."""
        return F.linear(x, self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part])


class DecoderLayer(nn.Module):
    """Post-norm transformer encoder layer of the multi-scale decoder."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int, dropout: float, attention: DecoderAttention) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = dropout
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Refine tokens [B, N, dim]."""
        if self.attention == "tokens":
            attended = self.self_attn(x, x, x)
        elif self.attention == "batch":
            across = x.transpose(0, 1)
            attended = self.self_attn(across, across, across).transpose(0, 1)
        else:
            attended = self.self_attn.value_projection(x)
        x = self.norm1(x + self._drop(attended))
        return self.norm2(x + self._drop(self.linear2(self._drop(F.relu(self.linear1(x))))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class NormalisedConv2d(nn.Conv2d):
    """1x1 convolution without bias followed by group norm, the norm named as a part of the convolution."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H, W]."""
        return self.norm(super().forward(x))


class DecoderLayers(nn.Module):
    """The decoder's transformer layers, one after the other."""

    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Refine tokens [B, N, dim]."""
        for layer in self.layers:
            x = layer(x)
        return x


class MultiScaleDecoder(nn.Module):
    """Refine the features of several strides together and give all of them the same number of channels.

    Args:
        in_channels: channels of each input feature by name; the names' sorted order must go from fine to coarse
            (``{"res3": 384, "res4": 768, "res5": 1536}``).
        dim: channels of every output, a multiple of ``heads`` and of ``groups``.
        layers: transformer layers over the tokens of all levels.
        attention: what a token attends to, see :data:`DecoderAttention`.
        groups: groups of the group norms.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        dim: int = 768,
        heads: int = 8,
        layers: int = 6,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        attention: DecoderAttention = "image",
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.levels = sorted(in_channels)
        self.inproj_layers = nn.ModuleDict(
            {
                level: nn.Sequential(nn.Conv2d(in_channels[level], dim, 1), nn.GroupNorm(groups, dim))
                for level in self.levels
            }
        )
        self.transformer = DecoderLayers(
            [DecoderLayer(dim, heads, feedforward_dim, dropout, attention) for _ in range(layers)]
        )
        self.level_embed = nn.Parameter(torch.randn(len(self.levels), dim))
        self.lateral_layers = nn.ModuleDict(
            {level: NormalisedConv2d(in_channels[level], dim, groups) for level in self.levels}
        )

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Refine the named features, each [B, C, H, W]; returns [B, dim, H, W] for every level, fine to coarse."""
        coarse_to_fine = self.levels[::-1]
        tokens = [
            self.inproj_layers[level](features[level]).flatten(2).transpose(1, 2) + embedding
            for level, embedding in zip(coarse_to_fine, self.level_embed, strict=True)
        ]
        refined = self.transformer(torch.cat(tokens, dim=1)).split([t.shape[1] for t in tokens], dim=1)
        outputs = [
            level_tokens.transpose(1, 2).unflatten(2, features[level].shape[2:])
            + self.lateral_layers[level](features[level])
            for level, level_tokens in zip(coarse_to_fine, refined, strict=True)
        ]
        return outputs[::-1]


class PositionalEncoding(nn.Module):
    """Fourier features of a pixel's place relative to the centre, in units of the shorter side, through a small MLP."""

    def __init__(self, dim: int, frequencies: int = 20) -> None:
        super().__init__()
        self.frequencies = frequencies
        output = nn.Linear(dim, dim)
        nn.init.zeros_(output.weight)
        self.mlp = nn.Sequential(nn.Linear(4 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), output)

    def forward(self, feature: Tensor) -> Tensor:
        """Encoding [1, H*W, dim] for a feature [B, C, H, W]. In training the grid is moved by up to half a pixel."""
        height, width = feature.shape[2:]
        shorter = min(height, width)
        exponents = torch.linspace(0, 1, self.frequencies, device=feature.device, dtype=feature.dtype)
        # The highest frequency turns once every two pixels.
        scales = (shorter / 2) ** exponents * (2 * math.pi / shorter)

        def waves(length: int) -> Tensor:
            jitter = torch.rand((), device=feature.device) - 0.5 if self.training else 0.0
            offsets = torch.arange(length, device=feature.device, dtype=feature.dtype) + (0.5 - length / 2) + jitter
            angles = offsets[:, None] * scales
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

        rows = waves(height)[:, None].expand(-1, width, -1)
        columns = waves(width)[None].expand(height, -1, -1)
        return self.mlp(torch.cat([rows, columns], dim=-1)).flatten(0, 1)[None]


class SelfAttentionLayer(nn.Module):
    """Post-norm self-attention of the queries."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Update queries [B, Q, dim]; their positions [1, Q, dim] count for matching, not for content."""
        placed = x + position
        return self.norm(x + self.self_attn(placed, placed, x))


class CrossAttentionLayer(nn.Module):
    """Post-norm attention of the queries to image features."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor | None) -> Tensor:
        """Update queries [B, Q, dim] from memory [B, N, dim]."""
        keys = memory if memory_position is None else memory + memory_position
        return self.norm(x + self.multihead_attn(x + position, keys, memory))


class FeedForwardLayer(nn.Module):
    """Post-norm feed-forward layer of the queries."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Update queries [B, Q, dim]."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class QueryTransformer(nn.Module):
    """Sum up multi-scale features in global and local queries.

    Local queries read one level after the other, fine to coarse and around again; global queries see the image through
    the local ones. ``position_aware`` adds a positional encoding to the features' keys (SeeCoder-PA). ``levels`` is the
    number of features and ``dim`` their channels.
    """

    def __init__(
        self,
        dim: int = 768,
        global_queries: int = 4,
        local_queries: int = 144,
        heads: int = 8,
        layers: int = 9,
        feedforward_dim: int = 2048,
        levels: int = 3,
        position_aware: bool = False,
    ) -> None:
        super().__init__()
        self.global_queries = global_queries
        self.pe_layer = PositionalEncoding(dim) if position_aware else None
        self.transformer_selfatt_layers = nn.ModuleList(SelfAttentionLayer(dim, heads) for _ in range(layers))
        self.transformer_crossatt_layers = nn.ModuleList(CrossAttentionLayer(dim, heads) for _ in range(layers))
        self.transformer_feedforward_layers = nn.ModuleList(
            FeedForwardLayer(dim, feedforward_dim) for _ in range(layers)
        )
        self.init_query = nn.Embedding(global_queries + local_queries, dim)
        self.query_pos_embedding = nn.Embedding(global_queries + local_queries, dim)
        self.level_embed = nn.Embedding(levels, dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Queries [B, global + local, dim], global first, for the features [B, dim, H, W], fine to coarse."""
        memory = [
            feature.flatten(2).transpose(1, 2) + embedding
            for feature, embedding in zip(features, self.level_embed.weight, strict=True)
        ]
        positions = [None if self.pe_layer is None else self.pe_layer(feature) for feature in features]
        place = self.query_pos_embedding.weight[None]
        queries = self.init_query.weight[None].expand(features[0].shape[0], -1, -1)
        layers = zip(
            self.transformer_crossatt_layers,
            self.transformer_selfatt_layers,
            self.transformer_feedforward_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = index % len(features)
            local = cross_attention(
                queries[:, self.global_queries :], place[:, self.global_queries :], memory[level], positions[level]
            )
            queries = torch.cat([queries[:, : self.global_queries], local], dim=1)
            queries = feed_forward(self_attention(queries, place))
        return queries


class SeeCoder(nn.Module):
    """Backbone, multi-scale decoder and query transformer: an image in, queries for cross-attention out.

    ``imencoder`` maps an image to named features, of which ``imdecoder`` takes those it knows.
    """

    def __init__(self, imencoder: nn.Module, imdecoder: MultiScaleDecoder, qtransformer: QueryTransformer) -> None:
        super().__init__()
        self.imencoder = imencoder
        self.imdecoder = imdecoder
        self.qtransformer = qtransformer

    def forward(self, image: Tensor) -> Tensor:
        """Queries [B, Q, dim] of an RGB image [B, 3, H, W] with values in [0, 1] (no mean or standard deviation)."""
        return self.qtransformer(self.imdecoder(self.imencoder(image)))
