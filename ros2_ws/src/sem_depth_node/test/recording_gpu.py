# ruff: noqa: N815 - the names are CUDA's
"""A GPU that is not there: it plays the CUDA runtime and TensorRT, and holds their user to the rules.

Memory is host memory at real addresses. Work put into a stream is done as late as CUDA allows, when an event is waited
for, so whoever reads results too early reads stale ones. Broken rules raise AssertionError: copies from or to memory
that is not allocated, too small, freed or of the wrong kind, freeing twice, freeing what a context still points to.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import runtime as real_cuda

Work = Callable[[], None]


class _Memory:
    def __init__(self, size: int, pinned: bool) -> None:
        self.buffer = (ctypes.c_uint8 * size)()
        self.address = ctypes.addressof(self.buffer)
        self.size = size
        self.pinned = pinned
        self.live = True
        ctypes.memset(self.address, 0xCD, size)


class RecordingCuda:
    """The part of `cuda.bindings.runtime` that engines use.

    Attributes:
        calls: name of every call, in order.
        driver_version: as CUDA writes it, 12060 for 12.6; below the bindings' major version there is no GPU to be had.
        fail_call: index into `calls` of a call that is to fail, or None.
        contexts: TensorRT contexts alive.
    """

    cudaError_t = real_cuda.cudaError_t
    cudaMemcpyKind = real_cuda.cudaMemcpyKind
    cudaStreamCaptureMode = real_cuda.cudaStreamCaptureMode
    cudaStreamNonBlocking = real_cuda.cudaStreamNonBlocking
    cudaEventBlockingSync = real_cuda.cudaEventBlockingSync
    cudaEventDisableTiming = real_cuda.cudaEventDisableTiming
    cudaGetErrorName = staticmethod(real_cuda.cudaGetErrorName)
    cudaGetErrorString = staticmethod(real_cuda.cudaGetErrorString)

    def __init__(self, name: str = "NVIDIA Test", major: int = 8, minor: int = 9) -> None:
        self.calls: list[str] = []
        self.driver_version = 13000
        self.fail_call: int | None = None
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self._properties = SimpleNamespace(name=name.encode(), major=major, minor=minor, totalGlobalMem=8 << 30)
        self._memory: dict[int, _Memory] = {}
        self._handles = itertools.count(1000)
        self._queues: dict[int, list[Work]] = {}  # stream -> work not yet done
        self._captures: dict[int, list[Work]] = {}  # stream -> work recorded so far
        self._graphs: dict[int, list[Work]] = {}
        self._executables: dict[int, list[Work]] = {}
        self._events: dict[int, int | None] = {}  # event -> stream it was recorded in

    def held(self) -> dict[str, int]:
        """What has been made and not given back."""
        kinds = {
            "memory": sum(memory.live for memory in self._memory.values()),
            "streams": len(self._queues),
            "events": len(self._events),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
            "contexts": len(self.contexts),
        }
        return {kind: count for kind, count in kinds.items() if count}

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        assert device == 0
        if self.driver_version < 13000:
            return (self.cudaError_t.cudaErrorInsufficientDriver, None)
        return self._do("cudaGetDeviceProperties", lambda: self._properties)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess, self.driver_version)

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess, 13040)

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self._do("cudaStreamCreateWithFlags", lambda: self._new(self._queues, []))

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        assert not self._queues[stream], "stream destroyed with work in it"
        return self._do("cudaStreamDestroy", lambda: self._drop(self._queues, stream))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._do("cudaStreamSynchronize", lambda: self._finish(stream))

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags & self.cudaEventBlockingSync, "waiting would spin"
        return self._do("cudaEventCreateWithFlags", lambda: self._new(self._events, None))

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._do("cudaEventDestroy", lambda: self._drop(self._events, event))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        assert stream not in self._captures
        return self._do("cudaEventRecord", lambda: self._events.__setitem__(event, stream))

    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        def finish() -> None:
            stream = self._events[event]
            assert stream is not None, "waits for an event that was not recorded"
            self._finish(stream)

        return self._do("cudaEventSynchronize", finish)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._do("cudaMalloc", lambda: self._allocate(size, pinned=False))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._do("cudaMallocHost", lambda: self._allocate(size, pinned=True))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._do("cudaFree", lambda: self._free(address, pinned=False))

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._do("cudaFreeHost", lambda: self._free(address, pinned=True))

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:
        to_device = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert to_device or kind == self.cudaMemcpyKind.cudaMemcpyDeviceToHost

        def copy() -> None:
            self.check_memory(source, size, pinned=to_device)
            self.check_memory(target, size, pinned=not to_device)
            ctypes.memmove(target, source, size)

        name = "copy to device" if to_device else "copy to host"
        return self._do(name, lambda: self.enqueue(stream, copy))

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert not self._queues[stream]
        return self._do("cudaStreamBeginCapture", lambda: self._captures.__setitem__(stream, []))

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded = self._captures.pop(stream)  # a failed capture is over, too
        return self._do("cudaStreamEndCapture", lambda: self._new(self._graphs, recorded))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return self._do("cudaGraphInstantiate", lambda: self._new(self._executables, list(self._graphs[graph])))

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._do("cudaGraphDestroy", lambda: self._drop(self._graphs, graph))

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        return self._do("cudaGraphLaunch", lambda: self._queues[stream].extend(self._executables[executable]))

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        return self._do("cudaGraphExecDestroy", lambda: self._drop(self._executables, executable))

    def enqueue(self, stream: int, work: Work) -> None:
        """Put work into a stream, or into the graph that is being captured from it."""
        self._captures.get(stream, self._queues[stream]).append(work)

    def check_memory(self, address: int, size: int, *, pinned: bool) -> None:
        """Assert that there are `size` live bytes of this kind at `address`."""
        memory = self._memory[address]
        assert memory.live, "memory used after it was freed"
        assert memory.pinned == pinned, "host and device memory mixed up"
        assert size == memory.size, f"{size} bytes copied, {memory.size} allocated"

    def _do(self, name: str, action: Callable[[], Any]) -> tuple[Any, ...]:
        self.calls.append(name)
        if self.fail_call == len(self.calls) - 1:
            return (self.cudaError_t.cudaErrorMemoryAllocation, None)
        value = action()
        return (self.cudaError_t.cudaSuccess,) if value is None else (self.cudaError_t.cudaSuccess, value)

    def _finish(self, stream: int) -> None:
        work, self._queues[stream] = self._queues[stream], []
        for step in work:
            step()

    def _new(self, kind: dict[int, Any], value: Any) -> int:
        handle = next(self._handles)
        kind[handle] = value
        return handle

    @staticmethod
    def _drop(kind: dict[int, Any], handle: int) -> None:
        del kind[handle]  # KeyError: given back twice, or never made

    def _allocate(self, size: int, *, pinned: bool) -> int:
        memory = _Memory(size, pinned)
        self._memory[memory.address] = memory  # kept after freeing, so that the address is not used again
        return memory.address

    def _free(self, address: int, *, pinned: bool) -> None:
        self.check_memory(address, self._memory[address].size, pinned=pinned)
        bound = [context for context in self.contexts if address in context.addresses.values()]
        assert not bound, "device memory freed while a context points to it"
        assert not any(self._queues.values()), "memory freed with work under way"
        self._memory[address].live = False
        ctypes.memset(address, 0xDD, self._memory[address].size)


class RecordingTensorRt:
    """The part of `tensorrt` that running takes. A plan is an ONNX file's content; ONNX Runtime computes it.

    Attributes:
        refuse: how many plans are refused before one is loaded.
        fail_runs: execute_async_v3 reports failure when called this many times from now; None never.
    """

    __version__ = "10.3.0.test"
    nptype = staticmethod(lambda dtype: dtype)

    class ILogger:
        """TensorRT's logger base."""

        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    class DynamicShapesKernelSpecializationStrategy:
        """When TensorRT for RTX compiles kernels for one size."""

        LAZY, EAGER, NONE = 0, 1, 2

    def __init__(self, cuda: RecordingCuda, *, jit: bool = False) -> None:
        self.cuda = cuda
        self.jit = jit
        self.refuse = 0
        self.fail_runs: int | None = None
        self.kernels_loaded: list[bytes] = []

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: memoryview) -> Any:
            assert memoryview(plan).contiguous
            if self.refuse:
                self.refuse -= 1
                logger.log(self.ILogger.ERROR, "the plan is of another version")
                return None
            return _Engine(self, bytes(plan))

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class _Engine:
    def __init__(self, trt: RecordingTensorRt, plan: bytes) -> None:
        self.trt = trt
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.tensors = {
            node.name: (
                np.uint8 if "uint8" in node.type else np.float32,
                tuple(size if isinstance(size, int) else -1 for size in node.shape),
            )
            for node in nodes
        }
        self.num_io_tensors = len(nodes)
        self.device_memory_size_v2 = 1 << 20
        if trt.jit:
            self.create_runtime_config = lambda: _RuntimeConfig(trt)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def create_execution_context(self, config: Any = None) -> _Context:
        assert (config is not None) == self.trt.jit
        if config is not None:
            eager = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            assert config.dynamic_shapes_kernel_specialization_strategy == eager, "a graph would hold fallback kernels"
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes = {name: shape for name, (_, shape) in engine.tensors.items()}
        engine.trt.cuda.contexts.add(self)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        assert -1 in self.shapes["image"]
        self.shapes = {"image": tuple(shape), "depth": tuple(shape[:3]), "log_scale": tuple(shape[:3])}
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.tensors
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda, trt = self.engine.trt.cuda, self.engine.trt
        assert self.addresses.keys() == self.engine.tensors.keys(), "a tensor has no address"
        if trt.fail_runs is not None:
            trt.fail_runs -= 1
            if trt.fail_runs < 0:
                trt.fail_runs = None
                return False
        cuda.calls.append("launch")
        engine, addresses, shapes = (
            self.engine,
            self.addresses,
            self.shapes,
        )  # no reference to the context: it may be gone

        def compute() -> None:
            image = _at(cuda, addresses["image"], np.uint8, shapes["image"])
            names = [name for name in engine.tensors if name != "image"]
            for name, result in zip(names, engine.session.run(names, {"image": image}), strict=True):
                _at(cuda, addresses[name], np.float32, shapes[name])[:] = result

        cuda.enqueue(stream, compute)
        return True


class _RuntimeConfig:
    def __init__(self, trt: RecordingTensorRt) -> None:
        self.trt = trt
        self.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> Any:
        def deserialize(content: bytes) -> bool:
            self.trt.kernels_loaded.append(content)
            return content == b"kernels"

        def serialize() -> bytes:
            return b"kernels"

        return SimpleNamespace(deserialize=deserialize, serialize=serialize)

    def set_runtime_cache(self, cache: Any) -> bool:
        return cache is not None


def _at(cuda: RecordingCuda, address: int, dtype: Any, shape: tuple[int, ...]) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    cuda.check_memory(address, size, pinned=False)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)
