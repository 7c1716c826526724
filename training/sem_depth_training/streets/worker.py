"""The process that holds Blender: renders what it is told and leaves plain files.

Run as ``python -m sem_depth_training.streets.worker``; the supervisors in :mod:`.render` and :mod:`.drive` start it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from . import lidar, models
from .cycles import CyclesStreet
from .drive import DrivePlan
from .frames import FramePlan, StreetPlan, write_frame
from .road import STYLES
from .street import build_geometry
from .textures import texture_folder
from .views import View
from .weather import add_air, bloom, develop, exposure_for, lens_and_sensor, rain_streaks

# Light paths a pixel; the denoiser does the rest. Frames for training are as good with half of a drive's.
SAMPLES = {"frames": 2, "drive": 4}
GREY_KEY = 0.19  # log-average luminance a picture is exposed to
NIGHT_KEY = 0.07


def render_radiance(
    street: CyclesStreet, view: View, visibility: float, depth: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Linear colour with the air between."""
    rays = view.rays()
    length = np.linalg.norm(rays, axis=-1)
    elevation = np.arcsin((rays @ view.pose[:3, :3].T.astype(np.float32))[..., 2] / length)
    return add_air(street.colour(view), depth * length, elevation, street.airlight, visibility)


def render_frames(street: CyclesStreet, plans: list[FramePlan], out: Path) -> None:
    loaded: StreetPlan | None = None
    for plan in plans:
        if plan.street != loaded:
            layout, loaded = plan.street.layout(), plan.street
            street.load(layout, build_geometry(layout, night=loaded.weather.night), loaded.weather)
        render_frame(street, plan, plan.view(layout), out)
        print(json.dumps({"done": plan.number}), flush=True)


def render_frame(street: CyclesStreet, plan: FramePlan, view: View, out: Path) -> None:
    """One view of the street that is loaded."""
    weather = plan.street.weather
    if weather.night:
        street.shine_ego_headlights(view.pose)
    depth = street.depth(view)
    rng = plan.generator(0x1E45)
    radiance = render_radiance(street, view, weather.visibility, depth)
    if weather.night:
        radiance = bloom(radiance)
    key = (NIGHT_KEY if weather.night else GREY_KEY) * float(np.exp(rng.uniform(-0.25, 0.25)))
    image = develop(radiance, exposure_for(radiance, key))
    if weather.wet:
        image = rain_streaks(image, rng)
    noise = rng.uniform(0.002, 0.010) * (2.5 if weather.night else 1.0)
    write_frame(out, plan, view, lens_and_sensor(image, rng, noise), depth)


def render_drive(street: CyclesStreet, plan: DrivePlan, frames: list[int], out: Path) -> None:
    layout, weather = plan.layout(), plan.weather()
    street.load(layout, build_geometry(layout), weather)
    for frame in frames:
        target = out / f"{frame:04d}.npz"
        if target.exists():
            continue
        street.set_time(frame / plan.rate)
        view = plan.view(layout, frame)
        depth = street.depth(view)
        image = develop(render_radiance(street, view, weather.visibility, depth), plan.exposure)
        pose = plan.base_pose(layout, frame) @ plan.base_from_lidar
        side = np.radians(plan.lidar_half_angle)
        sweeps = [street.lidar(pose, block, side, plan.lidar_columns, plan.lidar_zero) for block in lidar.HDL_64E]
        world = np.concatenate([sweep.points for sweep in sweeps]).astype(np.float64)
        points = (world - pose[:3, 3]) @ pose[:3, :3]
        intensity = np.concatenate([sweep.intensity for sweep in sweeps])
        rng = np.random.default_rng([plan.seed, frame, 0x11DA])
        pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        temporary = target.with_suffix(".tmp.npz")
        np.savez(temporary, image=pixels, points=lidar.measured(points, intensity, rng), depth=depth)
        temporary.replace(target)
        print(json.dumps({"done": frame}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["frames", "drive"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--numbers", required=True, help="frame numbers, comma separated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", choices=STYLES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    numbers = [int(number) for number in options.numbers.split(",")]
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        street = CyclesStreet(
            models.fetch(options.cache),
            texture_folder(options.cache),
            Path(scratch),
            samples=SAMPLES[options.task],
            threads=options.threads,
        )
        if options.task == "drive":
            render_drive(street, replace(DrivePlan(), seed=options.seed), numbers, options.out)
            return
        render_frames(
            street, [FramePlan.sample(options.seed, number, options.style) for number in numbers], options.out
        )


if __name__ == "__main__":
    main()
