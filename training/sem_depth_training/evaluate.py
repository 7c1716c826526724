"""Predictions of a network or a bundle, and their metrics on frames by the KITTI protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.select import open_engines
from sem_depth_node.estimator import DepthEstimator, EstimatorSettings
from sem_depth_node.framing import Framing
from sem_depth_node.metrics import depth_metrics, evaluation_mask
from sem_depth_node.validity import confidence
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.data.frames import DataError, Frame
from sem_depth_training.models.depth_network import DepthNetwork

MAX_DEPTH = 80.0  # metres, of the protocol


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    depth float32 [H, W] metres along Z, NaN not known, +Inf beyond range; confidence float32 [H, W] in 0..1, the
    probability that depth is right within 10 %.
    """

    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


Predict = Callable[[NDArray[np.uint8], CameraModel], Prediction]


def protocol(crop: str = "garg", flip: bool = False, windows: int = 0) -> str:
    """How predictions are made and compared, in words. `crop` is "garg", "eigen" or "none"."""
    area = "no crop" if crop == "none" else f"{crop.capitalize()} crop"
    passes = ["mean with the mirrored image"] if flip else []
    passes += [f"mean over {windows} windows"] if windows else []
    return f"{area}, 1e-3..80 m, mean over images, {', '.join(passes) or 'single pass'}, no scale alignment"


PROTOCOL = protocol()


def frame_metrics(predict: Predict, frames: Sequence[Frame]) -> list[dict[str, float]]:
    """The metrics under PROTOCOL of each frame that has depth to compare; DataError where none has."""
    results = []
    for frame in frames:
        truth = frame.read_depth()
        mask = evaluation_mask(truth)
        prediction = predict(frame.read_image(), frame.camera)
        if (mask & ~np.isnan(prediction.depth)).any():
            results.append(depth_metrics(prediction.depth, truth, mask))
    if not results:
        raise DataError(nothing_to_compare(frames))
    return results


def nothing_to_compare(frames: Sequence[Frame]) -> str:
    """What to say where none of the frames has measured depth that a prediction can be compared with."""
    return (
        f"{frames[0].depth}: has no depth in the evaluated range and crop, nor have the {len(frames) - 1} frames after "
        "it; evaluate frames that were measured"
    )


def network_predictor(network: DepthNetwork, size: tuple[int, int]) -> Predict:
    """Predictions of a torch network at an input size (height, width), framed as the robot frames its images.

    Raises DataError for a size that the network does not take.
    """
    if size[0] % 32 or size[1] % 32:
        raise DataError(f"size {size[0]}x{size[1]}: expected sides that 32 divides, such as 192x640")
    device = next(network.parameters()).device

    @torch.no_grad()
    def predict(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        framing = Framing(camera, *size)
        tensor = torch.from_numpy(framing.to_engine(image).copy())[None].to(device)
        canonical, log_scale = (output[0].cpu().numpy() for output in network(tensor))
        metric = canonical * np.float32(framing.camera.focal_length / network.canonical_focal_length)
        certainty = np.empty_like(log_scale)
        confidence(log_scale, out=certainty)
        planes = np.empty((2, camera.height, camera.width), np.float32)
        framing.to_image(metric, planes[0], outside=np.nan)
        framing.to_image(certainty, planes[1], outside=0.0)
        return Prediction(planes[0], planes[1])

    return predict


def bundle_predictor(bundle: ModelBundle, engine: str = "onnxruntime") -> Predict:
    """Predictions of the shipped files through the robot's own path: an engine and `DepthEstimator`.

    Flying pixels are kept, because the protocol counts every measured pixel.
    """
    estimator = DepthEstimator(bundle, open_engines(bundle, engine), EstimatorSettings(flying_pixel_threshold=0.0))

    def predict(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        estimate = estimator.estimate(image, camera)
        return Prediction(estimate.depth.copy(), estimate.confidence.copy())

    return predict


def predictor_of(
    model: Path, size: tuple[int, int], *, flip: bool = False, windows: int = 0, engine: str = "onnxruntime"
) -> Predict:
    """Predictions of a checkpoint at an input size (height, width), or of a bundle's folder at its own sizes.

    Args:
        model: checkpoint.pt or folder.
        size: of a checkpoint's input.
        flip: average with the prediction of the mirrored image.
        windows: average over so many windows, see `with_windows`; 0 predicts whole images.
        engine: that runs a bundle.
    """
    if model.is_dir():
        bundle = ModelBundle.load(model)
        predict = bundle_predictor(bundle, engine)
        aspect = min(size.width / size.height for size in bundle.inputs)
    else:
        predict = network_predictor(network_of(read_checkpoint(model), model)[0], size)
        aspect = size[1] / size[0]
    if windows:
        predict = with_windows(predict, windows, aspect)
    return with_flip(predict) if flip else predict


def with_flip(predict: Predict) -> Predict:
    """The mean of two passes, of the image and of its mirror image, as depth networks are often evaluated."""

    def both(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        mirrored_camera = replace(camera, cx=camera.width - 1 - camera.cx)
        straight = predict(image, camera)
        mirrored = predict(np.ascontiguousarray(image[:, ::-1]), mirrored_camera)
        half = np.float32(0.5)
        return Prediction(
            half * (straight.depth + mirrored.depth[:, ::-1]),
            half * (straight.confidence + mirrored.confidence[:, ::-1]),
        )

    return both


def with_windows(predict: Predict, count: int, aspect: float) -> Predict:
    """The mean over `count` windows as high as the image and of that aspect, evenly spaced from edge to edge.

    VPD (arXiv 2303.02153) and ECoDepth (arXiv 2403.18807) evaluate KITTI so, with square windows. Predicting raises
    DataError where so few windows leave gaps, or where windows are so wide that there are fewer.
    """

    def over_windows(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        width = min(camera.width, round(camera.height * aspect))
        sums = np.zeros((3, camera.height, camera.width), np.float32)
        starts = np.unique(np.linspace(0, camera.width - width, count).round().astype(int))
        if len(starts) < count:
            raise DataError(
                f"{count} windows of {width} pixels do not differ in an image {camera.width} wide; take a narrower "
                "input size"
            )
        for x in starts:
            columns = slice(int(x), int(x) + width)
            window = np.ascontiguousarray(image[:, columns])
            part = predict(window, camera.cropped(int(x), 0, width, camera.height))
            sums[0, :, columns] += part.depth
            sums[1, :, columns] += part.confidence
            sums[2, :, columns] += 1
        if not sums[2].all():
            needed = -(-camera.width // width)
            raise DataError(f"{count} windows of {width} pixels leave gaps in {camera.width}; take at least {needed}")
        return Prediction(sums[0] / sums[2], sums[1] / sums[2])

    return over_windows
