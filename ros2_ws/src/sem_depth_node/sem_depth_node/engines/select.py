"""Choosing the engine that runs a bundle."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from sem_depth_node.bundle import BundleError, BundleInput, ModelBundle
from sem_depth_node.engines.cache import EngineCache, cache_folder
from sem_depth_node.engines.deferred import DeferredEngine
from sem_depth_node.engines.engine import DepthEngine, EngineError
from sem_depth_node.engines.tensorrt import open_engine
from sem_depth_node.engines.tensorrt_build import BuildOptions
from sem_depth_node.engines.tensorrt_library import LibraryMissing
from sem_depth_node.engines.watch import BuildCancelled, BuildWatch, Log, ProgressCallback

EngineName = Literal["auto", "tensorrt", "openvino", "onnxruntime"]


def create_engine(
    bundle: ModelBundle,
    bundle_input: BundleInput,
    engine: str = "auto",
    *,
    cache_dir: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    logger: Log | None = None,
    threads: int = 0,
    cancelled: threading.Event | None = None,
    options: BuildOptions | None = None,
) -> DepthEngine:
    """An engine that is ready to run `bundle_input`. May take minutes: a TensorRT engine is built if none is cached.

    Args:
        bundle: the model.
        bundle_input: one of `bundle.inputs`.
        engine: "tensorrt", "openvino" or "onnxruntime" is had or an error says why not; "auto" takes the first of these
            that works and logs why it is not an earlier one.
        cache_dir: where compiled engines are kept; see `cache_folder`.
        on_progress: called with phase and fraction while an engine is built, from the calling thread.
        logger: Python's, rclpy's or alike; None is the logger `sem_depth_node.engines`.
        threads: processor threads of OpenVINO or ONNX Runtime; 0 takes one per physical core.
        cancelled: set it from another thread to end a build.
        options: how TensorRT engines are built.

    Raises:
        BuildCancelled: `cancelled` was set.
        EngineError: the engine asked for cannot be had, or with "auto" none can; the message says why and what to do.
    """
    watch = BuildWatch(on_progress, logger, cancelled)

    def tensorrt() -> DepthEngine:
        cache = EngineCache(cache_folder(cache_dir))
        return open_engine(bundle, bundle_input, cache, watch, options or BuildOptions())

    def openvino() -> DepthEngine:
        try:
            from sem_depth_node.engines.openvino import OpenVinoEngine
        except ImportError as error:
            raise LibraryMissing(f"OpenVINO does not import ({error}); pip install openvino") from error
        return OpenVinoEngine(bundle_input, threads)

    def onnxruntime() -> DepthEngine:
        try:
            from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
        except ImportError as error:
            raise LibraryMissing(f"ONNX Runtime does not import ({error}); pip install onnxruntime") from error
        return OnnxRuntimeEngine(bundle_input, threads)

    makers: dict[str, Callable[[], DepthEngine]] = {
        "tensorrt": tensorrt,
        "openvino": openvino,
        "onnxruntime": onnxruntime,
    }
    if engine in makers:
        try:
            return makers[engine]()
        except BuildCancelled:
            raise
        except EngineError as error:
            raise EngineError(
                f"engine {engine} was asked for and cannot be had: {error}; or set engine to auto"
            ) from error
    if engine != "auto":
        raise EngineError(f"engine is {engine!r}, expected one of {', '.join(get_args(EngineName))}")
    reasons = []
    for name, make in makers.items():
        try:
            return make()
        except BuildCancelled:
            raise
        except Exception as error:  # whatever a library's installation brings: the next engine may work
            reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
            reasons.append(f"{name}: {reason}")
            # Without the library nobody expects the engine; with it, something is in the way.
            remark = f"engine auto does not take {name}: {reason}"
            if isinstance(error, LibraryMissing):
                watch.log.info(remark)
            else:
                watch.log.warning(remark)  # apart, because rclpy ties a severity to the line that logs
    raise EngineError(f"no engine works on this machine; {'; '.join(reasons)}")


def open_engines(
    bundle: ModelBundle,
    engine: str = "auto",
    input_size: tuple[int, int] | None = None,
    defer: bool = False,
    **options: Any,
) -> list[DepthEngine]:
    """Engines for the input sizes of a bundle.

    Args:
        bundle: whose network to run.
        engine: "auto", "tensorrt", "openvino" or "onnxruntime".
        input_size: (height, width) of the only input to open, any size that the bundle's graphs take; None opens every
            size that the bundle names.
        defer: open only the first input's engine now, where the others open quickly: each when an image needs it.
        options: passed on to `create_engine`.

    Raises:
        EngineError: an engine cannot be had, or the bundle has no such input size.
    """
    try:
        chosen = bundle.inputs if input_size is None else (bundle.input_of_size(*input_size),)
    except BundleError as error:
        raise EngineError(str(error)) from error
    engines: list[DepthEngine] = []
    try:
        for size in chosen:
            if defer and engines and engines[0].opens_quickly:
                # By name, because "auto" might meanwhile take another, which takes turns or is built for minutes.
                later = {**options, "on_progress": None}
                opening = functools.partial(_open_later, bundle, size, engines[0].name, **later)
                engines.append(DeferredEngine(size, opening, engines[0]))
            else:
                engines.append(create_engine(bundle, size, engine, **options))
    except BaseException:
        for opened in engines:
            opened.close()
        raise
    return engines


def _open_later(bundle: ModelBundle, size: BundleInput, engine: str, **options: Any) -> DepthEngine:
    """An engine for a size that an image needs by now, of the network that the others run and no newer one."""
    try:
        bundle.check_files()
    except BundleError as error:
        raise EngineError(f"{error}; clean up and configure the node again to take another bundle") from error
    return create_engine(bundle, size, engine, **options)
