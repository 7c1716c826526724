"""A scored run as a picture: error by range and by frame, and measured against predicted depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sem_depth_node.bags.evaluate import JOINT_EDGES, Scores


def write_evaluation_plots(path: Path, title: str, scores: Scores) -> None:
    """Write a PNG of the scores.

    Raises:
        ValueError: no frame was scored.
    """
    if not scores.frames:
        raise ValueError("no frame was scored, expected at least one")
    figure = Figure(figsize=(15, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    mean = scores.mean
    figure.suptitle(
        f"{title}: AbsRel {mean['abs_rel']:.3f}, RMSE {mean['rmse']:.2f} m, delta1 {mean['delta1']:.3f} "
        f"over {len(scores.frames)} frames\n{scores.protocol}",
        fontsize=10,
    )
    by_frame, by_range, joint = figure.subplots(1, 3)
    _plot_frames(by_frame, scores)
    _plot_ranges(by_range, scores)
    _plot_joint(joint, scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _plot_frames(axes: Any, scores: Scores) -> None:
    first = scores.frames[0].stamp
    seconds = [(frame.stamp - first) / 1e9 for frame in scores.frames]
    for name, label in (("abs_rel", "AbsRel"), ("delta1", "delta1")):
        axes.plot(seconds, [frame.metrics[name] for frame in scores.frames], marker=".", label=label)
    axes.set(title="by frame", xlabel="time (s)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _plot_ranges(axes: Any, scores: Scores) -> None:
    parts = [part.summary() for part in scores.ranges if part.pixels]
    places = np.arange(len(parts))
    axes.bar(places, [part["abs_rel"] for part in parts], 0.6, color="tab:blue")
    labels = [f"{part['from']:g} to {part['to']:g} m\n{part['pixels']} px" for part in parts]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set(title="by measured depth", ylabel="AbsRel")
    axes.grid(alpha=0.3, axis="y")
    for place, part in zip(places, parts, strict=True):
        axes.annotate(
            f"bias {part['bias']:+.2f} m", (float(place), part["abs_rel"]), ha="center", va="bottom", fontsize=8
        )


def _plot_joint(axes: Any, scores: Scores) -> None:
    with np.errstate(divide="ignore"):
        axes.pcolormesh(JOINT_EDGES, JOINT_EDGES, np.log10(scores.joint.T), cmap="magma", rasterized=True)
    ends = JOINT_EDGES[[0, -1]]
    axes.plot(ends, ends, color="tab:green", linewidth=1, label="equal")
    axes.plot(ends, 1.25 * ends, color="tab:green", linewidth=0.7, linestyle="--", label="factor 1.25")
    axes.plot(ends, ends / 1.25, color="tab:green", linewidth=0.7, linestyle="--")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title="pixels", xlabel="measured (m)")
    axes.set_ylabel("predicted (m)")
    axes.legend(loc="upper left")
