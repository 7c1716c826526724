"""The whole way of the paper-size network on one machine without a GPU, with random weights.

Export in float32 and in half precision, compare both with torch through ONNX Runtime, compile the half-precision graph
with TensorRT-RTX, and write a report. Every stage runs in a process of its own, so that memory is given back and its
peak is that stage's.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.tensorrt_build import BuildReport, BuildRequest, build_engine
from sem_depth_node.engines.watch import BuildWatch
from sem_depth_training.half_precision import MEDIAN_DIFFERENCE, extreme_frames, to_half_precision

FLOAT32_MAXIMUM = 1e-3  # largest relative difference of depth allowed between torch and the float32 graph

T = TypeVar("T")


class PaperCheckError(Exception):
    """The exported network does not do what torch does."""


@dataclass(frozen=True)
class PaperCheck:
    """What to check: ``shrunken`` takes the test-size network instead of the paper's."""

    size: tuple[int, int]
    seecoder_size: tuple[int, int]
    conditioning: str = "seecoder"
    shrunken: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """How long a stage took, and its process's peak memory."""

    name: str
    seconds: float
    peak_gib: float


@dataclass
class PaperReport:
    """What was measured. Differences are relative differences of depth against torch in float32."""

    check: PaperCheck
    stages: list[Stage] = field(default_factory=list)
    graph_mib: dict[str, float] = field(default_factory=dict)
    float32_maximum: float = float("nan")
    float16_median: float = float("nan")
    float16_maximum: float = float("nan")
    depth_range: tuple[float, float] = (float("nan"), float("nan"))
    onnx_precisions: dict[str, int] = field(default_factory=dict)
    float32_operators: dict[str, int] = field(default_factory=dict)
    build: BuildReport | None = None


def check_paper(
    check: PaperCheck,
    frame: npt.NDArray[np.uint8],
    capability: str,
    folder: Path | None = None,
    progress: Callable[[str], None] = print,
) -> PaperReport:
    """Run every stage on ``frame``, uint8 RGB [H, W, 3] of the check's size.

    ``folder`` keeps graphs and engine; without one they go when the check is done.
    Raises PaperCheckError where a graph's results differ too much or are not finite, EngineError where one does not
    load or compile.
    """
    if frame.shape != (*check.size, 3):
        raise ValueError(f"frame: expected {(*check.size, 3)}, found {frame.shape}")
    with tempfile.TemporaryDirectory(prefix="check-paper-", dir=folder) as temporary:
        place = folder or Path(temporary)
        report = PaperReport(check)

        def stage(name: str, function: Callable[..., T], *arguments: object) -> T:
            progress(name)
            result, taken = _in_own_process(name, function, *arguments)
            report.stages.append(taken)
            return result

        frames = extreme_frames(frame)
        reference = stage("torch, float32", _run_torch, check, frame)
        graphs = stage("export", _export, check, place)
        report.graph_mib = {name: megabytes for name, (_, megabytes) in graphs.items()}
        report.onnx_precisions, report.float32_operators = _count_precisions(graphs["float16"][0])
        report.depth_range = (float(np.min(reference)), float(np.max(reference)))
        (single,) = stage("ONNX Runtime, float32", _run_onnx, graphs["float32"][0], check.size, [frame])
        halves = stage("ONNX Runtime, float16", _run_onnx, graphs["float16"][0], check.size, list(frames.values()))
        report.float32_maximum = float(np.max(_relative(single[0], reference)))
        half = _relative(halves[0][0], reference)
        report.float16_median, report.float16_maximum = float(np.median(half)), float(np.max(half))
        _judge(report, dict(zip(frames, halves, strict=True)))
        progress("TensorRT-RTX build")
        request = BuildRequest(str(graphs["float16"][0]), *check.size, "tensorrt_rtx", capability)
        report.build = build_engine(request, place / "model.engine", BuildWatch())
        report.stages.append(
            Stage("TensorRT-RTX build", report.build.seconds, report.build.peak_host_memory_bytes / 2**30)
        )
        return report


def read_frame(path: Path | None, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The middle bottom of a photograph, uint8 RGB [H, W, 3] (the KITTI benchmark crop), or a drawn road scene.

    Raises PaperCheckError where the photograph does not open or is smaller than ``size`` (height, width).
    """
    height, width = size
    if path is None:
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        texture = np.random.default_rng(0).normal(0, 12, (height, width, 3))
        sky = rows < 0.4 * height
        road = np.abs(columns - width / 2) < (rows / height - 0.4) * width
        colour = np.where(sky[..., None], (150, 180, 220), np.where(road[..., None], (90, 90, 95), (70, 100, 60)))
        return np.clip(colour + texture, 0, 255).astype(np.uint8)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PaperCheckError(f"{path}: not an image that can be read")
    left = (image.shape[1] - width) // 2
    if image.shape[0] < height or left < 0:
        raise PaperCheckError(f"{path}: {image.shape[0]}x{image.shape[1]} pixels, expected at least {height}x{width}")
    return np.ascontiguousarray(image[image.shape[0] - height :, left : left + width, ::-1])


def report_markdown(report: PaperReport, command: str) -> str:
    """The report as a page."""
    check, build = report.check, report.build
    assert build is not None
    height, width = check.size
    lines = [
        "# The paper-size network, checked without a GPU",
        "",
        f"Written by `{command}` ({_machine()}). Weights are random (seed {check.seed}): nothing here says how",
        "good the depth is. Memory is each process's peak.",
        "",
        f"Image {height}x{width}, conditioning `{check.conditioning}`, "
        f"SeeCoder at {check.seecoder_size[0]}x{check.seecoder_size[1]}.",
        "",
        "| stage | seconds | peak memory (GiB) |",
        "| --- | ---: | ---: |",
        *(f"| {stage.name} | {stage.seconds:.1f} | {stage.peak_gib:.2f} |" for stage in report.stages),
        "",
        "| check | found | limit |",
        "| --- | ---: | ---: |",
        f"| float32 graph against torch, largest relative difference of depth | {report.float32_maximum:.1e} "
        f"| {FLOAT32_MAXIMUM:.0e} |",
        f"| float16 graph against torch, median relative difference | {report.float16_median:.1e} "
        f"| {MEDIAN_DIFFERENCE:.0e} |",
        f"| float16 graph against torch, largest relative difference | {report.float16_maximum:.1e} | - |",
        "| values not finite, float16, on the frame, in black and white only, black, and white | 0 | 0 |",
        "",
        f"Depths of the frame span {report.depth_range[0]:.2f} to {report.depth_range[1]:.2f} canonical metres.",
        "",
        "| file | MiB |",
        "| --- | ---: |",
        *(f"| {name} graph with weights | {size:.0f} |" for name, size in report.graph_mib.items()),
        f"| TensorRT-RTX engine, compute capability {build.compute_capability} | {build.engine_bytes / 2**20:.0f} |",
        "",
        f"Engine: {build.library} {build.library_version}. "
        f"Layers that compute, by precision: {_counts(_precisions(build))}.",
        "",
        f"Operators of the half-precision graph by precision: {_counts(report.onnx_precisions)}. In float32 are "
        f"{_counts(report.float32_operators)}.",
        "",
        "TensorRT's warnings: " + ("none." if not build.warnings else ""),
        *(f"- {warning}" for warning in build.warnings),
        "",
    ]
    return "\n".join(lines)


def _judge(report: PaperReport, halves: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> None:
    for name, outputs in halves.items():
        if not all(np.isfinite(output).all() for output in outputs):
            raise PaperCheckError(f"the float16 graph gives values that are not finite on: {name}")
    if not report.float32_maximum <= FLOAT32_MAXIMUM:
        raise PaperCheckError(
            f"the float32 graph differs from torch by up to {report.float32_maximum:.1e}, "
            f"expected {FLOAT32_MAXIMUM:.0e}"
        )
    if not report.float16_median <= MEDIAN_DIFFERENCE:
        raise PaperCheckError(
            f"the float16 graph differs from torch by {report.float16_median:.1e} in the median, "
            f"expected {MEDIAN_DIFFERENCE:.0e}"
        )


def _build(check: PaperCheck):  # type: ignore[no-untyped-def]
    import torch

    from sem_depth_training.models.paper import PAPER, SHRUNKEN, paper_network

    torch.manual_seed(check.seed)
    network = paper_network(
        check.conditioning,  # type: ignore[arg-type]
        seecoder_size=check.seecoder_size,
        shape=SHRUNKEN if check.shrunken else PAPER,
    ).eval()
    # As initialised, the head answers nearly the same everywhere: nothing a comparison could tell apart.
    torch.nn.init.normal_(network.decoder.get_parameter("head.weight"), std=1.0)
    return network.requires_grad_(False)


def _run_torch(check: PaperCheck, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import torch

    with torch.no_grad():
        depth, _log_scale = _build(check)(torch.from_numpy(frame)[None])
    return np.asarray(depth[0].numpy(), np.float32)


def _export(check: PaperCheck, folder: Path) -> dict[str, tuple[Path, float]]:
    """Write both graphs; their paths and sizes in MiB, weights included."""
    from sem_depth_training.onnx_graph import export_graph, save_graph, seecoder_scopes

    network = _build(check)
    graph = export_graph(network, check.size)
    written = {}
    for precision in ("float32", "float16"):
        if precision == "float16":
            to_half_precision(graph, seecoder_scopes(network))
        path = folder / f"{precision}.onnx"
        weights = folder / f"{precision}.bin"
        save_graph(graph, path, weights.name)
        written[precision] = (path, (path.stat().st_size + weights.stat().st_size) / 2**20)
    return written


def _run_onnx(
    path: Path, size: tuple[int, int], frames: list[npt.NDArray[np.uint8]]
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Depth and log scale of each frame, through the engine the node uses."""
    engine = OnnxRuntimeEngine(BundleInput(path, *size))
    results = []
    for frame in frames:
        output = engine.infer(frame)
        results.append((output.depth.copy(), output.log_scale.copy()))
    return results


def _relative(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.abs(found / expected - 1.0), np.float32)


def _count_precisions(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Floating-point operators of a graph by precision, and those in float32 by name; casts left out."""
    import onnx_ir

    precisions: Counter[str] = Counter()
    float32: Counter[str] = Counter()
    for node in onnx_ir.load(path).graph:
        dtype = node.outputs[0].dtype
        if node.op_type != "Cast" and dtype in (onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16):
            precisions[dtype.name.lower()] += 1
            if dtype == onnx_ir.DataType.FLOAT:
                float32[node.op_type] += 1
    return dict(precisions.most_common()), dict(float32.most_common())


def _precisions(build: BuildReport) -> dict[str, int]:
    return {name.lower(): count for name, count in build.layers_by_precision().items()}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} CPU cores, {memory:.0f} GiB, Python {platform.python_version()}"


def _in_own_process(name: str, function: Callable[..., T], *arguments: object) -> tuple[T, Stage]:
    started = time.monotonic()
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result, peak = pool.submit(_with_peak, function, arguments).result()
    return result, Stage(name, time.monotonic() - started, peak)


def _with_peak(function: Callable[..., T], arguments: tuple[object, ...]) -> tuple[T, float]:
    result = function(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
