"""Reading KITTI's files: numbered frames, scans, calibration text, timestamps."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

SECOND = 1_000_000_000


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
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise KittiError(f"{file}: not an image that can be decoded")
    return pixels.shape[1], pixels.shape[0]


def read_scan(file: Path) -> NDArray[np.float32]:
    """Points (N, 4): x, y, z in metres in the LiDAR's frame (forward, left, up), reflectance in 0..1.

    Raises:
        KittiError: the file is no list of points.
    """
    try:
        numbers = np.loadtxt(file, np.float32).ravel() if file.suffix == ".txt" else np.fromfile(file, np.float32)
    except ValueError as error:
        raise KittiError(f"{file}: not a scan: {error}") from error
    if not numbers.size or numbers.size % 4:
        raise KittiError(f"{file}: {numbers.size} numbers, expected four for each point")
    return numbers.reshape(-1, 4)


def read_numbers(file: Path) -> dict[str, NDArray[np.float64]]:
    """The lines `key: numbers` of a calibration file; other lines are left out.

    Raises:
        KittiError: it is missing.
    """
    if not file.is_file():
        raise KittiError(f"{file}: missing, it comes with KITTI's calibration download")
    values = {}
    for line in file.read_text().splitlines():
        key, colon, rest = line.partition(":")
        try:
            numbers = np.array([float(word) for word in rest.split()])
        except ValueError:
            continue  # calib_time has a date
        if colon and numbers.size:
            values[key.strip()] = numbers
    return values


def parse_stamp(line: str, file: Path, number: int) -> int:
    """Nanoseconds since the epoch of "2011-09-26 13:02:25.594360375". KITTI names no time zone; UTC is taken.

    Raises:
        KittiError: it is no such time; names `file` and line `number`.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?", line.strip())
    if not match:
        raise KittiError(f"{file}, line {number}: {line!r} is not a time, expected 2011-09-26 13:02:25.594360375")
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%d %H:%M:%S"))
    return seconds * SECOND + int((match[2] or "").ljust(9, "0"))


def in_words(numbers: Sequence[int]) -> str:
    """Numbers in words: 3, 7 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
