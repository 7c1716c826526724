"""Running an engine, on a GPU that is not there (see recording_gpu.py), with results computed by ONNX Runtime.

What only a GPU can show is listed in docs/engines.md.
"""

from __future__ import annotations

import ast
import gc
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda.bindings import runtime as real_cuda
from numpy.typing import NDArray
from recording_gpu import RecordingCuda, RecordingTensorRt

from sem_depth_node.bundle import BundleInput, ModelBundle, ShapeProfile
from sem_depth_node.engines import cuda as cuda_module
from sem_depth_node.engines import tensorrt as tensorrt_module
from sem_depth_node.engines import tensorrt_build as build_module
from sem_depth_node.engines import tensorrt_library as library_module
from sem_depth_node.engines.cache import EngineCache
from sem_depth_node.engines.cuda import Cuda
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.tensorrt import (
    PlanRefused,
    TensorRtEngine,
    build_or_find,
    choose_target,
    engine_key,
    open_engine,
)
from sem_depth_node.engines.tensorrt_build import BuildOptions
from sem_depth_node.engines.tensorrt_library import TensorRtLibrary
from sem_depth_node.engines.watch import BuildWatch

LOG = logging.getLogger("test")


@pytest.fixture
def gpu() -> Iterator[RecordingCuda]:
    """The recording GPU; whatever was made on it must have been given back at the end."""
    gpu = RecordingCuda()
    yield gpu
    gc.collect()
    assert gpu.held() == {}


@pytest.fixture
def size(tiny_bundle: ModelBundle) -> BundleInput:
    return tiny_bundle.inputs[1]


def open_on(
    gpu: RecordingCuda, size: BundleInput, trt: RecordingTensorRt | None = None, **options: Any
) -> TensorRtEngine:
    trt = trt or RecordingTensorRt(gpu)
    library = TensorRtLibrary("tensorrt_rtx" if trt.jit else "tensorrt", trt)
    plan = memoryview(size.path.read_bytes())
    return TensorRtEngine(plan, size.height, size.width, library=library, cuda=Cuda(gpu), log=LOG, **options)


def images(size: BundleInput, count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (size.height, size.width, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("jit", [False, True], ids=["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("use_graph", [False, True], ids=["launches", "graph"])
def test_every_frame_gets_its_own_answer_in_the_same_buffers(
    gpu: RecordingCuda, size: BundleInput, jit: bool, use_graph: bool
) -> None:
    reference = OnnxRuntimeEngine(size)
    engine = open_on(gpu, size, RecordingTensorRt(gpu, jit=jit), use_graph=use_graph)
    addresses = set()
    for image in images(size, 3):
        depth, log_scale = engine.infer(image)
        expected = reference.infer(image)
        np.testing.assert_array_equal(depth, expected.depth)
        np.testing.assert_array_equal(log_scale, expected.log_scale)
        assert depth.shape == log_scale.shape == (size.height, size.width)
        addresses.add((depth.ctypes.data, log_scale.ctypes.data))
    assert len(addresses) == 1
    engine.close()


def test_a_frame_is_copy_launch_copies_and_one_wait(gpu: RecordingCuda, size: BundleInput) -> None:
    engine = open_on(gpu, size, use_graph=False)
    gpu.calls.clear()
    engine.infer(images(size, 1)[0])
    assert gpu.calls == [
        "copy to device",
        "launch",
        "copy to host",
        "copy to host",
        "cudaEventRecord",
        "cudaEventSynchronize",
    ]
    engine.close()


def test_with_a_graph_a_frame_is_one_launch_and_one_wait(gpu: RecordingCuda, size: BundleInput) -> None:
    engine = open_on(gpu, size)
    gpu.calls.clear()
    engine.infer(images(size, 1)[0])
    assert gpu.calls == ["cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
    engine.close()


def test_the_graph_is_captured_after_a_warm_up_and_run_before_it_is_needed(
    gpu: RecordingCuda, size: BundleInput
) -> None:
    engine = open_on(gpu, size)
    begin, end = gpu.calls.index("cudaStreamBeginCapture"), gpu.calls.index("cudaStreamEndCapture")
    assert gpu.calls[:begin].count("launch") == gpu.calls[:begin].count("cudaEventSynchronize") > 0
    assert gpu.calls[begin:end].count("launch") == 1
    assert gpu.calls[end:].count("cudaGraphLaunch") == 1
    engine.close()


def test_nothing_is_allocated_while_running_and_all_is_freed_at_the_end(gpu: RecordingCuda, size: BundleInput) -> None:
    engine = open_on(gpu, size)
    held = gpu.held()
    assert held == {"memory": 6, "streams": 1, "events": 1, "executables": 1, "contexts": 1}
    for image in images(size, 3):
        engine.infer(image)
    assert gpu.held() == held
    engine.close()
    assert gpu.held() == {}
    engine.close()  # a second close is allowed
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images(size, 1)[0])


@pytest.mark.parametrize("jit", [False, True], ids=["tensorrt", "tensorrt_rtx"])
def test_whichever_call_fails_everything_is_given_back(
    size: BundleInput, jit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sound = RecordingCuda()
    engine = open_on(sound, size, RecordingTensorRt(sound, jit=jit))
    opening = list(sound.calls)
    engine.close()
    survived = []
    for index, call in enumerate(opening):
        # A launch is TensorRT's to fail (see below). Giving back fails on a lost device only, which has lost all.
        if call in ("launch", "cudaGraphDestroy"):
            continue
        gpu = RecordingCuda()
        caplog.clear()
        gpu.fail_call = index
        try:
            engine = open_on(gpu, size, RecordingTensorRt(gpu, jit=jit))
        except EngineError as error:
            assert "cudaErrorMemoryAllocation" in str(error)  # noqa: PT017
        else:
            survived.append(call)
            assert "no CUDA graph" in caplog.messages[0]
            np.testing.assert_array_equal(
                engine.infer(images(size, 1)[0]).depth, OnnxRuntimeEngine(size).infer(images(size, 1)[0]).depth
            )
            engine.close()
        gc.collect()
        assert gpu.held() == {}
    # Only what belongs to the capture can be done without.
    assert survived == [
        "cudaStreamBeginCapture",
        "copy to device",
        "copy to host",
        "copy to host",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
    ]


def test_a_network_that_cannot_be_captured_runs_launch_by_launch(
    gpu: RecordingCuda, size: BundleInput, caplog: pytest.LogCaptureFixture
) -> None:
    trt = RecordingTensorRt(gpu)
    trt.fail_runs = 2  # the two warm-up runs succeed, the captured one does not
    engine = open_on(gpu, size, trt)
    assert "no CUDA graph" in caplog.messages[0]
    image = images(size, 1)[0]
    np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(size).infer(image).depth)
    engine.close()


def test_a_failing_run_is_an_error_and_the_next_one_works(gpu: RecordingCuda, size: BundleInput) -> None:
    trt = RecordingTensorRt(gpu)
    engine = open_on(gpu, size, trt, use_graph=False)
    trt.fail_runs = 0
    image = images(size, 1)[0]
    with pytest.raises(EngineError, match="TensorRT failed"):
        engine.infer(image)
    np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(size).infer(image).depth)
    engine.close()


def test_an_image_of_another_shape_or_type_is_refused(gpu: RecordingCuda, size: BundleInput) -> None:
    engine = open_on(gpu, size)
    for image in (np.zeros((3, size.height, size.width), np.uint8), np.zeros((size.height, size.width, 3), np.float32)):
        with pytest.raises(EngineError, match="expected contiguous uint8"):
            engine.infer(image)  # type: ignore[arg-type]
    engine.close()


def test_a_graph_with_open_sizes_runs_at_every_size_of_its_profile(
    gpu: RecordingCuda, size: BundleInput, tmp_path: Path
) -> None:
    model = onnx.load(size.path)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[1].dim_param = "height"
        tensor.type.tensor_type.shape.dim[2].dim_param = "width"
    onnx.save(model, tmp_path / "open.onnx")
    profile = ShapeProfile(min=(32, 32), opt=(size.height, size.width), max=(96, 320), multiple=32)
    for height, width in (profile.opt, profile.max):
        chosen = BundleInput(tmp_path / "open.onnx", height, width, profile)
        engine = open_on(gpu, chosen)
        image = images(chosen, 1)[0]
        np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(chosen).infer(image).depth)
        engine.close()


def test_a_plan_of_another_size_is_refused(gpu: RecordingCuda, size: BundleInput) -> None:
    with pytest.raises(EngineError, match="build it again"):
        open_on(gpu, BundleInput(size.path, size.height, size.width + 32))


def test_compiled_kernels_are_kept_and_used_at_the_next_start(
    gpu: RecordingCuda, size: BundleInput, tmp_path: Path
) -> None:
    kernels = tmp_path / "engine.kernels"
    trt = RecordingTensorRt(gpu, jit=True)
    open_on(gpu, size, trt, kernel_cache=kernels).close()
    assert kernels.read_bytes() == b"kernels"
    assert not trt.kernels_loaded
    written = kernels.stat()
    open_on(gpu, size, trt, kernel_cache=kernels).close()
    assert trt.kernels_loaded == [b"kernels"]
    assert kernels.stat() == written, "nothing was compiled, so nothing is written"
    kernels.write_bytes(b"of another driver")
    open_on(gpu, size, trt, kernel_cache=kernels).close()
    assert kernels.read_bytes() == b"kernels"
    assert [path.name for path in tmp_path.iterdir()] == ["engine.kernels"]


def test_kernels_that_cannot_be_kept_are_warned_about(
    gpu: RecordingCuda, size: BundleInput, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trt = RecordingTensorRt(gpu, jit=True)
    open_on(gpu, size, trt, kernel_cache=tmp_path / "gone" / "engine.kernels").close()
    assert "engine.kernels" in caplog.messages[0]


def test_kernels_that_cannot_be_read_are_warned_about(
    gpu: RecordingCuda, size: BundleInput, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine.kernels").mkdir()
    trt = RecordingTensorRt(gpu, jit=True)
    open_on(gpu, size, trt, kernel_cache=tmp_path / "engine.kernels").close()
    assert "cannot read compiled kernels" in caplog.messages[0]


def test_closing_on_a_lost_device_warns_and_frees_what_it_can(
    size: BundleInput, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = RecordingCuda()
    engine = open_on(gpu, size)
    gpu.fail_call = len(gpu.calls)
    engine.close()
    assert "closing the engine" in caplog.messages[0]
    assert gpu.held() == {"executables": 1}  # the call that failed; the rest was given back


def test_the_real_library_refuses_a_plan_without_a_driver_and_all_is_given_back(
    tiny_bundle: ModelBundle, size: BundleInput, gpu: RecordingCuda, tmp_path: Path
) -> None:
    _skip_on_a_gpu()
    pytest.importorskip("tensorrt_rtx")
    library = TensorRtLibrary.load("tensorrt_rtx")
    plan = build_or_find(
        tiny_bundle,
        size,
        library,
        choose_target(library, "8.9"),
        EngineCache(tmp_path),
        BuildWatch(),
        BuildOptions(),
    ).plan
    with pytest.raises(PlanRefused, match="CUDA driver version is insufficient"):
        TensorRtEngine(plan, size.height, size.width, library=library, cuda=Cuda(gpu), log=LOG)


@pytest.fixture
def filled_cache(tmp_path: Path, tiny_bundle: ModelBundle, size: BundleInput) -> Callable[..., EngineCache]:
    """A cache that holds the tiny bundle's engine for the recording GPU."""

    def fill(gpu: RecordingCuda, library: TensorRtLibrary) -> EngineCache:
        cache = EngineCache(tmp_path)
        key = engine_key(tiny_bundle, size, library, choose_target(library, cuda=Cuda(gpu)), BuildOptions())

        def build(plan: Path) -> dict[str, object]:
            plan.write_bytes(size.path.read_bytes())
            return {}

        cache.get(key, build, BuildWatch())
        return cache

    return fill


def test_a_cached_engine_is_opened_on_this_machines_gpu(
    gpu: RecordingCuda, tiny_bundle: ModelBundle, size: BundleInput, filled_cache: Callable[..., EngineCache]
) -> None:
    library = TensorRtLibrary("tensorrt", RecordingTensorRt(gpu))
    cache = filled_cache(gpu, library)
    engine = open_engine(tiny_bundle, size, cache, BuildWatch(), BuildOptions(), library=library, cuda=Cuda(gpu))
    assert engine.description == f"tensorrt 10.3.0.test on NVIDIA Test, {size.width}x{size.height}, CUDA graph"
    image = images(size, 1)[0]
    np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(size).infer(image).depth)
    engine.close()


def test_an_engine_of_another_gpu_is_not_taken(
    gpu: RecordingCuda, tiny_bundle: ModelBundle, size: BundleInput, filled_cache: Callable[..., EngineCache]
) -> None:
    library = TensorRtLibrary("tensorrt", RecordingTensorRt(gpu))
    cache = filled_cache(gpu, library)
    for other in (RecordingCuda(name="NVIDIA Other"), RecordingCuda(minor=7)):
        target = choose_target(library, cuda=Cuda(other))
        assert cache.find(engine_key(tiny_bundle, size, library, target, BuildOptions()), BuildWatch()) is None


def test_a_plan_the_library_refuses_is_thrown_away_and_built_again(
    gpu: RecordingCuda,
    tiny_bundle: ModelBundle,
    size: BundleInput,
    filled_cache: Callable[..., EngineCache],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trt = RecordingTensorRt(gpu)
    library = TensorRtLibrary("tensorrt", trt)
    cache = filled_cache(gpu, library)
    builds = []

    def build_engine(request: Any, plan: Path, watch: BuildWatch) -> build_module.BuildReport:
        builds.append(request)
        plan.write_bytes(Path(request.onnx).read_bytes())
        return build_module.BuildReport("tensorrt", library.version, "8.9", 1.0, 1, 1, {}, [])

    monkeypatch.setattr(tensorrt_module, "build_engine", build_engine)
    trt.refuse = 1
    open_engine(tiny_bundle, size, cache, BuildWatch(log=LOG), BuildOptions(), library=library, cuda=Cuda(gpu)).close()
    assert len(builds) == 1
    assert "another version" in caplog.messages[0]
    assert "built again" in caplog.messages[0]
    trt.refuse = 2  # a fresh engine that is refused, too, is an error, not a loop
    with pytest.raises(PlanRefused):
        open_engine(tiny_bundle, size, cache, BuildWatch(log=LOG), BuildOptions(), library=library, cuda=Cuda(gpu))
    assert len(builds) == 2


def test_tensorrt_builds_for_the_gpu_it_runs_on_only(gpu: RecordingCuda) -> None:
    library = TensorRtLibrary("tensorrt", RecordingTensorRt(gpu))
    assert choose_target(library, "8.9", Cuda(gpu)) == choose_target(library, None, Cuda(gpu))
    with pytest.raises(EngineError, match=r"NVIDIA Test of compute capability 8\.9, not for 8\.7"):
        choose_target(library, "8.7", Cuda(gpu))


def test_without_a_driver_the_error_says_so() -> None:
    _skip_on_a_gpu()
    with pytest.raises(EngineError, match=r"no usable NVIDIA GPU: .*cudaErrorInsufficientDriver.*no NVIDIA driver"):
        Cuda().gpu()


def test_a_driver_older_than_the_bindings_is_said_to_be_and_which_bindings_fit(gpu: RecordingCuda) -> None:
    gpu.driver_version = 12060
    with pytest.raises(EngineError, match=r"driver is of CUDA 12 .*pip install 'cuda-bindings==12\.\*'"):
        Cuda(gpu).gpu()


def test_a_hidden_gpu_is_looked_for_with_nvidia_smi(gpu: RecordingCuda) -> None:
    gpu.fail_call = 0
    with pytest.raises(EngineError, match=r"nvidia-smi.*CUDA_VISIBLE_DEVICES"):
        Cuda(gpu).gpu()


def test_without_the_cuda_bindings_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match="pip install 'cuda-bindings"):
        Cuda()


def test_every_cuda_name_used_is_in_the_installed_bindings_with_as_many_arguments() -> None:
    calls: dict[str, int] = {}
    for node in ast.walk(ast.parse(inspect.getsource(cuda_module))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("_call", "callback")
        ):
            names = [str(a.value) for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("cuda")]
            if names:
                before = [isinstance(a, ast.Constant) and a.value == names[0] for a in node.args].index(True)
                calls[names[0]] = len(node.args) - before - 1
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("self._runtime"):
            target: Any = real_cuda
            for part in ast.unparse(node).split(".")[2:]:
                target = getattr(target, part)
    assert len(calls) > 15
    for name, count in calls.items():
        signature = getattr(real_cuda, name).__doc__.strip().splitlines()[0]
        parameters = [p for p in signature[signature.index("(") + 1 : signature.rindex(")")].split(",") if p.strip()]
        assert len(parameters) == count, f"{signature} called with {count} arguments"
    for field in ("name", "major", "minor", "totalGlobalMem"):
        assert hasattr(real_cuda.cudaDeviceProp(), field)


# What each variable of the engine code is in TensorRT's terms.
TENSORRT_CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "image": "ITensor",
    "tensor": "ITensor",
    "problems": "ParserError",
    "p": "ParserError",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "settings": "IRuntimeConfig",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "self._kernels": "IRuntimeCache",
    "plan": "IHostMemory",
}


@pytest.mark.parametrize("module", [tensorrt_module, build_module, library_module], ids=lambda module: module.__name__)
def test_every_tensorrt_name_used_is_in_the_installed_library(module: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    checked = 0
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner in ("trt", "self.trt", "library.trt") or owner.startswith("trt."):
            target = trt
            for part in owner.split("trt", 1)[1].strip(".").split("."):
                target = getattr(target, part) if part else target
            assert hasattr(target, node.attr), ast.unparse(node)
            checked += 1
        elif owner in TENSORRT_CLASSES and module is not library_module:
            assert hasattr(getattr(trt, TENSORRT_CLASSES[owner]), node.attr), ast.unparse(node)
            checked += 1
    assert checked > 2


def _skip_on_a_gpu() -> None:
    if real_cuda.cudaGetDeviceCount()[0] == real_cuda.cudaError_t.cudaSuccess:
        pytest.skip("this machine has a GPU; the test is of machines without")
