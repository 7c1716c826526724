"""Corrupted images: the 18 corruptions of RoboDepth, and rain and night, in five severities each.

RoboDepth (Kong et al., arXiv 2310.15171) takes fifteen from ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261) as
the package imagecorruptions has them (Michaelis et al., arXiv 1907.07484) and adds dark, colour quantisation and ISO
noise. The formulas and parameters here are theirs. The package itself is not used: it pulls in a second OpenCV and its
last release fails with NumPy 2. Rain and night are this project's own and simple: they know nothing of the scene's
depth.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import cast

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Grey = NDArray[np.float32]
Corruption = Callable[[Grey, int, np.random.Generator], Grey]

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(image: Image, name: str, severity: int, seed: int, frost_pictures: Sequence[Image] | None = None) -> Image:
    """A corrupted copy of RGB uint8 [H, W, 3]; the same arguments give the same pixels.

    Args:
        image: at the size the network sees, as RoboDepth corrupts them: blur radii and grains are in pixels.
        name: of CORRUPTIONS.
        severity: 1 to 5.
        seed: another one for each image.
        frost_pictures: RGB pictures of frosted panes, needed by "frost" only.

    Raises:
        ValueError: no such corruption or severity, or "frost" without pictures.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(f"{name!r} of severity {severity}: expected 1 to 5 of {', '.join(CORRUPTIONS)}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity])
    if name == "frost":
        if not frost_pictures:
            raise ValueError("frost needs pictures of frosted panes")
        return _frost(image, severity, rng, frost_pictures)
    corrupted = _BY_FORMULA[name](image.astype(np.float32) / np.float32(255), severity, rng)
    return cast(Image, (np.clip(corrupted, 0, 1) * np.float32(255.001)).astype(np.uint8))


def _brightness(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 0, 1)
    return cast(Grey, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _dark(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    ceiling = (0.6, 0.5, 0.4, 0.3, 0.2)[severity - 1]
    low, high = float(np.min(x)), max(float(np.max(x)), 1e-6)
    scaled = ceiling * ((x - low) / max(high - low, 1e-6)) ** 2
    noisy = _photons(scaled, 10 * _PHOTONS[severity - 1], rng)
    return noisy + _normal(x, 0.1 * _NOISE[severity - 1], rng)


def _fog(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    thickness, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width = x.shape[:2]
    plasma = _plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width]
    brightest = float(np.max(x))
    return cast(Grey, (x + thickness * plasma[..., None]) * (brightest / (brightest + thickness)))


def _plasma(size: int, decay: float, rng: np.random.Generator) -> Grey:
    """A diamond-square height map [size, size] in 0..1 that wraps around; `size` is a power of two."""
    heights = np.zeros((size, size), np.float32)
    step, wobble = size, 100.0

    def mean_of_four(total: Grey) -> Grey:
        return cast(Grey, total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape).astype(np.float32))

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = mean_of_four(pairs + np.roll(pairs, -1, 1))
        middles = heights[half::step, half::step]
        heights[::step, half::step] = mean_of_four(middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1))
        heights[half::step, ::step] = mean_of_four(middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0))
        step, wobble = half, wobble / decay
    heights -= np.min(heights)
    return cast(Grey, heights / np.max(heights))


def _frost(image: Image, severity: int, rng: np.random.Generator, pictures: Sequence[Image]) -> Image:
    keep, add = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    picture = pictures[int(rng.integers(len(pictures)))]
    height, width = image.shape[:2]
    scale = 1.1 * max(1.0, height / picture.shape[0], width / picture.shape[1])
    size = int(np.ceil(picture.shape[1] * scale)), int(np.ceil(picture.shape[0] * scale))
    pane = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    y, x = (int(rng.integers(0, free)) for free in (pane.shape[0] - height, pane.shape[1] - width))
    mixed = keep * image.astype(np.float32) + add * pane[y : y + height, x : x + width]
    return cast(Image, np.clip(mixed, 0, 255).astype(np.uint8))


def _snow(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    mean, deviation, zoom, threshold, radius, sigma, mix = (
        (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
    )[severity - 1]
    flakes = _zoomed(rng.normal(mean, deviation, x.shape[:2]).astype(np.float32), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1).astype(np.float32)
    flakes = _motion(flakes, radius, sigma, rng.uniform(-135, -45))[..., None]
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = mix * x + (1 - mix) * np.maximum(x, grey * 1.5 + 0.5)
    return cast(Grey, whitened + flakes + flakes[::-1, ::-1])


def _contrast(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    means = x.mean(axis=(0, 1), keepdims=True)
    return cast(Grey, (x - means) * np.float32((0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]) + means)


def _defocus_blur(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    radius, smooth = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float32)
    size = 3 if radius <= 8 else 5
    return cast(Grey, cv2.filter2D(x, -1, cv2.GaussianBlur(disk / disk.sum(), (size, size), smooth)))


def _glass_blur(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    height, width = x.shape[:2]
    source = list(range(height * width))
    rows, columns = height - 2 * reach, width - 2 * reach
    for _ in range(rounds):
        offsets = rng.integers(-reach, reach, (rows, columns, 2))
        places = (np.arange(height - reach, reach, -1)[:, None] * width + np.arange(width - reach, reach, -1)).ravel()
        others = places + (offsets[..., 0] * width + offsets[..., 1]).ravel()
        # The original means to swap pixels, but swaps views of one array and so copies the neighbour.
        for place, other in zip(places.tolist(), others.tolist(), strict=True):
            source[place] = source[other]
    blurred = np.floor(_blur(x, sigma, 4.0) * 255) / 255
    shuffled = blurred.reshape(-1, 3)[source].reshape(x.shape).astype(np.float32)
    return _blur(shuffled, sigma, 4.0)


def _motion_blur(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return _motion(x, radius, sigma, rng.uniform(-45, 45))


def _motion(x: Grey, radius: int, sigma: float, angle: float) -> Grey:
    """Blur along a trail that fades like half a Gaussian; `angle` in degrees."""
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    kernel = np.zeros((2 * width + 1, 2 * width + 1), np.float32)
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    for place, weight in enumerate(weights):
        kernel[width + int(np.ceil(place * sine - 0.5)), width + int(np.ceil(place * cosine - 0.5))] += weight
    return cast(Grey, cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _zoom_blur(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, end, step)
    total = x.copy()
    for factor in factors:
        total += _zoomed(x, float(factor))
    return total / np.float32(len(factors) + 1)


def _zoomed(x: Grey, factor: float) -> Grey:
    """The middle of `x`, enlarged to its size (bilinear, corners aligned)."""
    rows = []
    for length in x.shape[:2]:
        kept = int(np.ceil(length / factor))
        enlarged = round(kept * factor)
        rows.append(((kept - 1) / max(enlarged - 1, 1), (length - kept) // 2))
    (sy, top), (sx, left) = rows
    warp = np.array([[sx, 0, left], [0, sy, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cast(Grey, cv2.warpAffine(x, warp, x.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _elastic_transform(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
    height, width = x.shape[:2]
    reach = height * 0.005

    def displacement() -> Grey:
        drawn = rng.uniform(-reach, reach, (height, width)).astype(np.float32)
        sigmas = width * 0.01, height * 0.01
        size = tuple(2 * int(3 * sigma + 0.5) + 1 for sigma in sigmas)
        smooth = cv2.GaussianBlur(drawn, size, sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REFLECT)
        return cast(Grey, smooth * np.float32(strength))

    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cast(
        Grey,
        cv2.remap(x, u + displacement(), v + displacement(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
    )


def _color_quant(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    levels = 1 << (6 - severity)  # 5 bits down to 1
    return cast(Grey, np.floor(np.round(x * 255) * levels / 256) * (256 / levels) / 255)


def _gaussian_noise(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    return x + _normal(x, _NOISE[severity - 1], rng)


def _impulse_noise(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    hit = rng.random(x.shape) <= (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    return np.where(hit, (rng.random(x.shape) <= 0.5).astype(np.float32), x)


def _shot_noise(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    return _photons(x, _PHOTONS[severity - 1], rng)


def _iso_noise(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    return _photons(x, 25, rng) + _normal(x, 0.7 * _NOISE[severity - 1], rng)


def _pixelate(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = x.shape[:2]
    picture = PIL.Image.fromarray(np.round(x * 255).astype(np.uint8))
    small = picture.resize((int(width * factor), int(height * factor)), PIL.Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), PIL.Image.Resampling.NEAREST), np.float32) / np.float32(255)


def _jpeg_compression(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    bgr = np.round(x[..., ::-1] * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, (25, 18, 15, 10, 7)[severity - 1]])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.float32)
    return decoded[..., ::-1] / np.float32(255)


def _rain(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    """Grey light, a veil of far drops, streaks of near ones, and drops on the lens."""
    height, width = x.shape[:2]
    strength = severity / 5
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    dull = (1 - 0.5 * strength) * x + 0.5 * strength * grey
    veiled = dull * (1 - 0.45 * strength) + np.float32(0.62) * (0.45 * strength)
    drawn = np.zeros((height, width), np.float32)
    slant = rng.normal(0.1, 0.12)
    for _ in range(int(strength * width * height / 70)):
        u, v, length = rng.uniform(0, width), rng.uniform(-height / 8, height), rng.uniform(4, height / 9)
        end = int(u + (slant + rng.normal(0, 0.03)) * length), int(v + length)
        cv2.line(drawn, (int(u), int(v)), end, float(rng.uniform(0.1, 0.5)), 1, cv2.LINE_AA)
    streaks = cv2.GaussianBlur(drawn, (0, 0), 0.6)[..., None]
    rainy = veiled * (1 - 0.6 * streaks) + 0.9 * 0.6 * streaks
    circles = np.zeros((height, width), np.float32)
    for _ in range(10 * severity):
        place = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(circles, place, int(rng.integers(2, 3 + severity)), 1.0, -1, cv2.LINE_AA)
    drops = 0.85 * cv2.GaussianBlur(circles, (0, 0), 1.0)[..., None]
    # A drop shows the scene upside down and out of focus.
    through = cv2.GaussianBlur(rainy, (0, 0), 5)[::-1] * 0.5 + cv2.GaussianBlur(rainy, (0, 0), 9) * 0.5
    return cast(Grey, rainy * (1 - drops) + through * drops)


def _night(x: Grey, severity: int, rng: np.random.Generator) -> Grey:
    """Little cold light from above, head lamps on the road ahead, glow of what is bright, and a noisy sensor."""
    height, width = x.shape[:2]
    ambient = (0.16, 0.09, 0.05, 0.028, 0.015)[severity - 1]
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = v / height, (u - width / 2) / width
    sky = 1 / (1 + np.exp(-(v - 0.42) * 18))  # the sky by day is bright, by night it is not
    pool = np.exp(-((u / (0.16 + 0.5 * np.clip(v - 0.45, 0, 1))) ** 2) - ((v - 0.68) / 0.17) ** 2)
    linear = x**2.2
    lit = linear * ((ambient * (0.12 + 0.88 * sky))[..., None] * np.array([0.8, 0.9, 1.2], np.float32))
    lit = lit + linear * (0.3 * pool)[..., None] * np.array([1.0, 0.95, 0.8], np.float32)
    lit = lit + 0.25 * cv2.GaussianBlur(np.maximum(lit - np.percentile(lit, 99), 0).astype(np.float32), (0, 0), 8)
    exposed = np.clip(lit * 3.0, 0, 1).astype(np.float32)
    photons = (900, 500, 280, 150, 80)[severity - 1]
    noisy = _photons(exposed, photons, rng) + _normal(x, 0.004 * severity, rng)
    return cast(Grey, np.clip(noisy, 0, 1) ** np.float32(1 / 2.2))


def _photons(x: Grey, count: float, rng: np.random.Generator) -> Grey:
    return cast(Grey, np.clip(rng.poisson(np.maximum(x, 0) * count) / count, 0, 1).astype(np.float32))


def _normal(x: Grey, deviation: float, rng: np.random.Generator) -> Grey:
    return rng.standard_normal(x.shape, dtype=np.float32) * np.float32(deviation)


def _blur(x: Grey, sigma: float, truncate: float) -> Grey:
    size = 2 * int(truncate * sigma + 0.5) + 1
    return cast(Grey, cv2.GaussianBlur(x, (size, size), sigma, borderType=cv2.BORDER_REPLICATE))


_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)
_BY_FORMULA: dict[str, Corruption] = {
    "brightness": _brightness,
    "dark": _dark,
    "fog": _fog,
    "snow": _snow,
    "contrast": _contrast,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "elastic_transform": _elastic_transform,
    "color_quant": _color_quant,
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "shot_noise": _shot_noise,
    "iso_noise": _iso_noise,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
    "rain": _rain,
    "night": _night,
}
OWN = ("rain", "night")
ROBODEPTH = (
    *("brightness", "dark", "fog", "frost", "snow", "contrast"),  # weather and light
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "color_quant"),  # sensor, movement
    *("gaussian_noise", "impulse_noise", "shot_noise", "iso_noise", "pixelate", "jpeg_compression"),  # data, processing
)
CORRUPTIONS = (*ROBODEPTH, *OWN)
