"""How depth holds up under corrupted images: RoboDepth's score, and the same for rain and night.

Kong et al., RoboDepth (arXiv 2310.15171): images are resized to the network's input, corrupted there, and predictions
are compared with the ground truth of the clean image. The error is DEE = (AbsRel - delta1 + 1) / 2. A corruption's CE
is its DEE, averaged over the severities, as a share of a baseline's. Its resilience RR is 1 - DEE, averaged likewise,
as a share of 1 - DEE of clean images. mCE and mRR are the means of CE and RR over the 18 corruptions.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.cache import cache_folder
from sem_depth_node.metrics import depth_metrics, evaluation_mask, mean_metrics
from sem_depth_training.corruptions import CORRUPTIONS, OWN, ROBODEPTH, SEVERITIES, corrupt
from sem_depth_training.data.frames import DataError, Frame, evenly, read_index
from sem_depth_training.evaluate import MAX_DEPTH, PROTOCOL, Predict, nothing_to_compare, predictor_of
from sem_depth_training.floor import direction_floor
from sem_depth_training.frost_pictures import frost_pictures
from sem_depth_training.generated_section import write_generated
from sem_depth_training.shortened_list import shortened_list
from sem_depth_training.whole_file import write_whole

CLEAN = "clean"
Image = NDArray[np.uint8]


class RobustnessError(Exception):
    """The measurement cannot go on; the message names the file and says what to do."""


@dataclass(frozen=True)
class Score:
    """Mean over images of AbsRel and delta1 under one corruption and severity."""

    abs_rel: float
    delta1: float

    @property
    def dee(self) -> float:
        """RoboDepth's depth estimation error."""
        return (self.abs_rel - self.delta1 + 1) / 2


@dataclass(frozen=True)
class _Case:
    """An image at the network's input size, its camera, and the measured pixels of the image it was resized from."""

    path: Path
    image: Image
    camera: CameraModel
    mask: NDArray[np.bool_]
    truth: NDArray[np.float32]


Scores = dict[str, dict[int, Score]]


@dataclass(frozen=True)
class Measurement:
    """What is measured on what: a bundle's folder or a checkpoint, frames of an index, (height, width) of the images.

    `frames` takes so many of the split's frames, evenly chosen; 0 takes all.
    """

    model: Path
    index: Path
    split: str
    size: tuple[int, int]
    frames: int = 0

    def read_frames(self) -> list[Frame]:
        """The frames. Raises DataError."""
        return evenly(read_index(self.index, self.split), self.frames)

    def run(self, count: int) -> dict[str, Any]:
        """What identifies the results over `count` frames; results of another run must not be mixed in."""
        digest = (
            ModelBundle.load(self.model).digest
            if self.model.is_dir()
            else hashlib.sha256(self.model.read_bytes()).hexdigest()
        )
        height, width = self.size
        return {
            "model": self.model.name,
            "digest": digest,
            "data": f"{self.index.parent.name}/{self.split}",
            "frames": count,
            "protocol": f"images resized to {width}x{height}, then corrupted; {PROTOCOL}",
        }


@dataclass(frozen=True)
class Robustness:
    """Scores by corruption and severity (CLEAN has severity 0), and those of the baseline, and what was measured."""

    run: Mapping[str, Any]
    scores: Scores
    baseline_name: str
    baseline: Scores

    def dee(self, name: str) -> float:
        """Mean over severities."""
        return _mean_dee(self.scores[name])

    def corruption_error(self, name: str) -> float:
        """Percent of the baseline's error."""
        return 100 * self.dee(name) / _mean_dee(self.baseline[name])

    def resilience(self, name: str) -> float:
        """Percent of what is right on clean images."""
        return 100 * (1 - self.dee(name)) / (1 - self.dee(CLEAN))

    @property
    def measured(self) -> list[str]:
        """The corruptions, in the order of CORRUPTIONS."""
        return [name for name in CORRUPTIONS if name in self.scores]

    def mean(self, value: Callable[[str], float]) -> float:
        """Mean over RoboDepth's corruptions of `corruption_error` (mCE) or `resilience` (mRR)."""
        return float(np.mean([value(name) for name in self.measured if name not in OWN]))


def run(
    measurement: Measurement,
    names: Sequence[str],
    json_file: Path,
    markdown_file: Path | None,
    baseline: Path | str,
    console: Console,
) -> Robustness:
    """Measure, or go on measuring, and print.

    Args:
        measurement: what is measured.
        names: corruptions.
        json_file: gets the results, after every level; levels in it already are not measured again.
        markdown_file: gets the table.
        baseline: results of another model on the same frames, or the split whose floor is the baseline.
        console: to print on.

    Raises:
        RobustnessError: a file is of another measurement, lacks a level of the baseline, or cannot be written.
        BundleError, TrainingError, DataError, FrostError: what is needed cannot be had.
    """
    frames = measurement.read_frames()
    predict = predictor_of(measurement.model, measurement.size)
    identity = measurement.run(len(frames))
    scores = read_scores(json_file, identity) if json_file.is_file() else {}
    if isinstance(baseline, Path):
        same = {key: identity[key] for key in ("data", "frames", "protocol")}
        baseline_name, reference = f"that in {baseline.name}", _read_baseline(baseline, same, names)
    else:
        floor = direction_floor(read_index(measurement.index, baseline))
        baseline_name = "the floor's (depth by viewing direction alone)"
        reference = constant_scores(floor, frames, measurement.size)
    pictures = frost_pictures(cache_folder() / "frost") if "frost" in names else []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("levels", total=len(levels(names)))

        def done() -> None:
            progress.advance(task)
            write_scores(json_file, identity, scores)

        measure(predict, frames, measurement.size, names, pictures, scores, done)
    result = Robustness(identity, {name: scores[name] for name in (CLEAN, *names)}, baseline_name, reference)
    write_scores(json_file, identity, scores, summary(result))
    print_result(result, console, markdown_file)
    return result


def measure(
    predict: Predict,
    frames: Sequence[Frame],
    size: tuple[int, int],
    names: Sequence[str],
    pictures: Sequence[Image],
    scores: Scores,
    on_level: Callable[[], object] = lambda: None,
) -> None:
    """Add to `scores` what it lacks.

    Args:
        predict: what is measured.
        frames: with ground truth.
        size: (height, width) to which images are resized before they are corrupted.
        names: corruptions.
        pictures: of frosted panes, where "frost" is among the names.
        scores: from an earlier, unfinished call; levels in it are not computed again.
        on_level: called after each corruption and severity.
    """
    cases = _cases(frames, size)
    for name, severity in levels(names):
        if severity not in scores.get(name, {}):
            scores.setdefault(name, {})[severity] = _score(predict, cases, name, severity, pictures)
        on_level()


def levels(names: Sequence[str]) -> list[tuple[str, int]]:
    """Clean first, then every severity of every corruption."""
    return [(CLEAN, 0), *((name, severity) for name in names for severity in SEVERITIES)]


def constant_scores(predict: Predict, frames: Sequence[Frame], size: tuple[int, int]) -> Scores:
    """Scores of a predictor that does not look at the image, such as the floor: the same under every corruption."""
    score = _score(predict, _cases(frames, size), CLEAN, 0, ())
    return {CLEAN: {0: score}, **{name: dict.fromkeys(SEVERITIES, score) for name in CORRUPTIONS}}


def write_scores(path: Path, run: Mapping[str, Any], scores: Scores, summary: Mapping[str, Any] | None = None) -> None:
    """Write whole or not at all. Raises RobustnessError when the disk does not take it."""
    content = {
        **run,
        **({"summary": summary} if summary else {}),
        "scores": {
            name: {
                str(severity): {"abs_rel": s.abs_rel, "delta1": s.delta1, "dee": s.dee} for severity, s in row.items()
            }
            for name, row in scores.items()
        },
    }
    try:
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise RobustnessError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another file"
        ) from error


def read_scores(path: Path, run: Mapping[str, Any] | None = None) -> Scores:
    """The scores in a file of `write_scores`.

    Raises RobustnessError when it is none, or was measured otherwise than `run` says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {
            name: {int(severity): Score(s["abs_rel"], s["delta1"]) for severity, s in row.items()}
            for name, row in content["scores"].items()
        }
    except OSError as error:
        raise RobustnessError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RobustnessError(f"{path}: not a result of sem-depth-train robustness ({error!r}); delete it") from error
    differing = [
        f"{key} {content.get(key)!r} for {value!r}" for key, value in (run or {}).items() if content.get(key) != value
    ]
    if differing:
        raise RobustnessError(
            f"{path}: of another measurement: {'; '.join(differing)}; delete it or choose another file"
        )
    return scores


def _read_baseline(path: Path, run: Mapping[str, Any], names: Sequence[str]) -> Scores:
    """The scores of another model. Raises RobustnessError where a level is not among them."""
    scores = read_scores(path, run)
    absent = [f"{name} {level}" for name, level in levels(names) if name != CLEAN and level not in scores.get(name, {})]
    if absent:
        raise RobustnessError(
            f"{path}: has no {shortened_list(absent)}; finish measuring it, or leave these corruptions out"
        )
    return scores


def table(result: Robustness) -> Table:
    """The result for the terminal."""
    header, rows = _rows(result)
    out = Table(
        box=None,
        pad_edge=False,
        title=f"{result.run['model']}\n{describe(result)}\nAbsRel at severity 1 to 5; * not in the mean",
    )
    for place, name in enumerate(header):
        out.add_column(name.removeprefix("AbsRel "), justify="right" if place else "left", no_wrap=True)
    for row in rows:
        out.add_row(*row)
    return out


def markdown(result: Robustness) -> str:
    """The result as a Markdown table, with what was measured above it."""
    header, rows = _rows(result)
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return f"`{result.run['model']}` ({result.run['digest'][:12]}): {describe(result)}\n\n" + "\n".join(lines) + "\n"


def describe(result: Robustness) -> str:
    """Protocol and summary in words."""
    names = [name for name in result.measured if name not in OWN]
    summary = (
        f"mCE {result.mean(result.corruption_error):.1f} % of {result.baseline_name}, "
        f"mRR {result.mean(result.resilience):.1f} %, over {len(names)} corruptions"
        if names
        else "none of RoboDepth's corruptions measured"
    )
    return f"{summary}; {result.run['frames']} frames of {result.run['data']}; {result.run['protocol']}"


def summary(result: Robustness) -> dict[str, Any]:
    """For JSON."""
    each = {
        name: {"dee": result.dee(name), "ce": result.corruption_error(name), "rr": result.resilience(name)}
        for name in result.measured
    }
    names = [name for name in result.measured if name not in OWN]
    return {
        "baseline": result.baseline_name,
        "mce": result.mean(result.corruption_error) if names else None,
        "mrr": result.mean(result.resilience) if names else None,
        "corruptions": each,
    }


def print_result(result: Robustness, console: Console, markdown_file: Path | None) -> None:
    """Print the table; `markdown_file` gets it too."""
    console.print(table(result))
    if markdown_file is not None:
        write_generated(markdown_file, markdown(result))


def _rows(result: Robustness) -> tuple[list[str], list[list[str]]]:
    header = ["corruption", *(f"AbsRel {severity}" for severity in SEVERITIES), "delta1", "DEE", "CE %", "RR %"]
    clean = result.scores[CLEAN][0]
    rows = [[CLEAN, f"{clean.abs_rel:.3f}", *[""] * 4, f"{clean.delta1:.3f}", f"{clean.dee:.3f}", "", ""]]
    for name in result.measured:
        row = result.scores[name]
        delta1 = np.mean([score.delta1 for score in row.values()])
        label = name.replace("_", " ") + (" *" if name in OWN else "")
        errors = [f"{row[severity].abs_rel:.3f}" for severity in SEVERITIES]
        relative = [f"{result.corruption_error(name):.1f}", f"{result.resilience(name):.1f}"]
        rows.append([label, *errors, f"{delta1:.3f}", f"{result.dee(name):.3f}", *relative])
    names = [name for name in result.measured if name in ROBODEPTH]
    if names:
        means = [f"{np.mean([result.scores[name][s].abs_rel for name in names]):.3f}" for s in SEVERITIES]
        dee = float(np.mean([result.dee(name) for name in names]))
        delta1 = np.mean([score.delta1 for name in names for score in result.scores[name].values()])
        ends = [f"{result.mean(result.corruption_error):.1f}", f"{result.mean(result.resilience):.1f}"]
        rows.append([f"mean of {len(names)}", *means, f"{delta1:.3f}", f"{dee:.3f}", *ends])
    return header, rows


def _mean_dee(row: Mapping[int, Score]) -> float:
    return float(np.mean([score.dee for score in row.values()]))


def _cases(frames: Sequence[Frame], size: tuple[int, int]) -> list[_Case]:
    """Of the frames that have depth to compare. Raises DataError where none has."""
    cases = [case for case in (_case(frame, size) for frame in frames) if case.mask.any()]
    if not cases:
        raise DataError(nothing_to_compare(frames))
    return cases


def _case(frame: Frame, size: tuple[int, int]) -> _Case:
    height, width = size
    image = cv2.resize(frame.read_image(), (width, height), interpolation=cv2.INTER_AREA)
    depth = frame.read_depth()
    mask = evaluation_mask(depth)
    return _Case(frame.image, image, frame.camera.resized(width, height), mask, depth[mask])  # type: ignore[arg-type]


def _score(predict: Predict, cases: Sequence[_Case], name: str, severity: int, pictures: Sequence[Image]) -> Score:
    results = []
    for seed, case in enumerate(cases):
        image = case.image if name == CLEAN else corrupt(case.image, name, severity, seed, pictures)
        depth = np.minimum(predict(image, case.camera).depth, MAX_DEPTH)  # beyond range: infinity does not interpolate
        height, width = case.mask.shape
        answer = cv2.resize(depth, (width, height), interpolation=cv2.INTER_LINEAR)[case.mask]
        if np.isnan(answer).all():
            level = name if name == CLEAN else f"{name} {severity}"
            raise RobustnessError(
                f"{case.path} ({level}): the model answers at none of its {answer.size} measured pixels, so there is "
                "nothing to compare; leave the frame out, or measure at a --size whose crop keeps them"
            )
        results.append(depth_metrics(answer, case.truth, np.ones(answer.shape, bool)))  # type: ignore[arg-type]
    means = mean_metrics(results)
    return Score(means["abs_rel"], means["delta1"])
