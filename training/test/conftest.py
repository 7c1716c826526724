"""A tiny data set in the index.csv layout: a ground plane under a bright sky, seen by a small camera."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from sem_depth_training.models.checkpoints import SEECODER_PREFIX
from sem_depth_training.models.paper import SHRUNKEN, build_seecoder

COLUMNS = ["split", "sequence", "image", "depth", "sky", "fx", "fy", "cx", "cy", "width", "height", "licence"]


@pytest.fixture
def driving_index(tmp_path: Path) -> Path:
    """An index.csv of four frames of split train and one of split val, each with depth and a sky mask."""
    folder, frames, width, height = tmp_path, 4, 160, 96
    rng = np.random.default_rng(0)
    focal, cx, cy = 120.0, width / 2 - 0.5, height / 2 - 0.5
    rows = []
    for number in range(frames + 1):
        v = np.arange(height) - cy
        with np.errstate(divide="ignore"):
            z = np.where(v > 2, 1.6 * focal / v, 0).astype(np.float32)
        depth = np.repeat(np.minimum(z, 90)[:, None], width, axis=1)
        image = rng.integers(0, 255, (height, width, 3), np.uint8)
        image[depth == 0] = (230, 220, 210)
        names = {kind: f"{number}_{kind}.png" for kind in ("image", "depth", "sky")}
        cv2.imwrite(str(folder / names["image"]), image)
        cv2.imwrite(str(folder / names["depth"]), (depth * 256).astype(np.uint16))
        cv2.imwrite(str(folder / names["sky"]), (depth == 0).astype(np.uint8) * 255)
        split = "val" if number == frames else "train"
        rows.append([split, f"s{number}", *names.values(), focal, focal, cx, cy, width, height, "CC0"])
    index = folder / "index.csv"
    with index.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return index


@pytest.fixture
def paper_weights(tmp_path: Path) -> dict[str, Any]:
    """The keys of a configuration that trains the shrunken paper network, from seeded weights in the public formats."""
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    AutoencoderKL(**SHRUNKEN.vae).save_pretrained(weights / "vae")
    UNet2DConditionModel(**SHRUNKEN.unet).save_pretrained(weights / "unet")
    state = build_seecoder(False, SHRUNKEN).state_dict()
    seecoder = weights / "seecoder.safetensors"
    save_file({SEECODER_PREFIX + name: value for name, value in state.items()}, seecoder)
    paper = {"stable_diffusion": str(weights), "seecoder": str(seecoder), "seecoder_size": [64, 96], "shrunken": True}
    return {"preset": "paper", "conditioning": "seecoder", "paper": paper}
