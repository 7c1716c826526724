"""From a KITTI folder to a rosbag2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sem_depth_node.bags.kitti.benchmarks import ObjectFrames, OdometrySequence
from sem_depth_node.bags.kitti.files import KittiError
from sem_depth_node.bags.kitti.raw import RawDrive
from sem_depth_node.bags.kitti.sequence import CAMERAS, KittiSequence
from sem_depth_node.bags.writer import BagWriter, Storage


@dataclass
class ConversionReport:
    """Messages written, by topic, and what was missing or assumed."""

    messages: dict[str, int]
    notes: list[str]


def open_kitti(path: Path, calibration: Path | None = None) -> KittiSequence:
    """The recording at `path`.

    Args:
        path: a raw drive, a date folder with one drive, an odometry sequence, or a part of the object set.
        calibration: folder of a raw drive's calibration files, where they are not beside it.

    Raises:
        KittiError: it is none of these, or incomplete.
    """
    if not path.is_dir():
        raise KittiError(f"{path}: no such folder")
    path = path.resolve()
    drives = sorted(p for p in path.iterdir() if re.search(r"_drive_\d+_(sync|extract)$", p.name) and p.is_dir())
    sequence: KittiSequence
    if any((path / f"image_{number:02d}").is_dir() for number in CAMERAS):
        sequence = RawDrive(path, calibration)
    elif len(drives) == 1:
        sequence = RawDrive(drives[0], calibration)
    elif drives:
        raise KittiError(f"{path}: {len(drives)} drives ({', '.join(d.name for d in drives)}); name one of them")
    elif (path / "times.txt").is_file():
        sequence = OdometrySequence(path)
    elif (path / "calib").is_dir() and any((path / f"image_{number}").is_dir() for number in CAMERAS):
        sequence = ObjectFrames(path)
    else:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        raise KittiError(
            f"{path}: not KITTI: expected a raw drive (image_02/data, ...), an odometry sequence (image_2, calib.txt, "
            f"times.txt) or object frames (image_2, calib), found {found}"
        )
    if not sequence.cameras:
        raise KittiError(f"{sequence.folder}: no images in it")
    return sequence


def kitti_to_bag(
    sequence: KittiSequence,
    out: Path,
    *,
    cameras: Sequence[int] | None = None,
    storage: Storage = "mcap",
    compressed: bool = False,
    force: bool = False,
    on_message: Callable[[], object] = lambda: None,
) -> ConversionReport:
    """Write a rosbag2 of a KITTI recording; nothing stays of one that is not finished.

    Args:
        sequence: from `open_kitti`.
        out: rosbag2 folder to make.
        cameras: numbers of the cameras to take; None for all.
        storage: format of the bag.
        compressed: images as the data set's own files (CompressedImage) instead of pixels.
        force: replace an existing bag.
        on_message: called after every message.

    Raises:
        KittiError: a file is missing or damaged.
        BagError: `out` exists.
    """
    report = ConversionReport({}, sequence.notes)
    with BagWriter(out, storage, force=force) as writer:
        for timed in sequence.messages(cameras, compressed=compressed):
            writer.write(timed.topic, timed.time, timed.message, latched=timed.topic == "/tf_static")
            report.messages[timed.topic] = report.messages.get(timed.topic, 0) + 1
            on_message()
    return report
