"""Pictures of an evaluation: curves, best and worst frames, and the same network by day, in rain and at night."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sem_depth_node.preview import DepthPainter
from sem_depth_training.data.frames import Frame
from sem_depth_training.evaluate import MAX_DEPTH, Predict

_INK = "#222222"
_NETWORK, _FLOOR, _GOOD = "#0b6fb8", "#b0b0b0", "#2a9d5c"
_ERROR_FULL = 0.5  # relative error at the red end of the scale
_ERROR_RADIUS = 2  # pixels that a LiDAR point is drawn wide


def plot_curves(path: Path, title: str, content: dict[str, Any]) -> None:
    """Error by range and by row, histogram over frames, sparsification and reliability.

    Args:
        path: PNG to write.
        title: above the picture.
        content: of `Evaluation.as_json`.
    """
    figure = Figure(figsize=(15, 8.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    mean = content["mean"]
    figure.suptitle(
        f"{title}: AbsRel {mean['abs_rel']:.3f}, RMSE {mean['rmse']:.2f} m, delta1 {mean['delta1']:.3f} over "
        f"{content['frames_evaluated']} frames\n{content['protocol']}",
        fontsize=11,
    )
    (by_range, by_row, histogram), (sparsification, reliability, bias) = figure.subplots(2, 3)
    _plot_ranges(by_range, content)
    _plot_rows(by_row, content)
    _plot_histogram(histogram, content)
    _plot_sparsification(sparsification, content["calibration"])
    _plot_reliability(reliability, content["calibration"])
    _plot_bias(bias, content)
    for axes in (by_range, by_row, histogram, sparsification, reliability, bias):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_frames(path: Path, title: str, predict: Predict, frames: Sequence[tuple[str, Frame]]) -> None:
    """A row a frame: image, measured depth, predicted depth, error. Frames come with what is written beside them."""
    figure = Figure(figsize=(18, 0.9 + sum(_height(frame) for _, frame in frames)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(frames), 4, squeeze=False, height_ratios=[_height(frame) for _, frame in frames])
    for axes, (label, frame) in zip(grid, frames, strict=True):
        image, truth = frame.read_image(), frame.read_depth()
        depth = predict(image, frame.camera).depth
        sky = frame.read_sky()
        pictures = (image, _paint_truth(truth, sky), _paint(depth), _paint_error(depth, truth, sky))
        for place, picture in zip(axes, pictures, strict=True):
            place.imshow(picture)
            place.set(xticks=[], yticks=[])
        axes[0].set_ylabel(label, fontsize=9)
    names = (
        "image",
        "measured depth (red near, blue far, grey beyond range)",
        "predicted depth (black not seen by the network)",
        f"relative error (dark blue 0, red {100 * _ERROR_FULL:.0f} % and more)",
    )
    for place, name in zip(grid[0], names, strict=True):
        place.set_title(name, fontsize=9)
    _save(figure, path)


def plot_conditions(path: Path, title: str, predict: Predict, columns: Sequence[tuple[str, Frame]]) -> None:
    """Day, rain, night side by side: a column each of image, prediction, confidence and, where dense, true depth."""
    width, height = 480, 160
    figure = Figure(figsize=(4.6 * len(columns), 7.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(4, len(columns), squeeze=False)
    for place, (label, frame) in enumerate(columns):
        image, truth, sky = frame.read_image(), frame.read_depth(), frame.read_sky()
        prediction = predict(image, frame.camera)
        certainty = cv2.applyColorMap((prediction.confidence * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
        pictures = (image, _paint(prediction.depth), certainty, _paint_truth(truth, sky))
        for axes, picture in zip(grid[:, place], pictures, strict=True):
            axes.imshow(_centre(np.asarray(picture, np.uint8), width / height))
            axes.set(xticks=[], yticks=[])
        grid[0, place].set_title(label, fontsize=10)
    for axes, name in zip(grid[:, 0], ("image", "predicted depth", "confidence", "true depth"), strict=True):
        axes.set_ylabel(name, fontsize=10)
    figure.supxlabel(
        "depth: red near, blue far, grey beyond range, black not measured; confidence: yellow sure", fontsize=9
    )
    _save(figure, path)


def _plot_ranges(axes: Any, content: dict[str, Any]) -> None:
    parts = [part for part in content["by_range"] if part["pixels"]]
    places = np.arange(len(parts))
    axes.bar(places - 0.2, [part["abs_rel"] for part in parts], 0.4, color=_NETWORK, label="network")
    if content["floor"]:
        floor = {part["from"]: part["abs_rel"] for part in content["floor_by_range"]}
        values = [floor[part["from"]] for part in parts]
        axes.bar(places + 0.2, values, 0.4, color=_FLOOR, label="floor: direction alone")
    axes.set_xticks(places, [f"{part['from']:g} to {part['to']:g}" for part in parts])
    axes.set(title="error by measured depth", xlabel="m", ylabel="AbsRel")
    axes.legend()


def _plot_rows(axes: Any, content: dict[str, Any]) -> None:
    parts = [part for part in content["by_row"] if part["pixels"]]
    middles = [(part["from"] + part["to"]) / 2 for part in parts]
    height = parts[0]["to"] - parts[0]["from"]
    axes.barh(middles, [part["abs_rel"] for part in parts], 0.85 * height, color=_NETWORK)
    axes.set(title="error by row of the image", xlabel="AbsRel", ylabel="row / height", ylim=(1, 0))


def _plot_histogram(axes: Any, content: dict[str, Any]) -> None:
    values = [frame["abs_rel"] for frame in content["frames"]]
    axes.hist(values, bins=24, color=_NETWORK)
    axes.axvline(content["mean"]["abs_rel"], color=_INK, linewidth=1, label="mean")
    if content["floor"]:
        axes.axvline(content["floor"]["abs_rel"], color=_FLOOR, linewidth=2, label="mean of the floor")
    axes.set(title="frames by their error", xlabel="AbsRel", ylabel="frames", xlim=(0, None))
    axes.legend()


def _plot_sparsification(axes: Any, sure: dict[str, Any]) -> None:
    curve = sure["sparsification"]
    axes.plot(curve["fraction"], curve["by_confidence"], color=_NETWORK, label="least certain taken away first")
    axes.plot(curve["fraction"], curve["oracle"], color=_GOOD, label="worst taken away first (oracle)")
    axes.axhline(curve["by_confidence"][0], color=_FLOOR, label="at random")
    axes.fill_between(curve["fraction"], curve["oracle"], curve["by_confidence"], color=_NETWORK, alpha=0.12)
    title = f"sparsification: AUSE {sure['ause']:.3f}, AURG {sure['aurg']:.3f}"
    axes.set(title=title, xlabel="share of the pixels taken away", ylabel="AbsRel of the rest", ylim=(0, None))
    axes.legend()


def _plot_reliability(axes: Any, sure: dict[str, Any]) -> None:
    bins = sure["reliability"]
    total = sum(part["pixels"] for part in bins)
    axes.plot([0, 1], [0, 1], color=_FLOOR, label="as stated")
    axes.plot([part["stated"] for part in bins], [part["right"] for part in bins], marker="o", color=_NETWORK)
    middles = [(part["from"] + part["to"]) / 2 for part in bins]
    shares = [part["pixels"] / total for part in bins]
    axes.bar(middles, shares, 0.09, color=_NETWORK, alpha=0.18, label="share of the pixels")
    title = f"right within 10 %: {100 * sure['coverage']:.0f} %, stated {100 * sure['mean_confidence']:.0f} %"
    axes.set(title=title, xlabel="confidence stated", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _plot_bias(axes: Any, content: dict[str, Any]) -> None:
    parts = [part for part in content["by_range"] if part["pixels"]]
    middles = [(part["from"] + part["to"]) / 2 for part in parts]
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.plot(middles, [part["bias"] for part in parts], marker="o", color=_NETWORK, label="bias (too far is positive)")
    axes.plot(middles, [part["rmse"] for part in parts], marker="s", linestyle="--", color=_GOOD, label="RMSE")
    axes.set(title="bias and RMSE by measured depth", xlabel="m", ylabel="m")
    axes.legend()


def _height(frame: Frame) -> float:
    """Inches of a row of four pictures across 18 inches."""
    return 4.4 * frame.camera.height / frame.camera.width + 0.08


def _dense(truth: NDArray[np.float32], sky: NDArray[np.bool_]) -> bool:
    return bool(((truth > 0) | sky).mean() > 0.5)


def _paint_truth(truth: NDArray[np.float32], sky: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """RGB of known depth: in dense depth 0 is too far; sparse points are drawn a few pixels wide, near over far."""
    if _dense(truth, sky):
        return _paint(np.where(truth > 0, truth, np.float32(np.inf)).astype(np.float32))
    size = np.ones((2 * _ERROR_RADIUS + 1,) * 2, np.uint8)
    nearest = cv2.erode(np.where(truth > 0, truth, np.float32(1e9)).astype(np.float32), size)
    return _paint(np.where(nearest < 1e8, nearest, np.float32(np.nan)).astype(np.float32))


def _paint(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB of depth in metres, NaN not known, +Inf beyond range."""
    picture = np.empty((*depth.shape, 3), np.uint8)
    DepthPainter().paint(depth, picture)
    return picture[..., ::-1]


def _paint_error(depth: NDArray[np.float32], truth: NDArray[np.float32], sky: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """RGB of |prediction - truth| / truth where truth was measured up to the protocol's range, black elsewhere."""
    known = (truth > 0) & (truth < MAX_DEPTH) & ~np.isnan(depth)
    error = np.zeros(truth.shape, np.float32)
    error[known] = np.abs(np.minimum(depth[known], MAX_DEPTH) - truth[known]) / truth[known]
    if not _dense(truth, sky):
        size = np.ones((2 * _ERROR_RADIUS + 1,) * 2, np.uint8)
        error = np.asarray(cv2.dilate(error, size), np.float32)
        known = cv2.dilate(known.astype(np.uint8), size) > 0
    scaled = (np.clip(error / _ERROR_FULL, 0, 1) * 255).astype(np.uint8)
    picture = np.asarray(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO), np.uint8)[..., ::-1].copy()
    picture[~known] = 0
    return picture


def _centre(picture: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """The middle of a picture, cut to an aspect."""
    height, width = picture.shape[:2]
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = (width - w) // 2, (height - h) // 2
    return picture[y : y + h, x : x + w]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
