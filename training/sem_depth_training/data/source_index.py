"""The frames of data sets in their official layouts as an index.csv, which evaluation and export take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sem_depth_training.data.frames import DataError, Frame, write_depth, write_index
from sem_depth_training.data.kitti import ScannedFrame
from sem_depth_training.data.sources import Source, read_sources


def write_source_index(sources: Sequence[Source], output: Path, split: str) -> Path:
    """Write `output`/index.csv with all frames of the sources as one split; returns it.

    Images and depth stay where they are, by their absolute paths; scans are projected once, into `output`/depth.

    Raises:
        DataError: as `read_sources` does, where a scan cannot be read, or `output` cannot be written.
    """
    frames = [frame for part in read_sources(sources) for frame in part]
    try:
        (output / "depth").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: cannot be made a folder ({error.strerror}); name another output") from error
    write_index(output / "index.csv", [_row(output, number, frame, split) for number, frame in enumerate(frames)])
    return output / "index.csv"


def _row(output: Path, number: int, frame: Frame, split: str) -> dict[str, Any]:
    depth = frame.depth.absolute()
    if isinstance(frame, ScannedFrame):
        depth = (output / "depth" / f"{number:06d}.png").absolute()
        write_depth(depth, frame.read_depth())
    return {
        "split": split,
        "sequence": frame.sequence,
        "camera": frame.view,
        "image": frame.image.absolute(),
        "depth": depth,
        "sky": frame.sky.absolute() if frame.sky is not None else "",
        **{name: getattr(frame.camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")},
        "licence": frame.licence,
    }
