"""Weather painted over clear pictures: fog by depth, rain, and night. Geometry, depth and sky stay as they are.

Rendered streets have their own weather; this is for the real frames, which were all taken on dry days.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_SKY_DISTANCE = 300.0  # metres: fog hides the sky as it hides what is this far away
_DARK = 60.0  # mean grey level
_FILL = 31  # pixels: how far depth is carried into pixels that have none


def add_fog(
    rng: np.random.Generator, image: NDArray[np.uint8], depth: NDArray[np.float32], sky: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Homogeneous fog of 50 to 400 m visibility: I exp(-b z) + A (1 - exp(-b z)).

    Koschmieder's law with b = 3 / visibility (5 % contrast is left there), as in Foggy Cityscapes (arXiv 1708.07819).

    Args:
        rng: what the fog is drawn from.
        image: RGB uint8 [H, W, 3].
        depth: metres, float32 [H, W], 0 unknown; gaps of a few pixels are filled, larger ones taken for far.
        sky: bool [H, W].
    """
    visibility = np.exp(rng.uniform(np.log(50), np.log(400)))
    air = min(225.0, rng.uniform(1.1, 1.7) * _brightness(image) + 20) * rng.uniform(0.98, 1.02, 3)
    transmission = cv2.exp(_filled(depth, sky) * np.float32(-3 / visibility))
    veil = np.empty_like(image)
    veil[:] = np.round(air)
    weight = cv2.merge([transmission] * 3)
    foggy = cv2.multiply(cv2.subtract(image, veil, dtype=cv2.CV_32F), weight)
    return cv2.add(foggy, veil, dtype=cv2.CV_8U)  # type: ignore[return-value]


def add_rain(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bright streaks that fall one way, and the grey of a rainy day. RGB uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    count = int(rng.uniform(0.3, 1.2) * np.sqrt(height * width))
    slant = rng.normal(0, 0.2)
    length = rng.uniform(0.03, 0.12) * height * rng.uniform(0.5, 1.5, count)
    start = rng.uniform((-0.1 * width, -0.1 * height), (1.1 * width, height), (count, 2))
    ends = start + length[:, None] * np.array([slant, 1.0])
    lines = np.round(np.stack([start, ends], axis=1) * 8).astype(np.int32)  # 3 fractional bits
    streaks = np.zeros((height, width), np.uint8)
    cv2.polylines(streaks, list(lines), False, int(rng.integers(30, 90)), 1, cv2.LINE_AA, 3)
    streaks = cv2.blur(streaks, (1, 3))  # type: ignore[assignment]
    dull = cv2.addWeighted(image, rng.uniform(0.6, 0.9), image, 0, rng.uniform(10, 35))
    return cv2.add(dull, cv2.merge([streaks] * 3))  # type: ignore[return-value]


def darken(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dusk to night: little light, bluish or yellowish, more of it ahead, and a noisy sensor. RGB uint8 [H, W, 3].

    A picture that is dark already only gets the noise.
    """
    height, width = image.shape[:2]
    light = 1.0 if _brightness(image) < _DARK else rng.uniform(0.18, 0.5)
    lamps = rng.uniform(0, 0.5)
    across = (np.arange(width, dtype=np.float32) - width * rng.uniform(0.4, 0.6)) / (0.35 * width)
    down = (np.arange(height, dtype=np.float32) - 0.75 * height) / (0.3 * height)
    gain = np.float32(light) + np.float32(lamps) * np.outer(np.exp(-down * down), np.exp(-across * across))
    warmth = rng.uniform(-0.2, 0.2)
    levels = 255 * (np.arange(256) / 255) ** rng.uniform(1.0, 1.3)
    table = np.clip(levels[:, None] * (1 + warmth, 1, 1 - warmth), 0, 255).astype(np.uint8)
    lit = cv2.multiply(cv2.LUT(np.ascontiguousarray(image), table[None]), cv2.merge([gain] * 3), dtype=cv2.CV_8U)
    noise = grain(rng, image.shape, rng.uniform(1, 6))
    return cv2.add(lit, noise, dtype=cv2.CV_8U)  # type: ignore[return-value]


def grain(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> NDArray[np.int16]:
    """Sensor noise of that standard deviation in grey levels, int16 of `shape`.

    The sum of four random bytes, which is near enough to normal and several times cheaper.
    """
    count = int(np.prod(shape))
    total = np.frombuffer(rng.bytes(4 * count), np.uint8).reshape(4, count).sum(0, dtype=np.int16)
    scale = np.float32(deviation / np.sqrt(4 * (256**2 - 1) / 12))
    noise: NDArray[np.int16] = np.rint((total - np.float32(510)) * scale).astype(np.int16)
    return noise.reshape(shape)


def _filled(depth: NDArray[np.float32], sky: NDArray[np.bool_]) -> NDArray[np.float32]:
    distance = np.where(sky, np.float32(_SKY_DISTANCE), depth)
    known = (distance > 0).astype(np.float32)
    near = cv2.blur(known, (_FILL, _FILL))
    mean = cv2.blur(distance, (_FILL, _FILL)) / np.maximum(near, np.float32(1e-6))
    around = np.where(near > 0.5 / _FILL**2, mean, np.float32(_SKY_DISTANCE))
    return np.where(known > 0, distance, around).astype(np.float32, copy=False)


def _brightness(image: NDArray[np.uint8]) -> float:
    return float(image[::8, ::8].mean())
