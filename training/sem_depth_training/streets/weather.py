"""Light and weather: what the sky is, and what air, lens and sensor do to the rendered radiance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Condition = Literal["sun", "cloudy", "overcast", "rain", "fog", "dusk", "night"]
CONDITIONS: tuple[Condition, ...] = ("sun", "cloudy", "overcast", "rain", "fog", "dusk", "night")
CONDITION_SHARES = (0.32, 0.18, 0.15, 0.11, 0.06, 0.08, 0.10)
FOG_LAYER = 80.0  # metres; above it fog ends, so that the zenith stays brighter than the street


@dataclass(frozen=True)
class Weather:
    """One frame's light and air. Angles in radians, ``visibility`` in metres (Koschmieder, 2 % contrast)."""

    condition: Condition
    sun_elevation: float
    sun_azimuth: float
    clouds: float  # 0 clear .. 1 closed
    visibility: float

    @property
    def night(self) -> bool:
        return self.condition == "night"

    @property
    def headlights(self) -> bool:
        return self.condition in ("night", "dusk", "fog", "rain")

    @property
    def wet(self) -> bool:
        return self.condition == "rain"

    @property
    def grey_sky(self) -> bool:
        """Diffuse light without a sun."""
        return self.condition in ("overcast", "rain", "fog")


def sample_weather(rng: np.random.Generator, condition: Condition | None = None) -> Weather:
    if condition is None:
        condition = CONDITIONS[rng.choice(len(CONDITIONS), p=CONDITION_SHARES)]
    low, high = {"dusk": (2, 8), "cloudy": (20, 60)}.get(condition, (15, 62))
    clouds = {
        "sun": float(rng.choice([0.0, 0.3, 0.45])), "cloudy": rng.uniform(0.55, 0.85),
        "dusk": float(rng.choice([0, 0.3, 0.5])),
    }.get(condition, 1.0)  # fmt: skip
    visibility = {"fog": rng.uniform(55, 260), "rain": rng.uniform(350, 1200)}.get(condition, rng.uniform(4000, 20000))
    return Weather(condition, np.radians(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi), clouds, visibility)


def add_air(radiance: Image, distance: Image, ray_elevation: Image, airlight: Image, visibility: float) -> Image:
    """Mix in scattered light (Koschmieder): L = L0 t + A (1 - t), t = exp(-3.912 d / visibility).

    ``distance`` along the ray in metres, +Inf for sky; ``ray_elevation`` in radians bounds the path through the fog
    layer there. ``airlight`` (3,) is the radiance of the sky at the horizon, so that the air has the sky's own colour.
    """
    through_layer = FOG_LAYER / np.maximum(np.sin(ray_elevation), 1e-3)
    path = np.where(np.isfinite(distance), distance, np.minimum(through_layer, 20 * visibility))
    if visibility > 2000:  # clear air: the sky as rendered already contains it
        path = np.where(np.isfinite(distance), distance, 0.0)
    transmission = np.exp(-3.912 * path / visibility)[..., None]
    return np.asarray(radiance * transmission + airlight * (1 - transmission), np.float32)


def exposure_for(radiance: Image, key: float) -> float:
    """Factor that brings the log-average luminance to ``key``, held back so that highlights do not wash out."""
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    factor = key / float(np.exp(np.mean(np.log(luminance[len(luminance) // 4 :] + 1e-4))))
    return min(factor, 2.6 / max(float(np.percentile(luminance, 97)), 1e-6))


def develop(radiance: Image, exposure: float) -> Image:
    """Linear radiance to display values 0..1 (Narkowicz's ACES curve, then the sRGB gamma, approximately 2.2)."""
    x = np.maximum(radiance, 0) * exposure
    mapped = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    return (mapped ** (1 / 2.2)).astype(np.float32)


def bloom(radiance: Image, amount: float = 0.3) -> Image:
    """Glow of lamps at night."""
    bright = np.maximum(radiance - np.percentile(radiance, 98), 0)
    glow = cv2.GaussianBlur(bright, (0, 0), 3) + 0.5 * cv2.GaussianBlur(bright, (0, 0), 12)
    return np.asarray(radiance + amount * glow, np.float32)


def rain_streaks(image: Image, rng: np.random.Generator) -> Image:
    """Falling drops, and a few on the lens."""
    height, width = image.shape[:2]
    streaks = np.zeros((height, width), np.float32)
    slant = rng.normal(0.05, 0.1)
    for _ in range(width * height // 140):
        x, y, length = rng.uniform(0, width), rng.uniform(-10, height), rng.uniform(3, height / 12)
        end = (int(x + (slant + rng.normal(0, 0.03)) * length), int(y + length))
        cv2.line(streaks, (int(x), int(y)), end, float(rng.uniform(0.1, 0.5)), 1, cv2.LINE_AA)
    alpha = 0.35 * cv2.GaussianBlur(streaks, (0, 0), 0.6)[..., None]
    image = image * (1 - alpha) + 0.85 * alpha
    drops = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(0, 24)):
        cv2.circle(
            drops, (int(rng.integers(width)), int(rng.integers(height))), int(rng.integers(2, 7)), 1.0, -1, cv2.LINE_AA
        )
    mask = 0.8 * cv2.GaussianBlur(drops, (0, 0), 1.0)[..., None]
    return (image * (1 - mask) + cv2.GaussianBlur(image, (0, 0), 4) * mask).astype(np.float32)


def lens_and_sensor(image: Image, rng: np.random.Generator, noise: float) -> npt.NDArray[np.uint8]:
    """Vignette, slight blur, colour fringes, white balance and noise (``noise`` is its deviation at mid grey)."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / width**2
    picture: npt.NDArray[Any] = image * (1 - rng.uniform(0, 0.5) * radius)[..., None] * (1 + rng.normal(0, 0.006, 3))
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8))
    fringe = rng.uniform(-0.0006, 0.0006)  # red and blue scaled apart about the centre
    channels = []
    for channel, scale in enumerate((1 + fringe, 1.0, 1 - fringe)):
        centre = np.array([(1 - scale) * width / 2, (1 - scale) * height / 2])
        warp = np.array([[scale, 0, centre[0]], [0, scale, centre[1]]])
        channels.append(
            cv2.warpAffine(
                picture[..., channel], warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
        )
    picture = np.stack(channels, -1)
    picture = picture + rng.standard_normal(picture.shape) * noise * (0.5 + np.sqrt(np.clip(picture, 0, 1)))
    return np.asarray(np.clip(picture, 0, 1) * 255, np.uint8)
