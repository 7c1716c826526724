"""Public checkpoints load whole into the paper's network, in both formats, and refuse by name what does not fit."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sem_depth_training.models.checkpoints import (
    SEECODER_PREFIX,
    CheckpointError,
    load_seecoder,
    load_stable_diffusion,
)
from sem_depth_training.models.paper import SHRUNKEN, build_seecoder
from sem_depth_training.models.stable_diffusion import LATENT_SCALE, LatentEncoder
from sem_depth_training.models.unet import SinglePassUNet

# As many layers as the public files have: the names in the single file are counted by them.
UNET = {**SHRUNKEN.unet, "layers_per_block": 2}
VAE = {**SHRUNKEN.vae, "layers_per_block": 2}

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
VAE_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(**VAE).eval()


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(2)
    return UNet2DConditionModel(**UNET).eval()


@pytest.fixture(scope="module")
def diffusers_folder(vae: AutoencoderKL, unet: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers")
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def single_file(vae: AutoencoderKL, unet: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights under the names of the original Stable Diffusion code, with parts that nothing here needs."""
    path = tmp_path_factory.mktemp("single") / "v1-5.safetensors"
    tensors = {f"model.diffusion_model.{original_unet_name(k)}": v for k, v in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        renamed = original_vae_name(name)
        is_attention_matrix = ".attn_1." in renamed and value.ndim == 2
        tensors[f"first_stage_model.{renamed}"] = value[:, :, None, None] if is_attention_matrix else value
    tensors["alphas_cumprod"] = torch.ones(1000)
    tensors["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(4)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def original_unet_name(name: str) -> str:
    """A diffusers name of the UNet in the names of the original code (two layers a block)."""
    for new, old in RESNET:
        name = re.sub(rf"(resnets\.\d+)\.{new}\.", rf"\1.{old}.", name)
    rules = (
        (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
        (r"^conv_in", lambda m: "input_blocks.0.0"),
        (r"^conv_norm_out", lambda m: "out.0"),
        (r"^conv_out", lambda m: "out.2"),
        (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.0"),
        (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.1"),
        (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 + 3 * int(m[1])}.0.op"),
        (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"^mid_block\.attentions\.0", lambda m: "middle_block.1"),
        (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
        (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
        (r"^up_blocks\.0\.upsamplers\.0", lambda m: "output_blocks.2.1"),
        (r"^up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2"),
    )
    return renamed_by(rules, name)


def original_vae_name(name: str) -> str:
    """A diffusers name of the VAE in the names of the original code (four blocks)."""
    for new, old in VAE_ATTENTION:
        name = re.sub(rf"(attentions\.0)\.{re.escape(new)}\.", rf"\1.{old}.", name)
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    rules = (
        (r"\.down_blocks\.(\d)\.resnets\.", lambda m: f".down.{m[1]}.block."),
        (r"\.down_blocks\.(\d)\.downsamplers\.0\.", lambda m: f".down.{m[1]}.downsample."),
        (r"\.up_blocks\.(\d)\.resnets\.", lambda m: f".up.{3 - int(m[1])}.block."),
        (r"\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f".up.{3 - int(m[1])}.upsample."),
        (r"\.mid_block\.resnets\.(\d)", lambda m: f".mid.block_{int(m[1]) + 1}"),
        (r"\.mid_block\.attentions\.0", lambda m: ".mid.attn_1"),
    )
    return renamed_by(rules, name)


def renamed_by(rules: Sequence[tuple[str, Callable[[re.Match[str]], str]]], name: str) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count:
            return name
    return name


def fresh_parts(timestep: int = 1) -> tuple[LatentEncoder, SinglePassUNet]:
    torch.manual_seed(0)
    return LatentEncoder(VAE).eval(), SinglePassUNet(timestep, **UNET).eval()


@pytest.mark.parametrize("source", ["diffusers_folder", "single_file"])
def test_both_formats_give_stable_diffusions_own_results(
    source: str, vae: AutoencoderKL, unet: UNet2DConditionModel, request: pytest.FixtureRequest
) -> None:
    latent_encoder, single_pass = fresh_parts(timestep=7)
    load_stable_diffusion(latent_encoder, single_pass, request.getfixturevalue(source), UNET, VAE)
    image, tokens = torch.rand(1, 3, 88, 152), torch.rand(1, 8, 32)
    with torch.no_grad():
        latents = latent_encoder(image)
        expected_latents = vae.encode(2 * image - 1).latent_dist.mode() * LATENT_SCALE
        finest = single_pass(latents, tokens)[-1]
        noise = unet.conv_out(unet.conv_act(unet.conv_norm_out(finest)))
        expected_noise = unet(expected_latents, 7, tokens).sample
    torch.testing.assert_close(latents, expected_latents)
    torch.testing.assert_close(noise, expected_noise, rtol=1e-4, atol=1e-5)


def test_every_up_block_gives_features_of_its_own_scale() -> None:
    _, unet = fresh_parts()
    with torch.no_grad():
        features = unet(torch.rand(1, 4, 44, 152), torch.rand(1, 8, 32))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (64, 6, 19),
        (64, 11, 38),
        (32, 22, 76),
        (32, 44, 152),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.diffusion_model.middle_block.1.proj_in.weight", ["1 missing", "mid_block.attentions.0.proj_in.weight"]),
        ("first_stage_model.encoder.conv_in.weight", ["1 missing", "encoder.conv_in.weight"]),
    ],
)
def test_a_partial_single_file_names_what_is_missing(
    single_file: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    tensors = load_file(single_file)
    tensors.pop(name)
    partial = tmp_path / "partial.safetensors"
    save_file(tensors, partial)
    with pytest.raises(CheckpointError) as error:
        load_stable_diffusion(*fresh_parts(), partial, UNET, VAE)
    assert all(word in str(error.value) for word in ["partial.safetensors", *words])


def test_a_folder_without_the_unet_says_which_file_it_expects(diffusers_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").symlink_to(diffusers_folder / "vae")
    with pytest.raises(CheckpointError, match=r"unet/config\.json"):
        load_stable_diffusion(*fresh_parts(), tmp_path, UNET, VAE)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"backbone.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors.*backbone\.weight"):
        load_stable_diffusion(*fresh_parts(), path, UNET, VAE)
    with pytest.raises(CheckpointError, match=r"other\.safetensors.*backbone\.weight"):
        load_seecoder(build_seecoder(False, SHRUNKEN), path)


def test_a_file_cut_short_is_refused(single_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(single_file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: not a readable checkpoint"):
        load_stable_diffusion(*fresh_parts(), path, UNET, VAE)


def seecoder_tensors(position_aware: bool, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = build_seecoder(position_aware, SHRUNKEN).state_dict()
    return {SEECODER_PREFIX + name: value for name, value in state.items()}


@pytest.mark.parametrize("position_aware", [False, True])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_seecoder_loads_what_was_saved(tmp_path: Path, position_aware: bool, suffix: str) -> None:
    tensors = seecoder_tensors(position_aware, seed=3)
    path = tmp_path / f"seecoder.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    torch.manual_seed(4)
    seecoder = build_seecoder(position_aware, SHRUNKEN)
    load_seecoder(seecoder, path)
    loaded = {SEECODER_PREFIX + name: value for name, value in seecoder.state_dict().items()}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_seecoder_pa_in_place_of_seecoder_names_the_unexpected_tensors(tmp_path: Path) -> None:
    path = tmp_path / "seecoder-pa.safetensors"
    save_file(seecoder_tensors(True, seed=0), path)
    with pytest.raises(CheckpointError, match=r"6 unexpected: qtransformer\.pe_layer\.mlp\.0\.bias"):
        load_seecoder(build_seecoder(False, SHRUNKEN), path)
    save_file(seecoder_tensors(False, seed=0), path)
    with pytest.raises(CheckpointError, match=r"6 missing: qtransformer\.pe_layer\.mlp\.0\.bias"):
        load_seecoder(build_seecoder(True, SHRUNKEN), path)


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    tensors = seecoder_tensors(False, seed=3)
    tensors.pop(SEECODER_PREFIX + "qtransformer.init_query.weight")
    tensors[SEECODER_PREFIX + "imdecoder.level_embed"] = torch.zeros(4, 32)
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    torch.manual_seed(4)
    seecoder = build_seecoder(False, SHRUNKEN)
    before = {name: value.clone() for name, value in seecoder.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"qtransformer\.init_query\.weight.*level_embed \[4, 32\] \(expected \[3"
    ):
        load_seecoder(seecoder, path)
    assert all(torch.equal(value, before[name]) for name, value in seecoder.state_dict().items())
