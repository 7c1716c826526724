"""Augmentation that keeps intrinsics true: what is done to the pixels is done to the camera and the depth points."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sem_depth_node.camera import CameraModel
from sem_depth_training.data.weather import add_fog, add_rain, darken, grain
from sem_depth_training.nearest import fill_from_nearest


@dataclass(frozen=True)
class DepthPoints:
    """Measured pixels: column u and row v (int16), depth z in metres along Z (float32), one array each."""

    u: NDArray[np.int16]
    v: NDArray[np.int16]
    z: NDArray[np.float32]

    @classmethod
    def from_image(cls, depth: NDArray[np.float32]) -> "DepthPoints":
        """The positive pixels of a depth image [H, W]."""
        v, u = np.nonzero(depth > 0)
        return cls(u.astype(np.int16), v.astype(np.int16), depth[v, u])


@dataclass(frozen=True)
class Sample:
    """One training sample; all arrays and the camera have one size.

    image uint8 [H, W, 3] RGB; depth float32 [H, W] metres, 0 unknown; sky bool [H, W].
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    sky: NDArray[np.bool_]
    camera: CameraModel


class AugmentationConfig(BaseModel):
    """How far samples are varied. Probabilities are 0..1, the rest are factors.

    `zoom` is what varies the focal length and, by where the window lies, height and pitch of the horizon. There is no
    zoom below 1: bars around the image would cost pixels, and wide cameras are among the rendered streets.
    """

    model_config = ConfigDict(extra="forbid")

    flip: float = Field(0.5, ge=0, le=1)
    zoom: float = Field(1.6, ge=1)  # largest enlargement over the largest crop
    whole: float = Field(0.4, ge=0, le=1)  # probability of the largest crop, which is what the robot sees
    stretch: float = Field(0.04, ge=0, lt=0.5)  # aspect error; the estimator allows itself 5 %
    turn: float = Field(0.0, ge=0, le=15)  # degrees of roll and of pitch, at most; not for stereo pairs
    style: float = Field(0.0, ge=0, le=1)  # probability of the large-scale colours of another frame
    colour: float = Field(0.25, ge=0, lt=1)  # brightness, contrast and saturation factors 1 +- this
    gamma: float = Field(0.3, ge=0, lt=1)
    tint: float = Field(0.08, ge=0, lt=1)
    blur: float = Field(0.1, ge=0, le=1)  # out of focus or moved
    noise: float = Field(0.15, ge=0, le=1)
    jpeg: float = Field(0.1, ge=0, le=1)
    fog: float = Field(0.0, ge=0, le=1)  # only frames whose depth is dense
    rain: float = Field(0.0, ge=0, le=1)
    night: float = Field(0.0, ge=0, le=1)
    join: float = Field(0.0, ge=0, le=1)  # two frames side by side in one picture


@dataclass(frozen=True)
class Crop:
    """A window of the source image in pixels, and whether it is mirrored afterwards."""

    x: int
    y: int
    width: int
    height: int
    flip: bool = False

    def on(self, camera: CameraModel, other: CameraModel) -> "Crop":
        """The window at the same place of `other`'s image, in relation to its size. Its aspect follows the image's."""
        x, y = other.width / camera.width, other.height / camera.height
        return Crop(int(self.x * x), int(self.y * y), int(self.width * x), int(self.height * y), self.flip)


def turn(
    image: NDArray[np.uint8],
    depth: DepthPoints | NDArray[np.uint16],
    sky: NDArray[np.bool_],
    camera: CameraModel,
    roll: float,
    pitch: float,
) -> tuple[NDArray[np.uint8], DepthPoints | NDArray[np.uint16], NDArray[np.bool_]]:
    """What the same camera sees after it is turned: rolled about z, then pitched about x, radians in the optical frame.

    A turn about the optical centre maps pixels by the homography K R K^-1, whatever their depth (Hartley & Zisserman,
    Multiple View Geometry, 8.4.2), and depth along the new Z is the third row of R times the point. What comes into
    view is mirrored in the image and unknown in the depth. Depth as in `apply_crop`.
    """
    rotation = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))[0] @ cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
    k = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    homography = k @ rotation @ np.linalg.inv(k)
    size = (camera.width, camera.height)
    turned: Any = cv2.warpPerspective(image, homography, size, borderMode=cv2.BORDER_REFLECT)
    turned_sky = cv2.warpPerspective(sky.astype(np.uint8), homography, size, flags=cv2.INTER_NEAREST) > 0
    if isinstance(depth, DepthPoints):
        x, y, factor = homography @ np.stack([depth.u, depth.v, np.ones(len(depth.u))])
        u, v, z = np.rint(x / factor), np.rint(y / factor), (depth.z * factor).astype(np.float32)
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        return turned, DepthPoints(u[inside].astype(np.int16), v[inside].astype(np.int16), z[inside]), turned_sky
    rows, columns = np.indices(depth.shape)
    factors = homography[2, 0] * columns + homography[2, 1] * rows + homography[2, 2]
    metres = np.clip(np.rint(depth * factors), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return turned, cv2.warpPerspective(metres, homography, size, flags=cv2.INTER_NEAREST), turned_sky


def random_crop(
    rng: np.random.Generator, camera: CameraModel, height: int, width: int, config: AugmentationConfig
) -> Crop:
    """A random window of about the aspect of `width` x `height`."""
    aspect = width / height * (1 + rng.uniform(-config.stretch, config.stretch))
    zoom = 1.0 if rng.random() < config.whole else float(np.exp(rng.uniform(0, np.log(config.zoom))))
    w = min(camera.width, camera.height * aspect) / zoom
    w, h = round(w), min(camera.height, round(w / aspect))
    x = int(rng.integers(0, camera.width - w + 1))
    y = int(rng.integers(0, camera.height - h + 1))
    return Crop(x, y, w, h, bool(rng.random() < config.flip))


def apply_crop(
    image: NDArray[np.uint8],
    depth: DepthPoints | NDArray[np.uint16],
    sky: NDArray[np.bool_] | None,
    camera: CameraModel,
    crop: Crop,
    height: int,
    width: int,
) -> Sample:
    """Crop, resize to `height` x `width`, mirror. Depth points that fall on one pixel leave the nearest.

    Dense depth, uint16 [H, W] in metres x 256 with 0 unknown, is sampled at the pixel nearest to each new one.
    """
    window = (slice(crop.y, crop.y + crop.height), slice(crop.x, crop.x + crop.width))
    shrinks = crop.width >= width
    resized = cv2.resize(image[window], (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mask = np.zeros((height, width), bool)
    if sky is not None:
        mask = _nearest(sky[window].astype(np.uint8), height, width) > 0
    if isinstance(depth, DepthPoints):
        metres = _scatter(depth, crop, height, width)
    else:
        metres = _nearest(depth[window], height, width).astype(np.float32) / np.float32(256)
    camera = camera.cropped(crop.x, crop.y, crop.width, crop.height).resized(width, height)
    if crop.flip:
        resized, metres, mask = resized[:, ::-1], metres[:, ::-1], mask[:, ::-1]
        camera = replace(camera, cx=width - 1 - camera.cx)
    return Sample(resized, metres, mask, camera)  # type: ignore[arg-type]


def _nearest(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _scatter(points: DepthPoints, crop: Crop, height: int, width: int) -> NDArray[np.float32]:
    # The pixel-centre convention of CameraModel.resized.
    u = np.floor((points.u.astype(np.float32) - crop.x + 0.5) * (width / crop.width)).astype(np.int32)
    v = np.floor((points.v.astype(np.float32) - crop.y + 0.5) * (height / crop.height)).astype(np.int32)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    flat = np.full(height * width, np.inf, np.float32)
    np.minimum.at(flat, v[inside] * width + u[inside], points.z[inside])
    flat[np.isinf(flat)] = 0
    return flat.reshape(height, width)


def vary_weather(
    rng: np.random.Generator, sample: Sample, dense: bool, config: AugmentationConfig
) -> NDArray[np.uint8]:
    """The sample's image, RGB uint8 [H, W, 3], in fog (where its depth is `dense`), in rain or at night."""
    fog, rain, night = rng.random(3) < (config.fog, config.rain, config.night)
    image = sample.image
    if fog and dense:
        image = add_fog(rng, image, sample.depth, sample.sky)
    if rain:
        image = add_rain(rng, image)
    if night:
        image = darken(rng, image)
    return image


def join_side_by_side(rng: np.random.Generator, left: Sample, right: Sample) -> Sample:
    """`left` up to a random column and `right` beyond it, under the camera of `left` (CutMix, arXiv 1905.04899, with
    one cut from top to bottom, as everything stands on the same road).

    Depth of `right` is scaled by the ratio of the focal lengths, so that its canonical depth stays what it was.
    """
    width = left.camera.width
    column = int(rng.integers(width // 5, width - width // 5))
    scale = np.float32(left.camera.focal_length / right.camera.focal_length)
    return Sample(
        np.concatenate([left.image[:, :column], right.image[:, column:]], 1),
        np.concatenate([left.depth[:, :column], right.depth[:, column:] * scale], 1),
        np.concatenate([left.sky[:, :column], right.sky[:, column:]], 1),
        left.camera,
    )


def mix_by_depth(first: Sample, second: Sample) -> Sample:
    """What stands nearer in either of two scenes, under the camera of `first` (DepthMix: Hoyer et al., arXiv
    2012.10782). Things of one scene stand in the other, hidden by what is before them and hiding what is behind.

    Between measurements the closest one in the image decides, above the highest too; sky is behind everything. Image,
    depth and sky of a pixel are of one frame, so a wrong decision shows a strange scene but never a wrong depth. What
    `second` shows has to be nearer by more than 7 %: less is one road on the other. Its depth is scaled as in
    `join_side_by_side`.
    """
    scale = np.float32(first.camera.focal_length / second.camera.focal_length)
    nearer = scale * _everywhere(second) < 0.93 * _everywhere(first)
    nearer = cv2.medianBlur(nearer.astype(np.uint8), 5) > 0
    return Sample(
        np.where(nearer[..., None], second.image, first.image),
        np.where(nearer, second.depth * scale, first.depth),
        np.where(nearer, second.sky, first.sky),
        first.camera,
    )


def _everywhere(sample: Sample) -> NDArray[np.float32]:
    """Metres at every pixel: of the closest measurement, infinite in the sky and where nothing was measured at all."""
    depth = fill_from_nearest(sample.depth, np.inf)
    # A guessed sky keeps away from what stands before it; without this, its rim would be taken for that.
    sky = cv2.dilate(sample.sky.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    depth[sky & (sample.depth == 0)] = np.inf
    return depth


def borrow_style(rng: np.random.Generator, image: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with the large-scale colours and contrasts of `other`: its amplitudes at up to 2 periods across.

    Fourier domain adaptation (Yang & Soatto, arXiv 2004.05498): phases, where the structure is, stay. It takes rendered
    and real frames towards each other. RGB uint8 [H, W, 3] both; `other` may be of another size.
    """
    periods = int(rng.integers(1, 3))
    height, width = image.shape[:2]
    other = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    spectrum, wanted = (np.fft.rfft2(picture.astype(np.float32), axes=(0, 1)) for picture in (image, other))
    for rows in (slice(0, periods + 1), slice(height - periods, height)):
        low = spectrum[rows, : periods + 1]
        low *= np.abs(wanted[rows, : periods + 1]) / np.maximum(np.abs(low), 1e-3)
    styled = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    return np.clip(np.rint(styled), 0, 255).astype(np.uint8)


def blur(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image out of focus (a Gaussian of up to 2 pixels) or, as often, moved along a line of up to 15 pixels."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))  # type: ignore[return-value]
    length, angle = rng.uniform(2.0, 15.0), rng.uniform(0.0, np.pi)
    kernel = np.zeros((17, 17), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    fraction = 1 << 8
    ends = [tuple(int(value) for value in np.round((8 + sign * step) * fraction)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, lineType=cv2.LINE_AA, shift=8)
    return cv2.filter2D(image, -1, kernel / kernel.sum())  # type: ignore[return-value]


def vary_appearance(
    rng: np.random.Generator, image: NDArray[np.uint8], config: AugmentationConfig
) -> NDArray[np.uint8]:
    """Colour, gamma, blur, noise and JPEG artefacts; the geometry stays."""

    def factor(spread: float) -> float:
        return float(rng.uniform(1 - spread, 1 + spread))

    saturation, contrast, brightness = factor(config.colour), factor(config.colour), factor(config.colour)
    gamma = float(np.exp(rng.uniform(-config.gamma, config.gamma)))
    levels = (np.arange(256) / 255.0) ** gamma
    levels = (levels - 0.5) * contrast + 0.5
    tint = rng.uniform(1 - config.tint, 1 + config.tint, 3)
    table = np.clip(levels[:, None] * brightness * tint * 255, 0, 255).astype(np.uint8)
    image = cv2.LUT(np.ascontiguousarray(image), table[None])  # type: ignore[assignment]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)  # type: ignore[assignment]
    if rng.random() < config.blur:
        image = blur(rng, image)
    if rng.random() < config.noise:
        image = cv2.add(image, grain(rng, image.shape, rng.uniform(2, 10)), dtype=cv2.CV_8U)  # type: ignore[assignment]
    if rng.random() < config.jpeg:
        quality = int(rng.integers(30, 85))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return image
