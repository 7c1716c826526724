"""One picture of a run: for some frames the image, depth, confidence and the cloud seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sem_depth_node.preview import DepthPainter

Pixels = NDArray[np.uint8]

_BACKGROUND, _TEXT, _FAINT = "#14171c", "#e8eaed", "#8b929c"
_CELL_WIDTH = 5.2  # inches
_DPI = 110
_ABOVE_BACKGROUND = (28, 23, 20)  # BGR
_LIDAR_SHADE = np.array((170, 70, 170), np.uint8)  # BGR, added to a third of what is there
# What hangs higher above the camera than this would hide the street from a view from above.
_CEILING = 1.5
# Points of this confidence or more are drawn in their full colour.
_FULL_BRIGHTNESS = 0.6
_PAINTER = DepthPainter()


@dataclass(frozen=True)
class SheetFrame:
    """A row of the sheet.

    Attributes:
        title: short.
        image: uint8 (H, W, 3) RGB.
        depth: float32 (h, w) metres.
        confidence: float32 (h, w) in 0..1.
        points: (N, 3) metres in the optical frame.
        colours: uint8 (N, 3) RGB of the points.
        certainty: (N,) confidence of the points, 0..1.
        lidar: (M, 3) measured points in the optical frame, None where there are none.
    """

    title: str
    image: Pixels
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    points: NDArray[np.float32]
    colours: Pixels
    certainty: NDArray[np.float32]
    lidar: NDArray[np.float64] | None


def write_contact_sheet(path: Path, title: str, subtitle: str, frames: Sequence[SheetFrame]) -> None:
    """Write a PNG with one row per frame.

    Raises:
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("no frame to draw, expected at least one")
    height, width = frames[0].image.shape[:2]
    cell_height = _CELL_WIDTH * height / width
    row_height, head, foot = cell_height + 0.28, 1.12, 0.75
    figure_size = (4 * _CELL_WIDTH + 0.6, head + len(frames) * row_height + foot)
    figure = Figure(figsize=figure_size, dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Any:
        """Axes at inches from the top left."""
        return figure.add_axes(
            (x / figure_size[0], 1 - (y + h) / figure_size[1], w / figure_size[0], h / figure_size[1])
        )

    def write(x: float, y: float, text: str, **style: Any) -> None:
        style = {"color": _TEXT, "va": "center", "fontsize": 11, **style}
        figure.text(x / figure_size[0], 1 - y / figure_size[1], text, **style)

    write(0.15, 0.28, title, fontsize=17, weight="bold")
    write(0.15, 0.6, subtitle, color=_FAINT)
    columns = [0.15 + index * (_CELL_WIDTH + 0.1) for index in range(4)]
    pixels = round(_CELL_WIDTH * _DPI), round(cell_height * _DPI)
    reach = _reach(frames)
    for x, name in zip(columns, ("image", "depth", "confidence", "cloud from above"), strict=True):
        write(x, head - 0.13, name, weight="bold")
    for row, frame in enumerate(frames):
        y = head + row * row_height
        write(columns[0], y + row_height - 0.12, frame.title, color=_FAINT, fontsize=9)
        cells = (
            frame.image,
            depth_picture(frame.depth),
            confidence_picture(frame.confidence),
            picture_from_above(frame, pixels[0], pixels[1], reach),
        )
        for x, cell in zip(columns, cells, strict=True):
            axes = place(x, y, _CELL_WIDTH, cell_height)
            axes.imshow(cell, aspect="auto", interpolation="antialiased")
            axes.set_axis_off()
    y = head + len(frames) * row_height + 0.1
    for x, draw in ((columns[1], _depth_legend), (columns[2], _confidence_legend)):
        draw(place(x + 0.1, y, _CELL_WIDTH * 0.45, 0.15))
    aside = 0.5 * _CELL_WIDTH + 0.1
    write(columns[1] + aside, y + 0.08, "black: unknown, grey: beyond range", color=_FAINT, fontsize=9)
    write(columns[2] + aside, y + 0.08, "probability of being right within 10 %", color=_FAINT, fontsize=9)
    legend = f"camera at the left, looking right to {reach:g} m; dim: not confident"
    if any(frame.lidar is not None for frame in frames):
        legend += "; violet: LiDAR"
    write(columns[3], y + 0.08, legend, color=_FAINT, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=_BACKGROUND)


def depth_picture(depth: NDArray[np.float32]) -> Pixels:
    """RGB of a depth image, in the colours of depth/preview."""
    bgr = np.empty((*depth.shape, 3), np.uint8)
    _PAINTER.paint(np.ascontiguousarray(depth), bgr)
    return np.ascontiguousarray(bgr[..., ::-1])


def confidence_picture(confidence: NDArray[np.float32]) -> Pixels:
    """RGB of confidence: black is 0, bright is 1."""
    scaled = np.rint(np.nan_to_num(confidence) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1])


def picture_from_above(frame: SheetFrame, width: int, height: int, reach: float) -> Pixels:
    """RGB (height, width, 3) of a cloud in parallel projection: the camera at the left edge, forward to the right.

    Points are as bright as they are certain, and certain ones are drawn over others.

    Args:
        frame: with points and LiDAR.
        width, height: of the picture, pixels.
        reach: metres that its width shows.
    """
    scale = width / reach
    picture = np.full((height, width, 3), _ABOVE_BACKGROUND, np.uint8)
    for metres in range(10, int(reach), 10):
        column = round(metres * scale)
        cv2.line(picture, (column, 0), (column, height), (58, 50, 46), 1)
    order = np.argsort(frame.certainty, kind="stable")
    order = order[frame.points[order, 1] > -_CEILING]
    rows, columns, seen = _from_above(frame.points[order], scale, width, height)
    brightness = np.minimum(frame.certainty[order][seen] / _FULL_BRIGHTNESS, 1)[:, None]
    background = np.array(_ABOVE_BACKGROUND)
    colours = (background + brightness * (frame.colours[order][seen][:, ::-1] - background)).astype(np.uint8)
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 0)):  # two pixels wide, or distant surfaces fall apart
        picture[np.minimum(rows + down, height - 1), np.minimum(columns + right, width - 1)] = colours
    if frame.lidar is not None:
        rows, columns, _ = _from_above(frame.lidar[frame.lidar[:, 1] > -_CEILING], scale, width, height)
        picture[rows, columns] = picture[rows, columns] // 3 + _LIDAR_SHADE
    for metres in range(10, int(reach), 10):
        label = (round(metres * scale) + 3, height - 5)
        for colour, thickness in ((_ABOVE_BACKGROUND, 3), ((200, 195, 190), 1)):
            text = (f"{metres} m", label, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, thickness, cv2.LINE_AA)
            cv2.putText(picture, *text)
    nose = np.array([[0, height // 2 - 6], [0, height // 2 + 6], [12, height // 2]], np.int32)
    cv2.fillConvexPoly(picture, nose, (240, 240, 240), cv2.LINE_AA)
    return np.ascontiguousarray(picture[..., ::-1])


def _from_above(
    points: NDArray[np.floating], scale: float, width: int, height: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Rows and columns of the points inside the picture, and which those are."""
    columns = np.floor(points[:, 2] * scale)
    rows = np.floor(height / 2 + points[:, 0] * scale)  # right of the camera is below
    seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return rows[seen].astype(np.intp), columns[seen].astype(np.intp), seen


def _reach(frames: Sequence[SheetFrame]) -> float:
    """Metres to show: what holds nine tenths of the points, in tens, no more than 60."""
    depths = np.concatenate([frame.depth[np.isfinite(frame.depth)] for frame in frames])
    if not depths.size:
        return 60.0
    return float(np.clip(10 * np.ceil(np.percentile(depths, 90) / 10), 20, 60))


def _depth_legend(axes: Any) -> None:
    near = _PAINTER.near
    # The colours are linear in inverse depth, and so is the legend.
    inverse = np.linspace(1 / near, 1e-6, 512, dtype=np.float32)
    axes.imshow(depth_picture(np.repeat(1 / inverse[None], 8, axis=0)), aspect="auto", extent=(0, 1, 0, 1))
    marks = [near, 5.0, 10.0, 30.0]
    axes.set_xticks([1 - near / metres for metres in marks], [f"{metres:g} m" for metres in marks])
    _style(axes)


def _confidence_legend(axes: Any) -> None:
    ramp = np.repeat(np.linspace(0, 1, 512, dtype=np.float32)[None], 8, axis=0)
    axes.imshow(confidence_picture(ramp), aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    _style(axes)


def _style(axes: Any) -> None:
    axes.set_yticks([])
    axes.tick_params(colors=_FAINT, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
