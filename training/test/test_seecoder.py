"""SeeCoder equals the published implementation, and its parameters are the released checkpoints' parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch

from sem_depth_training.models.paper import build_seecoder
from sem_depth_training.models.seecoder import (
    DecoderAttention,
    MultiScaleDecoder,
    QueryTransformer,
    SeeCoder,
)
from sem_depth_training.models.swin import SwinTransformer

PREFIX = "ctx.image."


def small_seecoder(position_aware: bool, attention: DecoderAttention) -> SeeCoder:
    """The configuration the reference vectors were made with."""
    imencoder = SwinTransformer(embed_dim=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4)
    return SeeCoder(
        imencoder,
        MultiScaleDecoder(
            {"res3": 32, "res4": 64, "res5": 128}, dim=32, heads=4, layers=2, feedforward_dim=64, attention=attention
        ),
        QueryTransformer(
            dim=32,
            global_queries=2,
            local_queries=6,
            heads=4,
            layers=4,
            feedforward_dim=64,
            position_aware=position_aware,
        ),
    ).eval()


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(shared_dir / "reference" / "seecoder_small_reference.npz") as archive:
        return dict(archive)


def load_reference(model: SeeCoder, reference: dict[str, npt.NDArray[Any]], variant: str) -> SeeCoder:
    prefix = f"{variant}/weights/{PREFIX}"
    weights = {name.removeprefix(prefix): value for name, value in reference.items() if name.startswith(prefix)}
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=True)
    return model


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("variant", ["base", "pa"])
def test_equals_the_published_implementation(reference: dict[str, npt.NDArray[Any]], variant: str, size: int) -> None:
    model = load_reference(small_seecoder(variant == "pa", "batch"), reference, variant)
    with torch.no_grad():
        queries = model(torch.tensor(reference[f"{variant}/input{size}"]))
    np.testing.assert_allclose(queries.numpy(), reference[f"{variant}/output{size}"], rtol=0, atol=1e-4)


def test_one_image_at_a_time_is_the_published_result_for_a_batch_of_one(
    reference: dict[str, npt.NDArray[Any]],
) -> None:
    images = torch.tensor(reference["base/input0"])
    published = load_reference(small_seecoder(False, "batch"), reference, "base")
    by_image = load_reference(small_seecoder(False, "image"), reference, "base")
    with torch.no_grad():
        alone = torch.cat([published(image[None]) for image in images])
        together = by_image(images)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["image", "tokens"])
def test_queries_do_not_depend_on_the_other_images_of_the_batch(attention: DecoderAttention) -> None:
    torch.manual_seed(0)
    model = small_seecoder(True, attention)
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "position_aware"), [("seecoder-v1-0", False), ("seecoder-pa-v1-0", True)])
def test_parameters_are_those_of_the_released_checkpoints(shared_dir: Path, name: str, position_aware: bool) -> None:
    released = json.loads((shared_dir / "reference" / f"{name}.keys.json").read_text())
    with torch.device("meta"):
        model = build_seecoder(position_aware)
    ours = {
        PREFIX + key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in model.state_dict().items()
    }
    assert ours == released


@pytest.mark.parametrize("attention", ["image", "tokens"])
def test_exports_to_onnx(tmp_path: Path, attention: DecoderAttention) -> None:
    torch.manual_seed(0)
    model = small_seecoder(True, attention)
    image = torch.rand(1, 3, 75, 131)
    path = tmp_path / "seecoder.onnx"
    with torch.no_grad():
        torch.onnx.export(model, (image,), path, dynamo=True, external_data=False, input_names=["image"], verbose=False)
        expected = model(image).numpy()
    (exported,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image.numpy()})
    np.testing.assert_allclose(exported, expected, rtol=0, atol=1e-4)
