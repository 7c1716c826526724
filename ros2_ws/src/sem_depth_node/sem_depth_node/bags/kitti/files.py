"""Reading KITTI's files: numbered frames, scans, calibration text, timestamps."""

from __future__ import annotations

import calendar
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.image_decoding import cut_short

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

SECOND = 1_000_000_000

_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_POINT_BYTES = 16


class KittiError(Exception):
    """A folder that is not KITTI, or of which something needed is missing; the message names the file."""


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of the suffixes, by name; none where there is no such folder."""
    return sorted(f for f in folder.iterdir() if f.suffix in suffixes) if folder.is_dir() else []


def numbered(folder: Path, suffixes: Sequence[str]) -> dict[int, Path]:
    """Files by the number that is their name."""
    return {int(file.stem): file for file in files_in(folder, suffixes) if file.stem.isdigit()}


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of an image file; a PNG is not decoded for it.

    Raises:
        KittiError: it is no image.
    """
    data = file.read_bytes()
    if data.startswith(_PNG_BEGINS) and len(data) > 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise KittiError(f"{file}: not an image that can be decoded")
    return pixels.shape[1], pixels.shape[0]


def read_whole_image(file: Path) -> bytes:
    """The bytes of a PNG or JPEG file, without decoding it.

    Raises:
        KittiError: it is neither, or cut short.
    """
    data = file.read_bytes()
    if not data.startswith((_PNG_BEGINS, b"\xff\xd8")):
        raise KittiError(f"{file}: neither a PNG nor a JPEG file")
    if cut_short(data):
        raise KittiError(f"{file}: cut short after {len(data)} bytes")
    return data


def read_scan(file: Path) -> NDArray[np.float32]:
    """Points (N, 4): x, y, z in metres in the LiDAR's frame (forward, left, up), reflectance in 0..1.

    Raises:
        KittiError: the file is no list of points.
    """
    if file.suffix == ".txt":
        return read_table(file, 4).astype(np.float32)
    data = file.read_bytes()
    if not data or len(data) % _POINT_BYTES:
        raise KittiError(f"{file}: {len(data)} bytes, expected {_POINT_BYTES} for each point: cut short?")
    return np.frombuffer(data, "<f4").reshape(-1, 4)


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        KittiError: it is not text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise KittiError(f"{file}: not a text file: {error}") from error


def read_table(file: Path, columns: int) -> NDArray[np.float64]:
    """Lines of `columns` numbers each, as (N, columns).

    Raises:
        KittiError: it has other lines, or none.
    """
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise KittiError(f"{file}, line {number}: {error}") from error
        if row and len(row) != columns:
            raise KittiError(f"{file}, line {number}: {len(row)} numbers, expected {columns}")
        if not all(map(math.isfinite, row)):
            raise KittiError(f"{file}, line {number}: {line.strip()!r} has a number that is not finite")
        rows += [row] if row else []
    if not rows:
        raise KittiError(f"{file}: empty, expected lines of {columns} numbers")
    return np.array(rows)


def read_numbers(file: Path) -> dict[str, NDArray[np.float64]]:
    """The lines `key: numbers` of a calibration file; other lines are left out.

    Raises:
        KittiError: it is missing, not text, or a number in it is not finite.
    """
    if not file.is_file():
        raise KittiError(f"{file}: missing, it comes with KITTI's calibration download")
    values = {}
    for line in read_text(file).splitlines():
        key, colon, rest = line.partition(":")
        try:
            numbers = np.array([float(word) for word in rest.split()])
        except ValueError:
            continue  # calib_time has a date
        if colon and numbers.size:
            if not np.isfinite(numbers).all():
                raise KittiError(f"{file}: {key.strip()} has a number that is not finite")
            values[key.strip()] = numbers
    return values


def parse_stamp(line: str, file: Path, number: int) -> int:
    """Nanoseconds since the epoch of "2011-09-26 13:02:25.594360375". KITTI names no time zone; UTC is taken.

    Raises:
        KittiError: it is no such time; names `file` and line `number`.
    """
    whole, _, fraction = line.strip().partition(".")
    try:
        if not re.fullmatch(r"\d{0,9}", fraction):
            raise ValueError("its fraction is not one of nanoseconds")
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%d %H:%M:%S"))
        if seconds < 0:
            raise ValueError("it is before 1970")
    except ValueError as error:
        raise KittiError(
            f"{file}, line {number}: {line!r} is not a time, expected 2011-09-26 13:02:25.594360375"
        ) from error
    return seconds * SECOND + int(fraction.ljust(9, "0"))


def in_words(numbers: Sequence[int]) -> str:
    """Numbers in words: 3, 7 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
