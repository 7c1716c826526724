"""Which engine runs a bundle, on a machine as it is."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_gpu import RecordingCuda, RecordingTensorRt
from tiny_bundle import PROFILE, canonical_depth, write_open_tiny_bundle, write_tiny_bundle

from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines import tensorrt as tensorrt_module
from sem_depth_node.engines.cache import CACHE_VARIABLE
from sem_depth_node.engines.cuda import Cuda
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.select import create_engine, open_engines
from sem_depth_node.engines.tensorrt import TensorRtEngine
from sem_depth_node.engines.tensorrt_build import BuildReport
from sem_depth_node.engines.tensorrt_library import TensorRtLibrary
from sem_depth_node.engines.watch import BuildCancelled, BuildWatch


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may touch the user's cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def size(tiny_bundle: ModelBundle) -> BundleInput:
    return tiny_bundle.inputs[1]


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    if "openvino" in packages:  # imported by an earlier test, our engine would no longer ask for its library
        monkeypatch.delitem(sys.modules, "sem_depth_node.engines.openvino", raising=False)


@pytest.fixture
def no_driver() -> None:
    try:
        Cuda().gpu()
    except EngineError:
        return
    pytest.skip("this machine has a GPU; the test is of machines without")


@pytest.fixture
def machine_with_gpu(monkeypatch: pytest.MonkeyPatch) -> RecordingTensorRt:
    """A machine with a recording GPU and TensorRT on it, whose builder copies the ONNX file."""
    gpu = RecordingCuda()
    trt = RecordingTensorRt(gpu)

    def build_engine(request: Any, plan: Path, watch: BuildWatch) -> BuildReport:
        watch.progress("building", 0.5)
        watch.raise_if_cancelled()
        plan.write_bytes(Path(request.onnx).read_bytes())
        return BuildReport("tensorrt", trt.__version__, "8.9", 1.0, 1, 1, {}, [])

    monkeypatch.setattr(tensorrt_module, "build_engine", build_engine)
    monkeypatch.setattr(tensorrt_module, "Cuda", lambda: Cuda(gpu))
    monkeypatch.setattr(TensorRtLibrary, "find", lambda: TensorRtLibrary("tensorrt", trt))
    return trt


def test_with_onnxruntime_alone_auto_is_that_and_says_so_in_passing(
    tiny_bundle: ModelBundle, size: BundleInput, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without(monkeypatch, "tensorrt", "tensorrt_rtx", "openvino")
    caplog.set_level(logging.INFO)
    engine = create_engine(tiny_bundle, size)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "does not take tensorrt" in caplog.messages[0]
    assert "not installed" in caplog.messages[0]
    assert "does not take openvino" in caplog.messages[1]
    assert "pip install openvino" in caplog.messages[1]


def test_auto_prefers_openvino_to_onnxruntime_where_it_is_installed(
    tiny_bundle: ModelBundle, size: BundleInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    engine = create_engine(tiny_bundle, size)
    assert engine.description.startswith("OpenVINO")
    image = np.full((size.height, size.width, 3), 99, np.uint8)
    np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(size).infer(image).depth)
    engine.close()


def test_openvino_asked_for_and_not_installed_is_an_error_that_says_what_to_install(
    tiny_bundle: ModelBundle, size: BundleInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    with pytest.raises(EngineError, match=r"openvino was asked for.*pip install openvino.*set engine to auto"):
        create_engine(tiny_bundle, size, "openvino")


def test_with_tensorrt_but_no_driver_auto_warns_why_it_is_onnxruntime(
    tiny_bundle: ModelBundle,
    size: BundleInput,
    no_driver: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without(monkeypatch, "openvino")
    pytest.importorskip("tensorrt_rtx")
    engine = create_engine(tiny_bundle, size, "auto")
    assert isinstance(engine, OnnxRuntimeEngine)
    assert "no usable NVIDIA GPU" in caplog.messages[0]


def test_auto_takes_tensorrt_where_it_works(
    tiny_bundle: ModelBundle, size: BundleInput, machine_with_gpu: RecordingTensorRt, own_cache: Path
) -> None:
    progress: list[tuple[str, float]] = []
    engine = create_engine(tiny_bundle, size, on_progress=lambda *told: progress.append(told))
    assert isinstance(engine, TensorRtEngine)
    assert progress == [("building", 0.5)]
    image = np.full((size.height, size.width, 3), 99, np.uint8)
    np.testing.assert_array_equal(engine.infer(image).depth, OnnxRuntimeEngine(size).infer(image).depth)
    engine.close()
    assert len(list(own_cache.glob("*.engine"))) == 1
    create_engine(tiny_bundle, size, on_progress=lambda *told: progress.append(told)).close()
    assert len(progress) == 1  # not built again


def test_auto_goes_on_when_the_gpu_fails_and_warns(
    tiny_bundle: ModelBundle,
    size: BundleInput,
    machine_with_gpu: RecordingTensorRt,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without(monkeypatch, "openvino")
    machine_with_gpu.cuda.fail_call = 4
    assert isinstance(create_engine(tiny_bundle, size), OnnxRuntimeEngine)
    assert "cudaErrorMemoryAllocation" in caplog.messages[0]


def test_an_engine_asked_for_by_name_is_had_or_the_error_says_why_and_what_to_do(
    tiny_bundle: ModelBundle, size: BundleInput, no_driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert isinstance(create_engine(tiny_bundle, size, "onnxruntime"), OnnxRuntimeEngine)
    with pytest.raises(EngineError, match=r"tensorrt was asked for.*no usable NVIDIA GPU.*set engine to auto"):
        create_engine(tiny_bundle, size, "tensorrt")
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    with pytest.raises(EngineError, match=r"tensorrt was asked for.*JetPack.*pip install tensorrt-rtx-cu12"):
        create_engine(tiny_bundle, size, "tensorrt")


def test_an_unknown_engine_is_refused_with_those_there_are(tiny_bundle: ModelBundle, size: BundleInput) -> None:
    with pytest.raises(EngineError, match="'openvivo', expected one of auto, tensorrt, openvino, onnxruntime"):
        create_engine(tiny_bundle, size, "openvivo")


def test_when_nothing_works_every_reason_is_told(
    tiny_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "tensorrt", "tensorrt_rtx", "openvino")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(
        EngineError,
        match=r"no engine works.*tensorrt: .*not installed.*openvino: .*not import.*onnxruntime: .*junk\.onnx",
    ):
        create_engine(tiny_bundle, BundleInput(tmp_path / "junk.onnx", 64, 96))


def test_a_cancelled_build_is_not_replaced_by_another_engine(
    tiny_bundle: ModelBundle, size: BundleInput, machine_with_gpu: RecordingTensorRt
) -> None:
    cancelled = threading.Event()
    with pytest.raises(BuildCancelled):
        create_engine(tiny_bundle, size, on_progress=lambda *told: cancelled.set(), cancelled=cancelled)


def test_the_cache_folder_can_be_chosen(
    tiny_bundle: ModelBundle, size: BundleInput, machine_with_gpu: RecordingTensorRt, tmp_path: Path
) -> None:
    create_engine(tiny_bundle, size, cache_dir=tmp_path / "chosen").close()
    assert list((tmp_path / "chosen").glob("*.engine"))


def test_rclpys_logger_serves(tiny_bundle: ModelBundle, size: BundleInput, monkeypatch: pytest.MonkeyPatch) -> None:
    logging_module = pytest.importorskip("rclpy.logging")
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    create_engine(tiny_bundle, size, logger=logging_module.get_logger("engines")).close()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_a_profile_runs_at_the_size_asked_for_and_by_default_at_its_best(
    name: str, tmp_path: Path, machine_with_gpu: RecordingTensorRt
) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    bundle = write_open_tiny_bundle(tmp_path / "bundle")
    for asked, expected in ((None, PROFILE.opt), ((128, 352), (128, 352)), (PROFILE.min, PROFILE.min)):
        (engine,) = open_engines(bundle, name, asked)
        assert (engine.height, engine.width) == expected
        image = np.full((*expected, 3), 99, np.uint8)
        np.testing.assert_array_equal(engine.infer(image).depth, np.full(expected, canonical_depth(99)))
        engine.close()


@pytest.mark.parametrize(
    ("size", "words"), [((64, 100), "not both divisible by 32"), ((160, 384), "outside the profile, 64x32 to 384x128")]
)
def test_a_size_outside_the_profile_is_refused(size: tuple[int, int], words: str, tmp_path: Path) -> None:
    bundle = write_open_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(EngineError, match=f"height {size[0]} and width {size[1]} are {words}"):
        open_engines(bundle, "onnxruntime", size)


def test_a_fixed_graph_under_a_profile_is_refused(tiny_bundle: ModelBundle) -> None:
    claimed = BundleInput(tiny_bundle.inputs[0].path, *PROFILE.opt, PROFILE)
    for name in ("onnxruntime", "openvino") if importlib.util.find_spec("openvino") else ("onnxruntime",):
        with pytest.raises(EngineError, match=r"the graph's inputs and outputs are .*open"):
            create_engine(tiny_bundle, claimed, name)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_deferred_input_is_opened_by_the_first_image_for_it(name: str, tiny_bundle: ModelBundle) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    wide, narrow = open_engines(tiny_bundle, name, defer=True)
    assert "once an image needs it" not in wide.description
    assert narrow.description == f"{narrow.width}x{narrow.height} once an image needs it"
    image = np.full((narrow.height, narrow.width, 3), 41, np.uint8)
    np.testing.assert_array_equal(narrow.infer(image).depth, canonical_depth(41))
    assert narrow.description.endswith(f"{narrow.width}x{narrow.height}")
    for engine in (wide, narrow):
        engine.close()
    with pytest.raises(EngineError, match="closed"):
        narrow.infer(image)


def test_a_deferred_input_is_opened_with_the_engine_of_the_first(
    tiny_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    without(monkeypatch, "openvino", "tensorrt", "tensorrt_rtx")
    wide, narrow = open_engines(tiny_bundle, "auto", defer=True)
    monkeypatch.undo()  # OpenVINO imports again, and auto would prefer it
    narrow.infer(np.zeros((narrow.height, narrow.width, 3), np.uint8))
    assert narrow.description.startswith("ONNX Runtime")
    assert narrow.concurrent == wide.concurrent
    for engine in (wide, narrow):
        engine.close()


def test_auto_goes_on_when_a_library_is_broken_and_warns(
    tiny_bundle: ModelBundle, size: BundleInput, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    openvino = pytest.importorskip("openvino")
    without(monkeypatch, "tensorrt", "tensorrt_rtx")

    def broken() -> str:
        raise AttributeError("no version")

    monkeypatch.setattr(openvino, "get_version", broken)
    engine = create_engine(tiny_bundle, size)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert "engine auto does not take openvino: AttributeError: no version" in caplog.text


def test_a_deferred_input_that_cannot_be_opened_says_so_at_every_image(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    wide, narrow = open_engines(bundle, "onnxruntime", defer=True)
    bundle.inputs[1].path.unlink()
    for _ in range(2):
        with pytest.raises(EngineError, match=bundle.inputs[1].path.name):
            narrow.infer(np.zeros((narrow.height, narrow.width, 3), np.uint8))
    for engine in (wide, narrow):
        engine.close()


def test_a_deferred_input_is_not_opened_from_files_that_changed_meanwhile(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    wide, narrow = open_engines(bundle, "onnxruntime", defer=True)
    file = bundle.inputs[1].path
    file.write_bytes(bundle.inputs[0].path.read_bytes())
    with pytest.raises(EngineError, match=rf"{file.name}: sha256 is .* configure the node again"):
        narrow.infer(np.zeros((narrow.height, narrow.width, 3), np.uint8))
    assert wide.infer(np.zeros((wide.height, wide.width, 3), np.uint8)).depth.shape == (wide.height, wide.width)


def test_engines_that_take_long_to_build_are_not_deferred(
    tiny_bundle: ModelBundle, machine_with_gpu: RecordingTensorRt, own_cache: Path
) -> None:
    for engine in open_engines(tiny_bundle, "tensorrt", defer=True):
        engine.close()
    assert len(list(own_cache.glob("*.engine"))) == 2
