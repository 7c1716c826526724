"""The GPU engine: TensorRT on robots, TensorRT for RTX on RTX cards."""

from __future__ import annotations

import collections
import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines.cache import CachedEngine, EngineCache, EngineKey, kernel_cache_path, write_atomically
from sem_depth_node.engines.cuda import Cuda
from sem_depth_node.engines.engine import EngineError, EngineOutput, check_image
from sem_depth_node.engines.tensorrt_build import RECIPE, BuildOptions, BuildRequest, build_engine, unbuildable
from sem_depth_node.engines.tensorrt_library import TensorRtLibrary
from sem_depth_node.engines.watch import BuildWatch, Log

# The first run loads and, with TensorRT-RTX, compiles kernels; a graph must not be captured before it.
_WARM_UP_RUNS = 2


class PlanRefused(EngineError):
    """The library does not load a plan that was built for it; building it again may help."""


class TensorRtEngine:
    """Runs one compiled engine on the GPU.

    Every frame takes one road: image -> pinned input -> device -> network -> device -> pinned outputs, all in one
    stream, replayed as one CUDA graph where the engine allows it. The outputs handed out are the pinned buffers.

    Not thread-safe; any one thread at a time may call it.

    Args:
        plan: the serialized engine.
        height, width: the input size in pixels, one that the plan was built for.
        library: the TensorRT library that built it.
        cuda: the CUDA runtime.
        log: told why no CUDA graph is used, when none is.
        kernel_cache: where TensorRT-RTX keeps the kernels it compiles for this GPU; None compiles them at each start.
        use_graph: replay a CUDA graph instead of launching layer by layer.

    Raises:
        PlanRefused: the library does not load the plan: another version, another GPU, or damage.
        EngineError: the plan's inputs and outputs are not those of the bundle contract, or the GPU is out of memory.
    """

    concurrent = False
    name = "tensorrt"
    opens_quickly = False

    def __init__(
        self,
        plan: memoryview,
        height: int,
        width: int,
        *,
        library: TensorRtLibrary,
        cuda: Cuda,
        log: Log,
        kernel_cache: Path | None = None,
        use_graph: bool = True,
    ) -> None:
        self.height, self.width = height, width
        self._cuda = cuda
        self._log = log
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._kernels: Any = None  # what TensorRT-RTX has compiled
        self._kernels_loaded = b""
        self._graph: Any = None
        gpu = cuda.gpu()
        self.description = f"{library.name} {library.version} on {gpu.name}, {width}x{height}"
        # Unwound from the last to the first, also when one of the steps below fails.
        with contextlib.ExitStack() as resources:
            self._stream = cuda.create_stream()
            resources.callback(cuda.destroy_stream, self._stream)
            self._done = cuda.create_event()
            resources.callback(cuda.destroy_event, self._done)
            self._host: dict[str, NDArray[Any]] = {}
            self._device: dict[str, int] = {}
            for name, (dtype, shape) in _tensors(height, width).items():
                self._host[name] = cuda.allocate_pinned(shape, dtype)
                resources.callback(cuda.free_pinned, self._host[name])
                self._device[name] = cuda.allocate(self._host[name].nbytes)
                resources.callback(cuda.free, self._device[name])
            resources.callback(self._release_engine)
            self._load(library, plan, kernel_cache)
            self._bind(library.trt)
            for _ in range(_WARM_UP_RUNS):
                self._run()
            if kernel_cache is not None:
                self._save_kernels(kernel_cache)
            if use_graph:
                self._graph = self._capture(resources)
                self._run()
            if self._graph is not None:
                self.description += ", CUDA graph"
            self._resources = resources.pop_all()
        self._output = EngineOutput(self._host["depth"][0], self._host["log_scale"][0])
        self._closed = False

    @property
    def device_memory(self) -> int:
        """Bytes of GPU memory for what flows between the layers; weights and kernels come on top."""
        return int(self._engine.device_memory_size_v2)

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network; see `DepthEngine.infer`. The output must not be touched after `close`."""
        check_image(image, self.height, self.width)
        if self._closed:
            raise EngineError("the TensorRT engine is closed")
        np.copyto(self._host["image"][0], image)
        self._run()
        return self._output

    def close(self) -> None:
        """Give back everything on the GPU and all pinned memory."""
        self._closed = True
        try:
            self._resources.close()
        except EngineError as error:  # the device is lost, and all that was on it
            self._log.warning(f"closing the engine: {error}")

    def _load(self, library: TensorRtLibrary, plan: memoryview, kernel_cache: Path | None) -> None:
        said: collections.deque[str] = collections.deque(maxlen=10)
        self._said = said
        self._logger = library.logger(lambda severity, message: said.append(f"{severity}: {message}"))
        self._runtime = library.trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanRefused(f"{library.name} {library.version} does not load the engine: {'; '.join(said)}")
        if library.name == "tensorrt_rtx":
            settings = self._engine.create_runtime_config()
            # An engine here runs at one size. Kernels for just that size are compiled in the first run, not beside the
            # later ones, which would replay a graph of kernels for any size.
            settings.dynamic_shapes_kernel_specialization_strategy = (
                library.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self._kernels = settings.create_runtime_cache()
            if kernel_cache is not None:
                self._load_kernels(kernel_cache)
            settings.set_runtime_cache(self._kernels)
            self._context = self._engine.create_execution_context(settings)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{library.name} {library.version} cannot set the engine up: {'; '.join(said)}")

    def _bind(self, trt: Any) -> None:
        """Check the plan against the bundle contract and tell the context where its tensors are."""
        engine, context = self._engine, self._context
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if "image" in names and -1 in tuple(engine.get_tensor_shape("image")):
            context.set_input_shape("image", self._host["image"].shape)  # refused: the shapes below tell
        found = {
            name: (np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name, tuple(context.get_tensor_shape(name)))
            for name in names
        }
        expected = {name: (array.dtype.name, array.shape) for name, array in self._host.items()}
        if found != expected:
            raise EngineError(f"the engine's inputs and outputs are {found}, expected {expected}; build it again")
        for name, address in self._device.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT does not take the memory for {name}: {'; '.join(self._said)}")

    def _run(self) -> None:
        try:
            if self._graph is not None:
                self._cuda.launch_graph(self._graph, self._stream)
            else:
                self._enqueue()
            self._cuda.record_and_wait(self._done, self._stream)
        except EngineError:
            # What did get into the stream must be over before its buffers are filled again or freed. If the device is
            # lost this fails as well, and the first error is the one to tell.
            with contextlib.suppress(EngineError):
                self._cuda.drain(self._stream)
            raise

    def _enqueue(self) -> None:
        self._cuda.copy_to_device(self._device["image"], self._host["image"], self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f"TensorRT failed on an image: {'; '.join(self._said)}")
        for name in ("depth", "log_scale"):
            self._cuda.copy_to_host(self._host[name], self._device[name], self._stream)

    def _capture(self, resources: contextlib.ExitStack) -> Any:
        """The work of one frame as a launchable graph, or None (with a warning) if it cannot be captured."""
        try:
            graph = self._cuda.capture(self._stream, self._enqueue)
        except EngineError as error:
            self._log.warning(f"no CUDA graph, layers are launched one by one: {error}")
            return None
        resources.callback(self._cuda.destroy_graph, graph)
        return graph

    def _load_kernels(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.warning(f"cannot read compiled kernels {path}, they are compiled again: {error}")
            return
        # Refused when they are of another driver, GPU or version, or damaged; the kernels are then compiled again.
        if self._kernels.deserialize(content):
            self._kernels_loaded = content

    def _save_kernels(self, path: Path) -> None:
        if self._kernels is None:
            return
        kernels = bytes(self._kernels.serialize())
        if kernels == self._kernels_loaded:
            return
        try:
            write_atomically(path, kernels)
        except OSError as error:
            self._log.warning(f"cannot keep compiled kernels in {path}, they are compiled at each start: {error}")

    def _release_engine(self) -> None:
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._context = None
        self._kernels = None
        self._engine = None
        self._runtime = None


def _tensors(height: int, width: int) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    return {
        "image": (np.uint8, (1, height, width, 3)),
        "depth": (np.float32, (1, height, width)),
        "log_scale": (np.float32, (1, height, width)),
    }


@dataclass(frozen=True)
class Target:
    """The GPU an engine is built for; `gpu_name` is empty where the engine serves every GPU of that capability."""

    compute_capability: str
    gpu_name: str


def choose_target(library: TensorRtLibrary, compute_capability: str | None = None, cuda: Cuda | None = None) -> Target:
    """The GPU to build for: this machine's, or with TensorRT-RTX the one asked for.

    Args:
        library: the library that will build.
        compute_capability: such as "8.9"; None takes this machine's GPU.
        cuda: the CUDA runtime; None loads it if this machine's GPU matters.

    Raises:
        EngineError: there is no GPU here and the library or the caller needs one, or the library does not build for it.
    """
    if library.builds_without_gpu:
        if compute_capability is None:
            compute_capability = (cuda or Cuda()).gpu().compute_capability
        if compute_capability not in library.buildable_capabilities():
            raise EngineError(unbuildable(library, compute_capability))
        return Target(compute_capability, "")
    gpu = (cuda or Cuda()).gpu()
    if compute_capability not in (None, gpu.compute_capability):
        raise EngineError(
            f"{library.name} builds for the GPU it runs on, {gpu.name} of compute capability "
            f"{gpu.compute_capability}, not for {compute_capability}; build on that machine"
        )
    return Target(gpu.compute_capability, gpu.name)


def engine_key(
    bundle: ModelBundle, bundle_input: BundleInput, library: TensorRtLibrary, target: Target, options: BuildOptions
) -> EngineKey:
    """The key under which the engine for one input of a bundle is kept: the same for all sizes of a profile."""
    sizes = bundle_input.profile
    height, width = sizes.opt if sizes else (bundle_input.height, bundle_input.width)
    return EngineKey(
        bundle_name=bundle.manifest.name,
        bundle_digest=bundle.digest,
        onnx=bundle_input.path.name,
        height=height,
        width=width,
        profile=str(sizes or ""),
        precision=bundle.manifest.precision,
        library=library.name,
        library_version=library.version,
        compute_capability=target.compute_capability,
        gpu_name=target.gpu_name,
        options=asdict(options),
        recipe=RECIPE,
    )


def build_or_find(
    bundle: ModelBundle,
    bundle_input: BundleInput,
    library: TensorRtLibrary,
    target: Target,
    cache: EngineCache,
    watch: BuildWatch,
    options: BuildOptions,
) -> CachedEngine:
    """The compiled engine for one input of a bundle, from the cache or built into it.

    Raises:
        BuildCancelled: `watch` was cancelled.
        EngineError: see `build_engine` and `EngineCache.get`.
    """
    gpu = "".join(c if c.isalnum() else "_" for c in target.gpu_name)
    key, sizes = engine_key(bundle, bundle_input, library, target, options), bundle_input.profile
    request = BuildRequest(
        onnx=str(bundle_input.path),
        height=key.height,
        width=key.width,
        profile=(sizes.min, sizes.max) if sizes else None,
        library=library.name,
        compute_capability=target.compute_capability,
        options=options,
        timing_cache=str(cache.folder / f"{library.name}-{library.version}-{gpu}.timings"),
    )
    return cache.get(
        key,
        lambda plan: asdict(build_engine(request, plan, watch)),
        watch,
    )


def open_engine(
    bundle: ModelBundle,
    bundle_input: BundleInput,
    cache: EngineCache,
    watch: BuildWatch,
    options: BuildOptions,
    *,
    library: TensorRtLibrary | None = None,
    cuda: Cuda | None = None,
) -> TensorRtEngine:
    """The running engine for one input of a bundle on this machine's GPU, built if it is not in the cache.

    Raises:
        LibraryMissing: no TensorRT library is installed.
        BuildCancelled: `watch` was cancelled.
        EngineError: no driver or GPU, a failed build, an unwritable cache, or too little GPU memory.
    """
    library = library or TensorRtLibrary.find()
    cuda = cuda or Cuda()
    target = choose_target(library, cuda=cuda)

    def load() -> TensorRtEngine:
        cached = build_or_find(bundle, bundle_input, library, target, cache, watch, options)
        opened = TensorRtEngine(
            cached.plan,
            bundle_input.height,
            bundle_input.width,
            library=library,
            cuda=cuda,
            log=watch.log,
            kernel_cache=kernel_cache_path(cached.path),
        )
        memory = (opened.device_memory + len(cached.plan)) / 2**20
        watch.log.info(f"{opened.description}: about {memory:.0f} MiB of GPU memory, from {cached.path}")
        return opened

    try:
        return load()
    except PlanRefused as error:
        watch.log.warning(f"{error}; the engine is built again")
        cache.discard(engine_key(bundle, bundle_input, library, target, options))
        return load()
