"""The network that a training configuration asks for."""

from typing import cast

import torch

from sem_depth_training.config import FitConfig, PaperConfig
from sem_depth_training.fetch_weights import PUBLIC_WEIGHTS
from sem_depth_training.models.checkpoints import CheckpointError
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.paper import PAPER, SHRUNKEN, load_public_weights, paper_network
from sem_depth_training.models.paper_semantics import text_tokens
from sem_depth_training.models.presets import CompactConditioning, compact
from sem_depth_training.models.semantic_encoder import CompactSemanticEncoder
from sem_depth_training.models.unet import SinglePassUNet

_TEXT_TOKENS = 77  # of CLIP's text encoder
_PRETRAINED_PARTS = {
    "compact": ("semantic_encoder.backbone.",),
    "paper": ("unet.", "semantic_encoder.tokens.seecoder.", "semantic_encoder.tokens.vision."),
}


def network_for(config: FitConfig, *, for_training: bool = False, pretrained: bool = False) -> DepthNetwork:
    """The network of the configuration, with the pretrained weights it starts from or with none to be loaded into.

    `for_training` freezes and leaves out what the configuration says, and turns on gradient checkpointing where it is
    asked for.
    Raises CheckpointError where public weights do not fit or are not named.
    """
    if config.preset == "compact":
        network = compact(cast(CompactConditioning, config.conditioning), pretrained)
        checkpointing = config.gradient_checkpointing
        if for_training:
            backbone = cast(CompactSemanticEncoder, network.semantic_encoder).backbone
            backbone.freeze(config.frozen_backbone_blocks)
            backbone.drop_blocks(config.stochastic_depth)
    else:
        assert config.paper is not None, "FitConfig checks it"
        network = _paper(config, config.paper, pretrained)
        checkpointing = config.paper.gradient_checkpointing
    if for_training and checkpointing:
        cast(SinglePassUNet, network.unet).unet.enable_gradient_checkpointing()
    return network


def is_pretrained(preset: str, parameter: str) -> bool:
    """Whether the parameter of that name starts from public weights, and so trains at the lower rate."""
    return parameter.startswith(_PRETRAINED_PARTS[preset])


def pretraining(config: FitConfig) -> list[dict[str, str]]:
    """What the pretrained weights of the configuration's network were made from, as a bundle's manifest lists it."""
    if config.preset == "compact":
        return [
            {
                "name": "ImageNet-1k, through the pretrained EfficientNet-Lite0 backbone (weights Apache-2.0)",
                "licence": "ImageNet terms of access: non-commercial research",
            }
        ]
    licences = {"stable-diffusion": PUBLIC_WEIGHTS["stable-diffusion"].licence}
    if config.conditioning in ("seecoder", "seecoder_pa", "clip"):
        source = config.conditioning.replace("_", "-")
        licences[source] = PUBLIC_WEIGHTS[source].licence
    return [{"name": f"pretrained weights: {name}", "licence": licence} for name, licence in licences.items()]


def _paper(config: FitConfig, settings: PaperConfig, pretrained: bool) -> DepthNetwork:
    shape = SHRUNKEN if settings.shrunken else PAPER
    tokens = None
    if pretrained:
        # Before anything is built: at full size that takes a while, and gigabytes.
        for path in (settings.stable_diffusion, settings.seecoder, settings.clip):
            if path is not None and not path.exists():
                raise CheckpointError(
                    f"{path}: no such file or folder; `sem-depth-train fetch-weights` downloads the public checkpoints"
                )
    if config.conditioning == "text":
        if pretrained and not settings.stable_diffusion.is_dir():
            raise CheckpointError(
                f"{settings.stable_diffusion}: text conditioning needs Stable Diffusion's text encoder, expected a "
                "diffusers folder"
            )
        blank = torch.zeros(_TEXT_TOKENS, shape.unet["cross_attention_dim"])
        tokens = text_tokens(settings.stable_diffusion, settings.prompts) if pretrained else blank
    network = paper_network(
        config.conditioning,
        seecoder_size=settings.seecoder_size,
        timestep=settings.timestep,
        text_tokens=tokens,
        shape=shape,
    )
    if pretrained:
        load_public_weights(
            network,
            stable_diffusion=settings.stable_diffusion,
            seecoder=settings.seecoder,
            clip=settings.clip,
            shape=shape,
        )
    return network
