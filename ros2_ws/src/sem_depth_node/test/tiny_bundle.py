"""A real model bundle of a few hundred bytes, whose network answers in closed form.

Canonical depth is (red + 1) / 4 metres and log_scale is green / 32 - 6, so a test can paint an image and know the
answer. Two input sizes: a wide one (3:1) and one of 3:2; or one graph for all sizes of `PROFILE`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sem_depth_node.bundle import ModelBundle, ShapeProfile, write_bundle

CANONICAL_FOCAL_LENGTH = 100.0
DEPTH_RANGE = (0.5, 80.0)
INPUT_SIZES = ((64, 192), (64, 96))  # height, width
PROFILE = ShapeProfile(min=(32, 64), opt=(64, 192), max=(128, 384), multiple=32)


def canonical_depth(red: float) -> float:
    """Metres that the network answers for a pixel of this red, 0..255."""
    return (red + 1) / 4


def log_scale(green: float) -> float:
    """What the network answers for a pixel of this green, 0..255."""
    return green / 32 - 6


def write_tiny_bundle(folder: Path) -> ModelBundle:
    """Write the bundle into `folder`."""
    return _write(folder, [{"height": height, "width": width} for height, width in INPUT_SIZES])


def write_open_tiny_bundle(folder: Path) -> ModelBundle:
    """Write the bundle with one graph for all sizes of `PROFILE` into `folder`."""
    height, width = PROFILE.opt
    return _write(folder, [{"height": height, "width": width, "profile": PROFILE}])


def _write(folder: Path, inputs: list[dict[str, Any]]) -> ModelBundle:
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for size in inputs:
            files.append(Path(scratch) / f"tiny_{size['height']}x{size['width']}.onnx")
            onnx.save(_graph(*(("h", "w") if "profile" in size else (size["height"], size["width"]))), files[-1])
        return write_bundle(
            folder,
            files,
            {
                "name": "tiny",
                "description": "depth from red, log_scale from green",
                "inputs": [{"onnx": file.name, **size} for file, size in zip(files, inputs, strict=True)],
                "canonical_focal_length": CANONICAL_FOCAL_LENGTH,
                "depth_range": DEPTH_RANGE,
                "precision": "float32",
                "training_data": [],
                "weights_licence": "CC0-1.0",
                "metrics": [],
            },
        )


def _graph(height: int | str, width: int | str) -> onnx.ModelProto:
    # One 1x1 product per answer: image (1, H, W, 3) times (3,) is (1, H, W).
    constants = {
        "red": [0.25, 0, 0],
        "depth_bias": [0.25],
        "green": [0, 1 / 32, 0],
        "log_scale_bias": [-6.0],
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "red"], ["depth_product"]),
        helper.make_node("Add", ["depth_product", "depth_bias"], ["depth"]),
        helper.make_node("MatMul", ["pixels", "green"], ["log_scale_product"]),
        helper.make_node("Add", ["log_scale_product", "log_scale_bias"], ["log_scale"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, height, width]) for name in ("depth", "log_scale")],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
