"""Frames: an image, its camera, and depth measured or rendered for it; and the index.csv that lists them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_node.image_decoding import cut_short

_COLUMNS = ("split", "sequence", "image", "depth", "fx", "fy", "cx", "cy", "width", "height", "licence")


class DataError(Exception):
    """Data that cannot be used; the message names the files and what to do."""


@dataclass(frozen=True)
class Frame:
    """One image and what is known of it, whatever data set it is from.

    image: file, RGB. depth: 16-bit PNG of metres x 256, where 0 is not valid. sky: mask image, non-zero is sky, None
    where the data set has none. camera: of the image, without distortion. sequence: frames of one sequence show nearly
    the same. partner: the other image of a rectified stereo pair, where there is one; shift: metres from this camera
    to the partner's, positive to the right. view: which camera of several that took the sequence at once.
    """

    image: Path
    depth: Path
    sky: Path | None
    camera: CameraModel
    sequence: str
    licence: str
    partner: Path | None = None
    shift: float = 0.0
    view: str = ""

    @property
    def files(self) -> list[Path]:
        """All files that the frame needs."""
        return [path for path in (self.image, self.depth, self.sky, self.partner) if path is not None]

    def read_image(self) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3]. Raises DataError for a file that is no image or has another size than the camera."""
        return self._read_colours(self.image)

    def read_partner(self) -> NDArray[np.uint8]:
        """The partner's image as `read_image` gives this one's."""
        assert self.partner is not None
        return self._read_colours(self.partner)

    def read_depth(self) -> NDArray[np.float32]:
        """Metres along Z, float32 [H, W], 0 where nothing was measured (stored as uint16, metres x 256)."""
        depth = cv2.imread(str(self.depth), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
            raise DataError(f"{self.depth}: expected a 16-bit grey PNG of metres x 256; fetch or render it again")
        self._check_size(self.depth, depth)
        return depth.astype(np.float32) / np.float32(256)

    def read_sky(self) -> NDArray[np.bool_]:
        """True where the sky is known to be, bool [H, W]; all False where the index has no sky masks."""
        if self.sky is None:
            return np.zeros((self.camera.height, self.camera.width), bool)
        mask = cv2.imread(str(self.sky), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DataError(f"{self.sky}: cannot be decoded as a mask; render it again")
        self._check_size(self.sky, mask)
        return mask > 0

    def _read_colours(self, path: Path) -> NDArray[np.uint8]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); fetch or render it again") from error
        if codec := cut_short(data):
            raise DataError(f"{path}: is a {codec} cut short, its end is missing; fetch or render it again")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            raise DataError(f"{path}: cannot be decoded as an image; fetch or render it again")
        self._check_size(path, image)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def _check_size(self, path: Path, array: NDArray[np.generic]) -> None:
        height, width = array.shape[:2]
        if (width, height) != (self.camera.width, self.camera.height):
            raise DataError(
                f"{path}: is {width}x{height}, the index says {self.camera.width}x{self.camera.height} "
                "(or the calibration, where there is no index); fetch it again or correct that"
            )


def read_index(index: Path, split: str) -> list[Frame]:
    """The frames of one split of an index.csv, whose files are all there.

    Raises DataError as `index_frames` and `require_files` do.
    """
    frames = index_frames(index, split)
    try:
        require_files(frames)
    except DataError as error:
        raise DataError(f"{index}: {error}") from None
    return frames


def index_frames(index: Path, split: str) -> list[Frame]:
    """The frames of one split of an index.csv; paths in it are relative to its folder.

    Columns: split, sequence, image, depth, fx, fy, cx, cy, width, height, licence, and optionally sky and camera (which
    of several took it).
    Raises DataError when the index, a column or the split is missing, or a number is unreadable.
    """
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{index}: cannot be read ({error.strerror}); expected an index.csv of frames") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{index}: is not UTF-8 text ({error.reason}); expected an index.csv of frames") from error
    absent = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if absent:
        raise DataError(f"{index}: lacks the columns {', '.join(absent)}" if rows else f"{index}: has no frames")
    chosen = [(line, row) for line, row in enumerate(rows, start=2) if row["split"] == split]
    if not chosen:
        raise DataError(f"{index}: no frame of split {split!r}; it has {', '.join(sorted({r['split'] for r in rows}))}")
    return [_frame(index, line, row) for line, row in chosen]


def require_files(frames: Iterable[Frame]) -> None:
    """Raises DataError naming every file that frames need and that is not there."""
    missing = list(dict.fromkeys(path for frame in frames for path in frame.files if not path.is_file()))
    if missing:
        shown = "\n  ".join(map(str, missing[:50])) + (f"\n  and {len(missing) - 50} more" if len(missing) > 50 else "")
        raise DataError(f"{len(missing)} files are missing:\n  {shown}")


def write_index(index: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write an index.csv, one row a frame, whole or not at all. Raises DataError where it cannot be written."""
    partial = index.with_suffix(".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(index)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{index}: cannot be written ({error.strerror}); free space there") from error


def evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """`count` of the frames, evenly spread; all of them where count is 0 or there are no more."""
    if not 0 < count < len(frames):
        return list(frames)
    return [frames[place] for place in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def write_picture(path: Path, pixels: NDArray[Any]) -> None:
    """Write an image file by its suffix. Raises DataError where it cannot be written."""
    if not cv2.imwrite(str(path), pixels):
        raise DataError(f"{path}: cannot be written; is the disk full?")


def write_depth(path: Path, depth: NDArray[np.float32]) -> None:
    """Write metres [H, W], 0 where nothing is known, as the 16-bit PNG that `Frame.read_depth` reads; see
    `write_picture`."""
    write_picture(path, (depth * 256).round().clip(0, 65535).astype(np.uint16))


def _frame(index: Path, line: int, row: dict[str, str]) -> Frame:
    if cut := [name for name in _COLUMNS if row[name] is None]:
        raise DataError(f"{index}: line {line} ends before {cut[0]}; expected a value for each column")
    try:
        fx, fy, cx, cy = (float(row[name]) for name in ("fx", "fy", "cx", "cy"))
        camera = CameraModel(int(row["width"]), int(row["height"]), fx, fy, cx, cy)
    except (ValueError, TypeError) as error:
        raise DataError(f"{index}: line {line}: {error}") from error
    folder = index.parent
    sky = folder / row["sky"] if row.get("sky") else None
    return Frame(
        folder / row["image"],
        folder / row["depth"],
        sky,
        camera,
        row["sequence"],
        row["licence"],
        view=row.get("camera") or "",
    )
