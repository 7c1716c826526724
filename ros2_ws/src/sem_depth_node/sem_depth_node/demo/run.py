"""The demo from bag to report: play and record, measure, draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sem_depth_node.bags.evaluate import LidarDepth
from sem_depth_node.bags.latency import Distribution, arrivals
from sem_depth_node.bags.messages import depth_metres, plane
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import CameraStream
from sem_depth_node.camera import CameraModel
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.demo.analysis import DemoReport, analyse
from sem_depth_node.demo.contact_sheet import SheetFrame, write_contact_sheet
from sem_depth_node.demo.processes import DemoSettings, play_and_record
from sem_depth_node.image_decoding import ImageDecoder

_ROWS = 5


def run_demo(settings: DemoSettings, lidar: str | None, say: Callable[[str], None]) -> DemoReport:
    """Play a bag through the node and leave the recording, contact_sheet.png and report.json in `settings.out`.

    Args:
        settings: what to play.
        lidar: topic of the bag's LiDAR; None to find it, and to do without where there is none.
        say: told of each phase.

    Raises:
        ProcessError: a process failed.
        BagError: the bag or what was recorded cannot be used.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    play_and_record(settings, say)
    say("measuring")
    with BagReader(settings.bag) as source, BagReader(settings.recording) as recording:
        report = analyse(source, recording, settings.stream, lidar, settings.replay_report)
        say("drawing")
        frames = _sheet_frames(source, recording, settings.stream, report)
    write_contact_sheet(
        settings.out / "contact_sheet.png",
        f"sem_depth: {report.bundle}",
        f"{settings.bag.name}, {report.image_size[0]}x{report.image_size[1]}; {report.engine}; "
        f"{report.answered} of {report.published} frames answered, latency {report.latency.median:.0f} ms median",
        frames,
    )
    (settings.out / "report.json").write_text(json.dumps(report.as_report(), indent=2) + "\n")
    return report


def report_table(report: DemoReport) -> Table:
    """The demo's numbers for a terminal."""
    caption = None if report.scores is None else f"accuracy: {report.scores.protocol}"
    table = Table(
        title=f"{Path(report.bag).name}: {report.camera}, {report.image_size[0]}x{report.image_size[1]}",
        caption=caption,
        show_header=False,
    )
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    table.add_row("frames in", str(report.published), f"{report.received} reached the node")
    table.add_row("frames out", str(report.answered), f"in {report.seconds:.1f} s of the bag")
    table.add_row("dropped", str(report.dropped), "newest wins while the engine is busy")

    def times(name: str, values: Distribution, note: str) -> None:
        table.add_row(name, f"{values.median:.1f} ms, p95 {values.p95:.1f} ms", note)

    times("latency", report.latency, "image to depth, both received over DDS")
    times("in the node", report.node, "image received to all outputs sent")
    times("engine", report.engine_time, report.engine)
    times("node overhead", report.overhead, "decoding to sending, all but the engine")
    if report.scores is None:
        table.add_row("accuracy", "-", report.unscored)
    else:
        mean = report.scores.mean
        table.add_row("AbsRel", f"{mean['abs_rel']:.3f}", "against the LiDAR in the bag")
        table.add_row(
            "delta1", f"{mean['delta1']:.3f}", f"RMSE {mean['rmse']:.2f} m, {len(report.scores.frames)} frames"
        )
    return table


def _sheet_frames(
    source: BagReader, recording: BagReader, stream: CameraStream, report: DemoReport
) -> list[SheetFrame]:
    """Frames spread evenly over those that were answered whole."""
    topics = (stream.image, "/depth/image", "/depth/confidence", "/depth/points")
    index = {topic: arrivals(recording, topic) for topic in topics}
    whole = sorted(set.intersection(*(set(times) for times in index.values())))
    if not whole:
        raise BagError(f"{recording.path}: no frame has image, depth, confidence and cloud; see the logs beside it")
    chosen = [whole[round(place)] for place in np.linspace(0, len(whole) - 1, min(_ROWS, len(whole)))]
    truth = LidarDepth(source, report.lidar) if report.lidar is not None else None
    scored = {frame.stamp: frame.metrics for frame in report.scores.frames} if report.scores else {}
    camera = camera_from_info(recording.first("/depth/camera_info"))
    decoder = ImageDecoder()
    frames = []
    for stamp in chosen:
        image, depth, confidence, cloud = (
            recording.decode(next(recording.messages([topic], times[stamp], times[stamp] + 1)))
            for topic, times in index.items()
        )
        rgb = decoder.decode_compressed(image) if stream.compressed else decoder.decode(image)
        title = f"{(stamp - whole[0]) / 1e9:.1f} s"
        if metrics := scored.get(stamp):
            title += f"   AbsRel {metrics['abs_rel']:.3f}, delta1 {metrics['delta1']:.3f}"
        points, colours, pixels = _coloured_points(cloud)
        certainty = plane(confidence)
        measured = truth.at(stamp, depth.header.frame_id, camera) if truth else None
        frames.append(
            SheetFrame(
                title=title,
                image=rgb.copy(),
                depth=depth_metres(depth),
                confidence=certainty,
                points=points,
                colours=colours,
                certainty=certainty.reshape(-1)[pixels],
                lidar=None if measured is None else _points_of(measured, camera),
            )
        )
    return frames


def _coloured_points(cloud: Any) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """The finite points (N, 3) of the node's cloud, their RGB colours (N, 3), and which pixels (H * W) they are."""
    packed = np.asarray(cloud.data).view(np.float32).reshape(-1, 4)
    pixels = np.asarray(np.isfinite(packed[:, :3]).all(axis=1))
    bgr0 = np.ascontiguousarray(packed[pixels, 3]).view(np.uint8).reshape(-1, 4)
    return packed[pixels, :3], bgr0[:, 2::-1], pixels


def _points_of(depth: NDArray[np.float32], camera: CameraModel) -> NDArray[np.float64]:
    """Points (N, 3) of a sparse depth image, 0 being none."""
    rows, columns = np.nonzero(depth)
    x, y = camera.ray_slopes()
    z = depth[rows, columns].astype(np.float64)
    return np.stack((x[columns] * z, y[rows] * z, z), axis=1)
