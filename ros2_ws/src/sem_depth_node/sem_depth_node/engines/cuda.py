"""The few CUDA runtime calls that running an engine takes, checked and typed.

NVIDIA's bindings return `(status, value...)`. Here a status other than success is an EngineError with the call, CUDA's
name for the error and its explanation. All calls go to device 0; CUDA_VISIBLE_DEVICES chooses which GPU that is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sem_depth_node.engines.engine import EngineError


@dataclass(frozen=True)
class Gpu:
    """A GPU as an engine sees it: compute capability such as "8.7", the marketing name, memory in bytes."""

    name: str
    compute_capability: str
    memory: int


class Cuda:
    """The CUDA runtime.

    Args:
        runtime: the module to call; None imports `cuda.bindings.runtime`.

    Raises:
        EngineError: the bindings are not installed.
    """

    def __init__(self, runtime: Any = None) -> None:
        if runtime is None:
            try:
                runtime = importlib.import_module("cuda.bindings.runtime")
            except ImportError as error:
                raise EngineError(
                    f"the CUDA bindings do not import ({error}); install them with pip install 'cuda-bindings>=12.9.1'"
                ) from error
        self._runtime = runtime

    def gpu(self) -> Gpu:
        """The GPU that engines run on.

        Raises:
            EngineError: there is no driver or no GPU.
        """
        try:
            properties = self._call("cudaGetDeviceProperties", 0)
        except EngineError as error:
            raise EngineError(f"no usable NVIDIA GPU: {error}; {self._remedy()}") from error
        return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}", properties.totalGlobalMem)

    def create_stream(self) -> Any:
        """A stream that does not wait for the legacy default stream."""
        return self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> Any:
        """An event whose waiters sleep; spinning would cost the robot a CPU core."""
        flags = self._runtime.cudaEventBlockingSync | self._runtime.cudaEventDisableTiming
        return self._call("cudaEventCreateWithFlags", flags)

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def record_and_wait(self, event: Any, stream: Any) -> None:
        """Wait until everything put into `stream` so far is done."""
        self._call("cudaEventRecord", event, stream)
        self._call("cudaEventSynchronize", event)

    def drain(self, stream: Any) -> None:
        """Wait until nothing is left in `stream`."""
        self._call("cudaStreamSynchronize", stream)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of device memory."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array in page-locked host memory, which the GPU copies from and to without a detour.

        It must be given to `free_pinned`, after which the array must not be touched.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaMallocHost", size))
        memory = (ctypes.c_uint8 * size).from_address(address)
        array: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        array.fill(0)
        return array

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Give the memory of an `allocate_pinned` array back."""
        self._call("cudaFreeHost", array.ctypes.data)

    def copy_to_device(self, device: int, host: NDArray[Any], stream: Any) -> None:
        """Put a copy of a pinned array to device memory into `stream`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, stream)

    def copy_to_host(self, host: NDArray[Any], device: int, stream: Any) -> None:
        """Put a copy of device memory to a pinned array into `stream`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, stream)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what `work` puts into `stream`, without doing it, as a launchable graph.

        Raises:
            EngineError: something in `work` failed or cannot be recorded; the stream is usable again.
        """
        # Thread-local: other threads (another engine, another node) may allocate meanwhile.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            with contextlib.ExitStack() as recording:
                try:
                    work()
                finally:  # always, or the stream stays in capture mode
                    graph = self._call("cudaStreamEndCapture", stream)
                    recording.callback(self._call, "cudaGraphDestroy", graph)
                return self._call("cudaGraphInstantiate", graph, 0)
        except EngineError:
            self._runtime.cudaGetLastError()  # or TensorRT's next check would find this error and take it for its own
            raise

    def launch_graph(self, executable: Any, stream: Any) -> None:
        """Put a whole recorded graph into `stream`."""
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: Any) -> None:
        """Give a launchable graph back."""
        self._call("cudaGraphExecDestroy", executable)

    def _remedy(self) -> str:
        """What to do when there is no GPU to be had."""
        driver, bindings = (self._call(name) // 1000 for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion"))
        if driver == 0:
            return "there is no NVIDIA driver here; install one, or start the container with access to the GPU"
        if driver < bindings:
            return (
                f"the driver is of CUDA {driver} and the bindings are of CUDA {bindings}: update the driver, or "
                f"pip install 'cuda-bindings=={driver}.*'"
            )
        return "check with nvidia-smi that the GPU is there, and that CUDA_VISIBLE_DEVICES does not hide it"

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, name)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            _, error = self._runtime.cudaGetErrorName(status)
            _, explanation = self._runtime.cudaGetErrorString(status)
            raise EngineError(f"{name} failed with {error.decode()} ({explanation.decode()})")
        return values[0] if values else None
