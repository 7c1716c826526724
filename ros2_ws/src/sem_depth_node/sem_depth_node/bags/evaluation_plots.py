"""A scored run as a picture: error by frame and by range, and measured against predicted depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from sem_depth_node.bags.evaluate import JOINT_EDGES, Scores

_TICKS = (1, 2, 5, 10, 20, 50, 80)  # metres


def write_evaluation_plots(path: Path, title: str, scores: Scores) -> None:
    """Write a PNG of the scores.

    Raises:
        ValueError: no frame was scored.
    """
    if not scores.frames:
        raise ValueError("no frame was scored, expected at least one")
    figure = Figure(figsize=(15, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    mean = scores.mean
    figure.suptitle(
        f"{title}: AbsRel {mean['abs_rel']:.3f}, RMSE {mean['rmse']:.2f} m, delta1 {mean['delta1']:.3f} "
        f"over {len(scores.frames)} frames\n{scores.protocol}",
        fontsize=10,
    )
    columns: Any = figure.subfigures(1, 3)
    by_frame, by_range, joint = columns
    _plot_frames(by_frame, scores)
    _plot_ranges(by_range.subplots(), scores)
    _plot_joint(joint, scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _plot_frames(figure: Any, scores: Scores) -> None:
    """A curve a measure, one above the other, each with its mean."""
    curves = {
        "AbsRel": [frame.metrics["abs_rel"] for frame in scores.frames],
        "RMSE (m)": [frame.metrics["rmse"] for frame in scores.frames],
        "delta1": [frame.metrics["delta1"] for frame in scores.frames],
    }
    seconds = np.array([frame.stamp - scores.frames[0].stamp for frame in scores.frames]) / 1e9
    panels = figure.subplots(len(curves), 1, sharex=True)
    panels[0].set_title("by frame")
    for axes, (label, values) in zip(panels, curves.items(), strict=True):
        axes.plot(seconds, values, marker=".", color="tab:blue")
        axes.axhline(float(np.mean(values)), color="grey", linewidth=0.8, linestyle="--")
        axes.set(ylabel=label, ylim=(0, 1.02) if label == "delta1" else (0, 1.1 * max(*values, 1e-3)))
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("time (s); dashed: mean")


def _plot_ranges(axes: Any, scores: Scores) -> None:
    parts = [part.summary() for part in scores.ranges if part.pixels]
    total = sum(int(part["pixels"] or 0) for part in parts)
    places = np.arange(len(parts))
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="y")
    axes.bar(places, [part["abs_rel"] for part in parts], 0.6, color="tab:blue")
    labels = [f"{part['from']:g} to {part['to']:g}\n({part['pixels'] / total:.0%})" for part in parts]  # type: ignore[operator]
    axes.set_xticks(places, labels, fontsize=9)
    axes.set(title="by measured depth", ylabel="AbsRel", xlabel="metres (share of the pixels)")
    axes.margins(y=0.12)
    for place, part in zip(places, parts, strict=True):
        axes.annotate(
            f"{part['bias']:+.2f} m",
            (float(place), part["abs_rel"]),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )
    axes.annotate("numbers: mean error", (0.02, 0.97), xycoords="axes fraction", va="top", fontsize=9, color="dimgrey")


def _plot_joint(figure: Any, scores: Scores) -> None:
    axes = figure.subplots()
    pixels = np.ma.masked_equal(scores.joint.T, 0)
    if pixels.count():  # a logarithmic scale needs something to count
        mesh = axes.pcolormesh(JOINT_EDGES, JOINT_EDGES, pixels, norm=LogNorm(), cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=axes, label="pixels")
    ends = JOINT_EDGES[[0, -1]]
    axes.plot(ends, ends, color="tab:red", linewidth=1, label="equal")
    axes.plot(ends, 1.25 * ends, color="tab:red", linewidth=0.8, linestyle="--", label="off by a factor of 1.25")
    axes.plot(ends, ends / 1.25, color="tab:red", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title="measured and predicted")
    axes.set(xlabel="measured (m)", ylabel="predicted (m)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(_TICKS))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
