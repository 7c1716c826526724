"""Accuracy of a network or a bundle on the frames of an index, by the KITTI protocol."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.select import open_engines
from sem_depth_node.estimator import DepthEstimator, EstimatorSettings
from sem_depth_node.framing import Framing
from sem_depth_node.metrics import depth_metrics, evaluation_mask, mean_metrics
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.data.frames import Frame
from sem_depth_training.models.depth_network import DepthNetwork

PROTOCOL = "Garg crop, 1e-3..80 m, mean over images, single pass, no scale alignment"

Predict = Callable[[NDArray[np.uint8], CameraModel], NDArray[np.float32]]


def frame_metrics(predict: Predict, frames: Sequence[Frame]) -> list[dict[str, float]]:
    """The metrics of each frame under PROTOCOL."""
    results = []
    for frame in frames:
        truth = frame.read_depth()
        prediction = predict(frame.read_image(), frame.camera)
        results.append(depth_metrics(prediction, truth, evaluation_mask(truth)))
    return results


def network_predictor(network: DepthNetwork, size: tuple[int, int]) -> Predict:
    """Predictions of a torch network at an input size (height, width), framed as the robot frames its images."""
    device = next(network.parameters()).device

    @torch.no_grad()
    def predict(image: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.float32]:
        framing = Framing(camera, *size)
        tensor = torch.from_numpy(framing.to_engine(image).copy())[None].to(device)
        depth = network(tensor)[0][0].cpu().numpy()
        metric = depth * np.float32(framing.camera.focal_length / network.canonical_focal_length)
        out = np.empty((camera.height, camera.width), np.float32)
        framing.to_image(metric, out, outside=np.nan)
        return out

    return predict


def bundle_predictor(bundle: ModelBundle) -> Predict:
    """Predictions of the shipped files through the robot's own path: ONNX Runtime and `DepthEstimator`.

    Flying pixels are kept, because the protocol counts every measured pixel.
    """
    estimator = DepthEstimator(
        bundle, open_engines(bundle, "onnxruntime"), EstimatorSettings(flying_pixel_threshold=0.0)
    )

    def predict(image: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.float32]:
        return estimator.estimate(image, camera).depth.copy()

    return predict


def predictor_of(model: Path, size: tuple[int, int]) -> Predict:
    """Predictions of a checkpoint at an input size (height, width), or of a bundle's folder at its own sizes."""
    if model.is_dir():
        return bundle_predictor(ModelBundle.load(model))
    return network_predictor(network_of(read_checkpoint(model))[0], size)


def report(predict: Predict, frames: Sequence[Frame], title: str, console: Console, json_file: Path | None) -> None:
    """Print the mean metrics under their protocol; `json_file` gets them with those of every frame."""
    results = frame_metrics(predict, frames)
    means = mean_metrics(results)
    table = Table(title=f"{title}\n{len(frames)} frames; {PROTOCOL}")
    table.add_column("metric")
    table.add_column("mean", justify="right")
    for name, value in means.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    if json_file is not None:
        by_frame = [{"image": str(frame.image), **values} for frame, values in zip(frames, results, strict=True)]
        content = {"model": title, "protocol": PROTOCOL, "mean": means, "frames": by_frame}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
