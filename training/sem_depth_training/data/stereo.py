"""Depth from rectified stereo pairs where the LiDAR does not reach, and the sky that neither sees.

A LiDAR on a roof says nothing of the upper 40 % of a driving image, and a network trained on it alone invents something
there. The second camera sees it: semi-global matching (Hirschmüller, PAMI 2008; OpenCV's StereoSGBM) with a left-right
check fills what the LiDAR left open. Measured depth is kept as it is. Where both see the same they have to agree, and
in some KITTI drives their disparities differ by half a pixel, several per cent of depth at 40 m: the LiDAR is right.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_training.data.frames import DataError, Frame, read_index, write_depth, write_index, write_picture
from sem_depth_training.data.sky import MIN_CONTRAST, contrast, near_measured, sky_mask

DISPARITIES = 192
# Nearer to a LiDAR point than this many pixels, the LiDAR is believed alone.
_LIDAR_REACH = 31
# A matching error of a quarter pixel is then at most 8 % of depth.
_MIN_DISPARITY = 3.0
_MAX_LEFT_RIGHT_DIFFERENCE = 1.0
_MAX_SHORTFALL = 2.0
# Stereo fills every second pixel of every second row: training sees images at half the size or less.
_STRIDE = 2


def complete_index(pairs: Iterable[tuple[Frame, Frame]], output: Path, baseline: float) -> Path:
    """Write an index of stereo pairs, their depth completed and their sky marked; all of it is of split "train".

    Args:
        pairs: (left, right) frames, rectified, as from `stereo_pairs`.
        output: folder of the new index.csv, its depth and sky images; the camera images stay where they are.
        baseline: distance of the two cameras in metres (KITTI colour cameras: 0.533).

    Returns:
        The new index.csv.

    Raises:
        DataError: there are no pairs, a file of theirs is unreadable, or stereo and LiDAR contradict each other.
    """
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, (left, right) in enumerate(pairs):
        left_image, right_image = left.read_image(), right.read_image()
        disparities = match(left_image, right_image)
        for frame, image, disparity in zip((left, right), (left_image, right_image), disparities, strict=True):
            depth = frame.read_depth()
            product = np.float32(frame.camera.fx * baseline)
            found = disparity >= _MIN_DISPARITY
            disparity[found] += _shortfall(frame, disparity, depth, product)
            open_to_stereo = cv2.dilate((depth > 0).astype(np.uint8), np.ones((_LIDAR_REACH,) * 2, np.uint8)) == 0
            fill = np.zeros_like(found)
            fill[::_STRIDE, ::_STRIDE] = (found & open_to_stereo)[::_STRIDE, ::_STRIDE]
            depth[fill] = product / disparity[fill]
            name = f"{number:05d}{'l' if frame is left else 'r'}"
            write_depth(output / f"{name}.png", depth)
            sky = sky_mask(image, near_measured(found | (depth > 0)))
            write_picture(output / f"{name}_sky.png", sky.astype(np.uint8) * 255)
            rows.append(_row(frame, name))
    if not rows:
        raise DataError(f"{output}: no stereo pairs to complete, expected at least one")
    target = output / "index.csv"
    write_index(target, rows)
    return target


def stereo_pairs(index: Path, split: str) -> list[tuple[Frame, Frame]]:
    """The (left, right) frames of an index that show the same moment: same sequence, same name but for the l or r.

    Raises:
        DataError: there are none, or the index cannot be read.
    """
    pairs = pairs_of(read_index(index, split))
    if not pairs:
        raise DataError(f"{index}: no stereo pairs in split {split!r}; expected images NAMEl.jpg and NAMEr.jpg")
    return pairs


def pairs_of(frames: Iterable[Frame]) -> list[tuple[Frame, Frame]]:
    """The pairs among frames, as `stereo_pairs` has them."""
    by_name = {str(frame.image): frame for frame in frames}
    return [
        (by_name[left], by_name[right])
        for left in sorted(by_name)
        if left.endswith("l.jpg") and (right := left.removesuffix("l.jpg") + "r.jpg") in by_name
    ]


def match(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Disparity of each image of a rectified pair, RGB uint8 [H, W, 3]: pixels, float32 [H, W], 0 where unknown.

    Both directions are matched; only where they agree within a pixel, and there is something to match, is an answer.
    """
    grey = [_grey(image) for image in (left, right)]
    of_left = _semi_global(grey[0], grey[1])
    of_right = _semi_global(grey[1][:, ::-1], grey[0][:, ::-1])[:, ::-1]
    answers = _agreed(of_left, of_right, -1), _agreed(of_right, of_left, 1)
    for answer, image in zip(answers, grey, strict=True):
        answer[contrast(image) < MIN_CONTRAST] = 0
    return answers


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _semi_global(reference: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    window = 5
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=DISPARITIES,
        blockSize=window,
        P1=8 * window**2,
        P2=32 * window**2,
        uniquenessRatio=10,
        speckleWindowSize=150,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # Padded, because the matcher leaves as many columns unanswered at the left as it has disparities.
    padded = [cv2.copyMakeBorder(side, 0, 0, DISPARITIES, 0, cv2.BORDER_REPLICATE) for side in (reference, other)]
    return matcher.compute(padded[0], padded[1])[:, DISPARITIES:].astype(np.float32) / np.float32(16)


def _agreed(disparity: NDArray[np.float32], of_other: NDArray[np.float32], sign: int) -> NDArray[np.float32]:
    columns = np.arange(disparity.shape[1], dtype=np.float32)[None, :] + sign * disparity
    rows = np.repeat(np.arange(disparity.shape[0], dtype=np.float32)[:, None], disparity.shape[1], axis=1)
    opposite = cv2.remap(of_other, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)
    agree = (disparity > 0) & (np.abs(opposite - disparity) <= _MAX_LEFT_RIGHT_DIFFERENCE)
    return np.where(agree, disparity, np.float32(0))


def _shortfall(
    frame: Frame, disparity: NDArray[np.float32], depth: NDArray[np.float32], product: np.float32
) -> np.float32:
    """Pixels by which disparity falls short of what measured depth says (`product` / depth), 0 where nothing says it.

    The median over the farther half of the measurements, whose depth it changes most. Raises DataError where it is no
    matter of calibration any more.
    """
    both = (depth > 0) & (disparity >= _MIN_DISPARITY)
    if not both.any():
        return np.float32(0)
    found = disparity[both]
    far = found <= np.median(found)
    shortfall = np.float32(np.median((product / depth[both] - found)[far]))
    if abs(shortfall) > _MAX_SHORTFALL:
        raise DataError(
            f"{frame.image}: its stereo pair is off by {shortfall:.1f} pixels of disparity from {frame.depth}, "
            f"expected at most {_MAX_SHORTFALL:g}; check the baseline, fx, and that both images are rectified"
        )
    return shortfall


def _row(frame: Frame, name: str) -> dict[str, object]:
    camera = frame.camera
    return {
        "split": "train",
        "sequence": frame.sequence,
        "image": str(frame.image.resolve()),
        "depth": f"{name}.png",
        "sky": f"{name}_sky.png",
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "width": camera.width,
        "height": camera.height,
        "gt_kind": "lidar and stereo",
        "licence": frame.licence,
    }
