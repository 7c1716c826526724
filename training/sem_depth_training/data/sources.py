"""Where training frames come from: one section of a configuration for each data set, and all of them as frames."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from sem_depth_training.data.frames import DataError, Frame, index_frames, require_files
from sem_depth_training.data.stereo import pairs_of
from sem_depth_training.shortened_list import shortened_list

CameraName = Literal["front", "front_left", "front_right", "side_left", "side_right"]


class _Source(BaseModel):
    """What every source has: `name` is what a bundle's manifest calls the data, `weight` its share of the mixture.

    `mix`: probability that a frame is mixed by depth with another of the source: what is nearer in either of the two is
    seen. For sources whose frames one rig took, so that their roads coincide.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    weight: float = Field(1.0, gt=0)
    mix: float = Field(0.0, ge=0, le=1)


class IndexSource(_Source):
    """Frames of one index.csv: the driving data, rendered streets, stereo labels.

    `sequences`: only those whose names one of these patterns matches (`drive_*`) and none that begins with an
    exclamation mark (`!drive_0009`).
    `baseline`: metres between the cameras of images NAMEl.jpg and NAMEr.jpg, which become stereo pairs.
    """

    kind: Literal["index"] = "index"
    index: Path
    split: str = "train"
    sequences: Annotated[list[str], Field(min_length=1)] = ["*"]
    baseline: float | None = Field(None, gt=0)


class KittiSource(_Source):
    """KITTI raw with annotated depth, the frames of a split file such as Eigen's.

    `raw` holds the folders of dates, `depth` the annotated depth (with train/ and val/, or drives at once). Without
    `depth` the scan of the raw data is projected. `without_depth`: what becomes of frames that were never annotated.
    """

    kind: Literal["kitti"]
    raw: Path
    split_file: Path
    depth: Path | None = None
    without_depth: Literal["error", "skip"] = "error"


class KittiSelectionSource(_Source):
    """KITTI's depth selection: `folder` is val_selection_cropped."""

    kind: Literal["kitti_selection"]
    folder: Path


class WaymoSource(_Source):
    """The Waymo Open Dataset 2: `folder` holds the folders of components.

    Frames are rectified once, into `prepared`: every `every`-th of each camera in `cameras`, at most `width` wide.
    """

    kind: Literal["waymo"]
    folder: Path
    prepared: Path
    cameras: Annotated[list[CameraName], Field(min_length=1)] = ["front"]
    every: Annotated[int, Field(gt=0)] = 5
    width: Annotated[int, Field(ge=64)] = 960


def _kind(value: Any) -> str:
    kind = value.get("kind", "index") if isinstance(value, dict) else getattr(value, "kind", "index")
    return str(kind)


Source = Annotated[
    Annotated[IndexSource, Tag("index")]
    | Annotated[KittiSource, Tag("kitti")]
    | Annotated[KittiSelectionSource, Tag("kitti_selection")]
    | Annotated[WaymoSource, Tag("waymo")],
    Discriminator(_kind),
]
"""One of the sources; `kind` says which, index where it is left out."""


def read_sources(sources: Sequence[Source]) -> list[list[Frame]]:
    """The frames of each source, whose files are all there.

    Raises DataError naming at once every source that cannot be read and every file that is missing.
    """
    frames: list[list[Frame]] = []
    problems = []
    for source in sources:
        try:
            frames.append(_frames(source))
        except DataError as error:
            problems.append(str(error))
    try:
        require_files(frame for part in frames for frame in part)
    except DataError as error:
        problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return frames


def _frames(source: Source) -> list[Frame]:
    # Imported where they are wanted: they need rosbags and pyarrow, which nothing else in training does.
    if isinstance(source, KittiSource):
        from sem_depth_training.data.kitti import eigen_frames

        return eigen_frames(source.raw, source.split_file, source.depth, skip=source.without_depth == "skip")
    if isinstance(source, KittiSelectionSource):
        from sem_depth_training.data.kitti import selection_frames

        return selection_frames(source.folder)
    if isinstance(source, WaymoSource):
        try:
            from sem_depth_training.data.waymo import prepare_waymo
        except ImportError as error:
            raise DataError(
                f"{source.folder}: reading Waymo needs pyarrow ({error}); pip install 'pyarrow>=12'"
            ) from error

        index = prepare_waymo(source.folder, source.prepared, source.cameras, source.every, source.width)
        return index_frames(index, "train")
    frames = _of_sequences(index_frames(source.index, source.split), source)
    if source.baseline is None:
        return frames
    shifts = {}
    for left, right in pairs_of(frames):
        shifts[left.image] = right.image, source.baseline
        shifts[right.image] = left.image, -source.baseline
    if not shifts:
        raise DataError(f"{source.index}: no stereo pairs NAMEl.jpg and NAMEr.jpg, so leave out the key baseline")
    return [
        replace(frame, partner=shifts[frame.image][0], shift=shifts[frame.image][1]) if frame.image in shifts else frame
        for frame in frames
    ]


def _of_sequences(frames: Sequence[Frame], source: IndexSource) -> list[Frame]:
    """The frames of the sequences that a source wants. Raises DataError for a pattern that matches none."""
    names = sorted({frame.sequence for frame in frames})
    wanted: set[str] = set()
    unwanted: set[str] = set()
    for pattern in source.sequences:
        matching = fnmatch.filter(names, pattern.removeprefix("!"))
        if not matching:
            raise DataError(
                f"{source.index}: sequences: {pattern!r} matches no sequence of split {source.split!r}, which has "
                f"{shortened_list(names)}"
            )
        (unwanted if pattern.startswith("!") else wanted).update(matching)
    kept = [frame for frame in frames if frame.sequence in wanted - unwanted]
    if not kept:
        raise DataError(f"{source.index}: sequences: {source.sequences} leave no frame; begin with a pattern without !")
    return kept
