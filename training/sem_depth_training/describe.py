"""Parameters and floating-point operations of a depth network, part by part, beside other diffusion depth networks.

Everything is counted on torch's meta device with torch's own counter: shapes only, no memory, no weights. An operation
is one multiplication or one addition of a matrix product, convolution or attention; norms and activations do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, get_args

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.paper import paper_network
from sem_depth_training.models.paper_semantics import Conditioning
from sem_depth_training.models.presets import CompactConditioning, compact
from sem_depth_training.models.stable_diffusion import SD15_UNET, SD15_VAE

ECODEPTH_PASSES = 4
"""ECoDepth (arXiv 2403.18807) averages two windows of the image, each also mirrored."""


@dataclass(frozen=True)
class Cost:
    """What a part of a network holds and does for one image."""

    part: str
    parameters: int
    flops: int


def preset_builder(preset: str, conditioning: str, seecoder_size: tuple[int, int]) -> Callable[[], DepthNetwork]:
    """What builds a preset (``compact`` or ``paper``). Raises ValueError for another name or conditioning."""
    known = get_args(CompactConditioning if preset == "compact" else Conditioning)
    if conditioning not in known:
        raise ValueError(f"conditioning: expected one of {', '.join(known)}, found '{conditioning}'")
    if preset == "compact":
        return lambda: compact(cast(CompactConditioning, conditioning))
    if preset == "paper":
        return lambda: paper_network(cast(Conditioning, conditioning), seecoder_size=seecoder_size)
    raise ValueError(f"preset: expected compact or paper, found '{preset}'")


def network_costs(build: Callable[[], DepthNetwork], size: tuple[int, int]) -> list[Cost]:
    """The parts of the network that ``build`` makes, for one image of ``size`` (height, width)."""
    with torch.device("meta"):
        network = build().eval().requires_grad_(False)
        image = torch.zeros(1, *size, 3, dtype=torch.uint8)
    flops = flops_of(network, lambda: network(image))
    return [
        Cost(name.replace("_", " "), parameters_of(part), flops.get(f"DepthNetwork.{name}", 0))
        for name, part in network.named_children()
    ]


def marigold_costs(size: tuple[int, int]) -> list[Cost]:
    """Marigold (arXiv 2312.02145) with a single denoising step: encode the image, denoise beside it, decode the depth.

    ``size`` (height, width) must be multiples of 8.
    """
    latent = (size[0] // 8, size[1] // 8)
    with torch.device("meta"):
        vae = AutoencoderKL(**SD15_VAE).eval().requires_grad_(False)
        unet = UNet2DConditionModel(**{**SD15_UNET, "in_channels": 8}).eval().requires_grad_(False)
        image, latents = torch.zeros(1, 3, *size), torch.zeros(1, 4, *latent)
        prompt = torch.zeros(1, 77, SD15_UNET["cross_attention_dim"])
    encode = flops_of(vae, lambda: vae.encode(image))
    decode = flops_of(vae, lambda: vae.decode(latents))
    denoise = flops_of(unet, lambda: unet(torch.cat([latents, latents], dim=1), 1, prompt))
    return [
        Cost("VAE encoder", parameters_of(vae.encoder) + parameters_of(vae.quant_conv), encode["Global"]),
        Cost("UNet", parameters_of(unet), denoise["Global"]),
        Cost("VAE decoder", parameters_of(vae.decoder) + parameters_of(vae.post_quant_conv), decode["Global"]),
    ]


def print_description(title: str, build: Callable[[], DepthNetwork], size: tuple[int, int], console: Console) -> None:
    """Print the network's costs and what ECoDepth's test time and a single Marigold step cost at the same size."""
    costs = network_costs(build, size)
    marigold = marigold_costs(size)
    height, width = size
    table = Table("part", "parameters (M)", "GFLOP", title=f"{title}, one image of {height}x{width}")
    for column in table.columns[1:]:
        column.justify = "right"
    for cost in costs:
        table.add_row(cost.part, f"{cost.parameters / 1e6:.2f}", f"{cost.flops / 1e9:.1f}")
    table.add_section()
    parameters, flops = sum(cost.parameters for cost in costs), sum(cost.flops for cost in costs)
    table.add_row("this network", f"{parameters / 1e6:.2f}", f"{flops / 1e9:.1f}")
    table.add_row(
        f"the same, ECoDepth's way ({ECODEPTH_PASSES} passes)",
        f"{parameters / 1e6:.2f}",
        f"{ECODEPTH_PASSES * flops / 1e9:.1f}",
    )
    table.add_row(
        "Marigold, single step",
        f"{sum(cost.parameters for cost in marigold) / 1e6:.2f}",
        f"{sum(cost.flops for cost in marigold) / 1e9:.1f}",
    )
    for cost in marigold:
        table.add_row(f"  {cost.part}", f"{cost.parameters / 1e6:.2f}", f"{cost.flops / 1e9:.1f}")
    console.print(table)


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def flops_of(module: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Operations of a call, by module path; ``Global`` is the whole."""
    counter = FlopCounterMode(display=False, depth=2)
    with counter, torch.no_grad():
        run()
    return {path: sum(by_operator.values()) for path, by_operator in counter.get_flop_counts().items()}
