"""How fast the engine, the estimator and each step of the frame path are on this machine.

Subjects take turns, a few runs each, round after round, so that a machine whose speed drifts slows all of them alike:
compare ratios, taken round by round, before absolute times.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.engine import EngineOutput
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.pointcloud import PointCloudBuilder


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        name: as it appears in the table.
        run: one repetition.
        stage: "engine", "estimator" or "frame path"; ratios are taken against the first subject of the same stage.
    """

    name: str
    run: Callable[[], object]
    stage: str


@dataclass(frozen=True)
class Timing:
    """What was measured of one subject, in milliseconds.

    Attributes:
        p5, median, p95: over all repetitions.
        ratio: median over rounds of this subject's median by the first one's of its stage.
        ratio_low, ratio_high: the smallest and largest of those.
    """

    name: str
    stage: str
    repetitions: int
    p5: float
    median: float
    p95: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    cores: int
    memory_gib: float
    load_before: float
    python: str
    system: str


def time_in_turns(subjects: Sequence[Subject], rounds: int, repetitions: int, warm_up: int = 3) -> list[Timing]:
    """Run each subject `repetitions` times in turn, `rounds` times over.

    Raises:
        ValueError: there is nothing to run.
    """
    if not subjects or rounds < 1 or repetitions < 1:
        raise ValueError(
            f"{len(subjects)} subjects, {rounds} rounds, {repetitions} repetitions: expected one or more of each"
        )
    for subject in subjects:
        for _ in range(warm_up):
            subject.run()
    seconds = np.empty((len(subjects), rounds, repetitions))
    for turn in range(rounds):
        for index, subject in enumerate(subjects):
            for repetition in range(repetitions):
                start = time.perf_counter()
                subject.run()
                seconds[index, turn, repetition] = time.perf_counter() - start
    medians = np.median(seconds, axis=2)
    timings = []
    for index, subject in enumerate(subjects):
        first = next(i for i, other in enumerate(subjects) if other.stage == subject.stage)
        ratios = medians[index] / medians[first]
        p5, median, p95 = np.percentile(seconds[index] * 1e3, [5, 50, 95])
        timings.append(
            Timing(
                subject.name,
                subject.stage,
                rounds * repetitions,
                float(p5),
                float(median),
                float(p95),
                float(np.median(ratios)),
                float(ratios.min()),
                float(ratios.max()),
            )
        )
    return timings


def engine_subjects(estimator: DepthEstimator) -> list[Subject]:
    """Each engine of `estimator` on noise of its input size."""
    random = np.random.default_rng(0)

    def subject(engine_index: int) -> Subject:
        engine = estimator.engines[engine_index]
        image = random.integers(0, 256, (engine.height, engine.width, 3), dtype=np.uint8)
        return Subject(engine.description, lambda: engine.infer(image), "engine")

    return [subject(index) for index in range(len(estimator.engines))]


def onnx_subject(path: Path, threads: int) -> Subject:
    """Any ONNX network with static input shapes, on noise, in ONNX Runtime on the CPU.

    Raises:
        ValueError: the file does not load, or an input has no fixed shape or an element type that noise cannot fill.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    random = np.random.default_rng(0)
    feed: dict[str, NDArray[np.generic]] = {}
    for node in session.get_inputs():
        if not all(isinstance(size, int) for size in node.shape):
            raise ValueError(f"{path}: input {node.name!r} has shape {node.shape}, expected fixed sizes; export it so")
        if node.type == "tensor(float)":
            feed[node.name] = random.random(node.shape, dtype=np.float32)
        elif node.type == "tensor(uint8)":
            feed[node.name] = random.integers(0, 256, node.shape, dtype=np.uint8)
        else:
            raise ValueError(f"{path}: input {node.name!r} is {node.type}, expected tensor(float) or tensor(uint8)")
    return Subject(path.stem, lambda: session.run(None, feed), "engine")


def frame_path_subjects(estimator: DepthEstimator, camera: CameraModel) -> list[Subject]:
    """The whole estimator on an image of `camera`, and each step around the engine alone."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
    path = estimator.path_for(camera)
    output = path.engine.infer(path.framing.to_engine(image))
    # Smooth depth, as a street has; the network's answer to noise may be all edges, which NaN makes cheaper.
    slope = np.linspace(60, 4, path.engine.height, dtype=np.float32)[:, None]
    output = EngineOutput(np.tile(slope, (1, path.engine.width)), output.log_scale.copy())
    estimate = path.to_estimate(output, 0.0)
    builder = PointCloudBuilder(estimate.camera)
    size = f"{camera.width}x{camera.height}"
    return [
        Subject(f"resize to the engine's input, {size}", lambda: path.framing.to_engine(image), "frame path"),
        Subject(f"metres, validity, confidence, {size}", lambda: path.to_estimate(output, 0.0), "frame path"),
        Subject(f"coloured cloud, {size}", lambda: builder.build(estimate.depth, image), "frame path"),
        Subject(f"estimator, {size}", lambda: estimator.estimate(image, camera), "estimator"),
    ]


def this_machine() -> Machine:
    """The machine this process runs on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        processor,
        len(os.sched_getaffinity(0)),
        round(memory, 1),
        round(os.getloadavg()[0], 2),
        platform.python_version(),
        platform.platform(),
    )


def peak_memory_mib() -> float:
    """The largest resident size this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def as_report(timings: Sequence[Timing], machine: Machine, subject: str) -> dict[str, object]:
    """Everything that was measured, as JSON can hold it."""
    return {
        "bundle": subject,
        "machine": asdict(machine),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "unit": "ms",
        "timings": [asdict(timing) for timing in timings],
    }
