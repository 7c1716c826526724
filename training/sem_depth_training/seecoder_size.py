"""How much SeeCoder's tokens depend on the size of the image it is shown, measured against how much they depend on the
image: the check behind the paper network's setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sem_depth_training.models.checkpoints import load_seecoder
from sem_depth_training.models.paper import build_seecoder
from sem_depth_training.models.paper_semantics import SeeCoderTokens
from sem_depth_training.models.seecoder import SeeCoder


@dataclass(frozen=True)
class SizeEffect:
    """What showing SeeCoder an image at ``size`` (height, width) does.

    ``change`` is the mean distance of an image's tokens from those at full size, over the mean distance between the
    tokens of different images at full size: far below 1, the tokens still say which image it is. ``retrieved`` is the
    share of images whose tokens at full size are nearest to their own. ``gflop`` is SeeCoder's cost.
    """

    size: tuple[int, int]
    gflop: float
    change: float
    retrieved: float


def size_effects(
    seecoder: SeeCoder, frames: Sequence[npt.NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]
) -> list[SizeEffect]:
    """Measure with ``frames``, uint8 RGB [H, W, 3] of one size, at least two of different places."""
    if len(frames) < 2:
        raise ValueError(f"frames: expected at least two, found {len(frames)}")
    full_size = (frames[0].shape[0], frames[0].shape[1])
    full, full_flops = _tokens(seecoder, frames, full_size)
    apart = torch.cdist(full, full)
    between = apart.sum() / (len(frames) * (len(frames) - 1))
    effects = []
    for size in sizes:
        tokens, flops = (full, full_flops) if size == full_size else _tokens(seecoder, frames, size)
        distances = torch.cdist(tokens, full)
        effects.append(
            SizeEffect(
                size,
                flops / len(frames) / 1e9,
                float(distances.diagonal().mean() / between),
                float((distances.argmin(dim=1) == torch.arange(len(frames))).float().mean()),
            )
        )
    return effects


def seecoder_of(weights: Path | None, position_aware: bool, seed: int) -> SeeCoder:
    """The full-size SeeCoder with released weights, or with random ones. Raises CheckpointError."""
    torch.manual_seed(seed)
    seecoder = build_seecoder(position_aware)
    if weights is not None:
        load_seecoder(seecoder, weights)
    return seecoder.eval()


def print_size_effects(effects: Sequence[SizeEffect], title: str, console: Console) -> None:
    """Print a row for each size."""
    table = Table("SeeCoder sees", "GFLOP", "change of the tokens", "images found again", title=title)
    for effect in effects:
        height, width = effect.size
        table.add_row(f"{height}x{width}", f"{effect.gflop:.0f}", f"{effect.change:.3f}", f"{effect.retrieved:.0%}")
    console.print(table)


def _tokens(seecoder: SeeCoder, frames: Sequence[npt.NDArray[np.uint8]], size: tuple[int, int]) -> tuple[Tensor, int]:
    """Tokens of each frame in one row, and the operations they took."""
    encoder = SeeCoderTokens(seecoder, size).eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        rows = [encoder(torch.from_numpy(frame)[None].permute(0, 3, 1, 2) / 255.0).flatten() for frame in frames]
    return torch.stack(rows), counter.get_total_flops()
