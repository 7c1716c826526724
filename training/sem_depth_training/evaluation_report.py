"""A whole evaluation: accuracy beside the floor, where errors lie, calibration, boundaries and flicker."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sem_depth_node.metrics import RANGES, BinnedError, depth_metrics, evaluation_mask, mean_metrics, median_scaled
from sem_depth_training.boundaries import BoundaryError, boundary_error
from sem_depth_training.calibration import Calibration
from sem_depth_training.data.frames import DataError, Frame
from sem_depth_training.evaluate import MAX_DEPTH, Predict, nothing_to_compare
from sem_depth_training.flicker import Flicker, log_error

ROW_EDGES = np.linspace(0, 1, 21)  # of the image's height
_DENSE = 0.6  # share of the pixels below the sky that must be measured for boundaries to mean anything
_RENDERED = re.compile(r"street_(?P<style>[a-z]+)_(?P<weather>[a-z]+)_")


@dataclass
class Evaluation:
    """What was measured, frame by frame and summed up.

    Attributes:
        protocol: how predictions were made and compared.
        frames: those that had ground truth, in the order of the lists of metrics.
        metrics, scaled, floor: `depth_metrics` of each frame: as predicted, after median scaling, of the floor.
        ranges, rows: errors by measured depth (m), and by row as a share of the image's height.
        floor_ranges: the floor's errors by measured depth.
        calibration: of the confidence.
        boundaries: of frames with dense depth.
        flicker: of sequences.
    """

    protocol: str
    crop: str
    frames: list[Frame] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    scaled: list[dict[str, float]] = field(default_factory=list)
    floor: list[dict[str, float]] = field(default_factory=list)
    ranges: list[BinnedError] = field(default_factory=lambda: _bins(RANGES[:-1]))
    floor_ranges: list[BinnedError] = field(default_factory=lambda: _bins(RANGES[:-1]))
    rows: list[BinnedError] = field(default_factory=lambda: _bins(list(pairwise(ROW_EDGES))))
    calibration: Calibration = field(default_factory=Calibration)
    boundaries: list[BoundaryError] = field(default_factory=list)
    flicker: Flicker = field(default_factory=Flicker)

    def by_weather(self) -> dict[str, dict[str, float]]:
        """Mean metrics of rendered frames by the weather in their sequence's name."""
        groups: dict[str, list[dict[str, float]]] = defaultdict(list)
        for frame, metrics in zip(self.frames, self.metrics, strict=True):
            if weather := weather_of(frame):
                groups[weather].append(metrics)
        return {weather: {**mean_metrics(found), "frames": len(found)} for weather, found in sorted(groups.items())}

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        edges = np.mean(self.boundaries, axis=0).tolist() if self.boundaries else ()
        boundary = dict(zip(BoundaryError._fields, edges, strict=False))
        return {
            "protocol": self.protocol,
            "frames_evaluated": len(self.frames),
            "mean": mean_metrics(self.metrics),
            "mean_after_median_scaling": mean_metrics(self.scaled),
            "floor": mean_metrics(self.floor) if self.floor else None,
            "by_range": [part.summary() for part in self.ranges],
            "floor_by_range": [part.summary() for part in self.floor_ranges],
            "by_row": [part.summary() for part in self.rows],
            "by_weather": self.by_weather(),
            "calibration": self.calibration.summary(),
            "boundaries": {"frames": len(self.boundaries), **boundary} if self.boundaries else None,
            "flicker": self.flicker.summary(),
            "frames": [
                {"image": str(frame.image), "sequence": frame.sequence, **metrics}
                for frame, metrics in zip(self.frames, self.metrics, strict=True)
            ],
        }


def evaluate(
    predict: Predict,
    frames: Sequence[Frame],
    protocol: str,
    crop: str = "garg",
    floor: Predict | None = None,
    on_frame: Callable[[], object] = lambda: None,
    *,
    thinned: bool = False,
) -> Evaluation:
    """Evaluate frame by frame; sequences are frames next to each other with one name and camera.

    Args:
        predict: what is evaluated.
        frames: with ground truth.
        protocol: in words, for the reader.
        crop: "garg", "eigen" or "none".
        floor: depth by viewing direction alone, to stand beside it.
        on_frame: called after each frame.
        thinned: frames between these were left out, so they tell nothing of flicker.

    Raises:
        DataError: a frame cannot be read, or none has depth to compare.
    """
    out = Evaluation(protocol, crop)

    def one(frame: Frame) -> NDArray[np.float32] | None:
        error = _add(out, frame, predict, floor)
        on_frame()
        return error

    def sequence_of(frame: Frame) -> tuple[object, ...]:
        return frame.image if thinned else frame.sequence, frame.view, frame.camera

    for _, sequence in groupby(frames, key=sequence_of):
        out.flicker.add(map(one, sequence))
    if not out.frames:
        raise DataError(nothing_to_compare(frames))
    return out


def weather_of(frame: Frame) -> str | None:
    """The weather of a rendered frame, from its sequence's name; None for others."""
    match = _RENDERED.match(frame.sequence)
    return match["weather"] if match else None


def print_evaluation(title: str, content: dict[str, Any], console: Console) -> None:
    """Print the main table and a line for each of the other measures. `content` is of `Evaluation.as_json`."""
    header, rows = accuracy_rows(content)
    table = Table(title=f"{title}\n{content['frames_evaluated']} frames; {content['protocol']}")
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in remarks(content):
        console.print(line, markup=False, highlight=False)


def accuracy_rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the accuracy table: a metric a row."""
    named = {
        "network": content["mean"],
        "median-scaled": content["mean_after_median_scaling"],
        "floor": content["floor"],
    }
    columns = {name: values for name, values in named.items() if values}
    rows = [[metric, *(f"{values[metric]:.4f}" for values in columns.values())] for metric in content["mean"]]
    return ["metric", *columns], rows


def remarks(content: dict[str, Any]) -> list[str]:
    """The other measures, a sentence each."""
    sure = content["calibration"]
    lines = [
        f"confidence: {100 * sure['coverage']:.1f} % of the pixels are right within 10 %, stated "
        f"{100 * sure['mean_confidence']:.1f} %; calibration error {100 * sure['ece']:.1f} points; AUSE "
        f"{sure['ause']:.4f}, AURG {sure['aurg']:.4f} (AbsRel)"
    ]
    if edge := content["boundaries"]:
        lines.append(
            f"depth boundaries on {edge['frames']} dense frames: accuracy {edge['accuracy']:.2f} px, completeness "
            f"{edge['completeness']:.2f} px, {100 * edge['found']:.0f} % of the true ones found within 3 px"
        )
    if flicker := content["flicker"]:
        lines.append(
            f"flicker over {flicker['pairs']} pairs of frames in a row: {100 * flicker['local']:.1f} % local, "
            f"{100 * flicker['scale']:.1f} % of the whole picture's scale"
        )
    return lines


def markdown(title: str, content: dict[str, Any]) -> str:
    """The evaluation as Markdown tables. `content` is of `Evaluation.as_json`."""
    header, rows = accuracy_rows(content)
    wide = [[name, *(row[place] for row in rows)] for place, name in enumerate(header) if place]
    parts = [f"{title}: {content['frames_evaluated']} frames; {content['protocol']}.\n"]
    parts.append(_table(["", *(row[0] for row in rows)], wide))
    parts.append("".join(f"- {line}\n" for line in remarks(content)))
    ranges = [
        [
            f"{part['from']:g} to {part['to']:g} m",
            str(part["pixels"]),
            f"{part['abs_rel']:.3f}",
            f"{part['rmse']:.2f}",
            f"{part['bias']:+.2f}",
            *([f"{base['abs_rel']:.3f}"] if content["floor"] else []),
        ]
        for part, base in zip(content["by_range"], content["floor_by_range"], strict=True)
        if part["pixels"]
    ]
    extra = ["floor's AbsRel"] if content["floor"] else []
    parts.append(_table(["measured depth", "pixels", "AbsRel", "RMSE (m)", "bias (m)", *extra], ranges))
    rows_of_image = [
        [
            f"{part['from']:.2f} to {part['to']:.2f}",
            str(part["pixels"]),
            f"{part['abs_rel']:.3f}",
            f"{part['bias']:+.2f}",
        ]
        for part in content["by_row"]
        if part["pixels"]
    ]
    parts.append(_table(["row / height", "pixels", "AbsRel", "bias (m)"], rows_of_image))
    if content["by_weather"]:
        names = ("abs_rel", "rmse", "delta1")
        weather = [
            [name, str(values["frames"]), *(f"{values[metric]:.3f}" for metric in names)]
            for name, values in content["by_weather"].items()
        ]
        parts.append(_table(["weather", "frames", "AbsRel", "RMSE (m)", "delta1"], weather))
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _add(out: Evaluation, frame: Frame, predict: Predict, floor: Predict | None) -> NDArray[np.float32] | None:
    """Add a frame; its log error for the flicker, None where nothing can be compared."""
    image, truth = frame.read_image(), frame.read_depth()
    mask = evaluation_mask(truth, out.crop, max_depth=MAX_DEPTH)
    prediction = predict(image, frame.camera)
    answered = mask & ~np.isnan(prediction.depth)
    if not answered.any():
        return None
    out.frames.append(frame)
    out.metrics.append(depth_metrics(prediction.depth, truth, mask, max_depth=MAX_DEPTH))
    out.scaled.append(depth_metrics(median_scaled(prediction.depth, truth, mask), truth, mask, max_depth=MAX_DEPTH))
    true = truth[answered].astype(np.float64)
    said = np.clip(prediction.depth[answered].astype(np.float64), 1e-3, MAX_DEPTH)
    row = (np.nonzero(answered)[0] + 0.5) / truth.shape[0]
    for part in out.ranges:
        part.add(true, said, true)
    for part in out.rows:
        part.add(row, said, true)
    if floor is not None:
        guess = floor(image, frame.camera).depth
        out.floor.append(depth_metrics(guess, truth, mask, max_depth=MAX_DEPTH))
        for part in out.floor_ranges:
            part.add(true, np.clip(guess[answered].astype(np.float64), 1e-3, MAX_DEPTH), true)
    out.calibration.add(said, true, prediction.confidence[answered].astype(np.float64))
    if ((truth > 0) | frame.read_sky()).mean() > _DENSE:
        error = boundary_error(prediction.depth, truth, MAX_DEPTH)
        if error is not None:
            out.boundaries.append(error)
    return log_error(prediction.depth, truth, answered, MAX_DEPTH)


def _bins(edges: Sequence[tuple[float, float]]) -> list[BinnedError]:
    return [BinnedError(float(low), float(high)) for low, high in edges]
