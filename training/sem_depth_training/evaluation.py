"""The command `evaluate`: real frames, rendered streets and a drive, to JSON, tables and pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from sem_depth_training.data.frames import Frame, evenly, read_index
from sem_depth_training.evaluate import MAX_DEPTH, Predict, predictor_of, protocol
from sem_depth_training.evaluation_report import Evaluation, evaluate, markdown, print_evaluation, weather_of
from sem_depth_training.flicker import Flicker, log_error
from sem_depth_training.floor import direction_floor
from sem_depth_training.generated_section import write_generated
from sem_depth_training.whole_file import write_whole

_SHOWN = 3  # best and worst frames, each


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, as the command's options name it."""

    model: Path
    index: Path
    split: str
    floor_split: str | None
    streets: Path | None
    streets_split: str
    drive: Path | None
    size: tuple[int, int]
    crop: str
    flip: bool
    windows: int
    frames: int
    engine: str = "onnxruntime"


def run(
    request: EvaluationRequest, console: Console, json_file: Path | None, markdown_file: Path | None, plots: Path | None
) -> None:
    """Evaluate and print; write what is asked for.

    Raises:
        DataError, BundleError, TrainingError, BagError: what is needed cannot be read.
    """
    for folder in (plots, *(file.parent for file in (json_file, markdown_file) if file is not None)):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # an impossible one fails now, not after the work
    predict = predictor_of(
        request.model, request.size, flip=request.flip, windows=request.windows, engine=request.engine
    )
    how = protocol(request.crop, request.flip, request.windows)
    sets: dict[str, tuple[Sequence[Frame], str, str]] = {
        _name(request.index, request.split): (read_index(request.index, request.split), request.crop, how)
    }
    if request.streets is not None:
        # The crops are made for KITTI's LiDAR; rendered depth is known everywhere.
        everywhere = protocol("none", request.flip, request.windows)
        rendered = read_index(request.streets, request.streets_split)
        name = _name(request.streets, request.streets_split)
        sets[f"{name}_no_crop" if name in sets else name] = (rendered, "none", everywhere)
    floor = direction_floor(read_index(request.index, request.floor_split)) if request.floor_split else None
    results: dict[str, Evaluation] = {}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        for name, (whole, crop, words) in sets.items():
            frames = evenly(whole, request.frames)
            task = progress.add_task(name, total=len(frames))
            advance = partial(progress.advance, task)
            thinned = len(frames) < len(whole)
            results[name] = evaluate(predict, frames, words, crop, floor, advance, thinned=thinned)
    contents = {name: result.as_json() for name, result in results.items()}
    for name, content in contents.items():
        print_evaluation(f"{request.model.name} on {name}", content, console)
    engine = request.engine if request.model.is_dir() else "torch"
    report: dict[str, Any] = {"model": str(request.model), "engine": engine, "sets": contents}
    if request.drive is not None:
        report["drive"] = {"bag": request.drive.name, "flicker": _drive_flicker(predict, request.drive)}
        console.print(_drive_words(report["drive"]), markup=False, highlight=False)
    if json_file is not None:
        write_whole(json_file, json.dumps(report, indent=1) + "\n")
    if markdown_file is not None:
        parts = [markdown(f"`{request.model.name}` on {name}", content) for name, content in contents.items()]
        parts += [_drive_words(report["drive"]) + "\n"] if "drive" in report else []
        write_generated(markdown_file, "\n".join(parts))
    if plots is not None:
        _write_plots(plots, request.model.name, predict, results, contents)


def _drive_flicker(predict: Predict, drive: Path) -> dict[str, float | int] | None:
    """Flicker of the only camera of a bag against its LiDAR, every image."""
    from sem_depth_node.bags.evaluate import LidarDepth
    from sem_depth_node.bags.reader import BagError, BagReader
    from sem_depth_node.bags.streams import find_camera, find_lidar
    from sem_depth_node.calibration import CalibrationReader
    from sem_depth_node.image_decoding import ImageDecoder
    from sem_depth_node.stamps import nanoseconds

    flicker = Flicker()
    with BagReader(drive) as bag:
        stream, lidar = find_camera(bag), find_lidar(bag)
        if lidar is None:
            raise BagError(f"{drive}: has no LiDAR to measure flicker by; expected a PointCloud2 topic")
        truth, decoder, calibrations = LidarDepth(bag, lidar), ImageDecoder(), CalibrationReader("here")
        info = bag.first(stream.camera_info)
        errors: list[NDArray[np.float32] | None] = []
        for message in bag.messages([stream.image]):
            image = bag.decode(message)
            rgb = (decoder.decode_compressed if stream.compressed else decoder.decode)(image)
            calibration = calibrations.read(info, rgb.shape[1], rgb.shape[0])
            camera = calibration.camera
            depth = predict(calibration.rectify(rgb), camera).depth
            measured = truth.at(nanoseconds(image.header.stamp), image.header.frame_id, camera)
            if measured is None:
                errors.append(None)
                continue
            known = (measured > 0) & (measured < MAX_DEPTH) & ~np.isnan(depth)
            errors.append(log_error(depth, measured, known, MAX_DEPTH))
        flicker.add(errors)
    return flicker.summary()


def _drive_words(drive: dict[str, Any]) -> str:
    flicker = drive["flicker"]
    if flicker is None:
        return f"{drive['bag']}: no two frames in a row with LiDAR on both"
    return (
        f"{drive['bag']}: flicker over {flicker['pairs']} pairs of frames in a row: {100 * flicker['local']:.1f} % "
        f"local, {100 * flicker['scale']:.1f} % of the whole picture's scale"
    )


def _write_plots(
    folder: Path, model: str, predict: Predict, results: dict[str, Evaluation], contents: dict[str, dict[str, Any]]
) -> None:
    from sem_depth_training.evaluation_plots import plot_conditions, plot_curves, plot_frames

    for name, result in results.items():
        stem = name.replace("/", "_")
        plot_curves(folder / f"{stem}_curves.png", f"{model} on {name}", contents[name])
        ordered = _one_of_each_sequence(_by_error(result))
        count = min(_SHOWN, len(ordered) // 2)
        chosen = [*ordered[:count], *ordered[len(ordered) - count :]] or ordered
        labels = [
            f"{'best' if place < count else 'worst'}\nAbsRel {error:.3f}" for place, (error, _) in enumerate(chosen)
        ]
        frames = [(label, frame) for label, (_, frame) in zip(labels, chosen, strict=True)]
        plot_frames(folder / f"{stem}_frames.jpg", f"{model}: best and worst frames of {name}", predict, frames)
    medians = {weather: found for result in results.values() for weather, found in _median_by_weather(result).items()}
    rendered = [(f"{label}, rendered", medians[label]) for label in ("sun", "rain", "fog", "night") if label in medians]
    if rendered:
        plot_conditions(
            folder / "weather.jpg", f"{model}: the frame of median error in each weather", predict, rendered
        )
        real = [
            ("day, real", found[len(found) // 2][1])
            for result in results.values()
            if (found := _by_error(result)) and weather_of(found[0][1]) is None
        ]
        title = f"{model}: by day, in rain and at night (frames of median error)"
        columns = [*real, *(column for column in rendered if not column[0].startswith("fog"))]
        plot_conditions(folder / "day_rain_night.jpg", title, predict, columns)


def _by_error(result: Evaluation) -> list[tuple[float, Frame]]:
    """Frames from best to worst AbsRel."""
    pairs = [(metrics["abs_rel"], frame) for metrics, frame in zip(result.metrics, result.frames, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0])


def _one_of_each_sequence(ordered: Sequence[tuple[float, Frame]]) -> list[tuple[float, Frame]]:
    """Neighbouring frames look alike: of each sequence the one that comes first."""
    firsts: dict[str, tuple[float, Frame]] = {}
    for error, frame in ordered:
        firsts.setdefault(frame.sequence, (error, frame))
    return list(firsts.values())


def _median_by_weather(result: Evaluation) -> dict[str, Frame]:
    groups: dict[str, list[Frame]] = {}
    for _, frame in _by_error(result):
        if weather := weather_of(frame):
            groups.setdefault(weather, []).append(frame)
    return {weather: frames[len(frames) // 2] for weather, frames in groups.items()}


def _name(index: Path, split: str) -> str:
    return f"{index.parent.name}/{split}"
