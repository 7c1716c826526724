"""Builds with the real TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import psutil  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import write_open_tiny_bundle

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.engines.cache import EngineCache
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.tensorrt import build_or_find, choose_target, engine_key
from sem_depth_node.engines.tensorrt_build import BuildOptions, BuildReport, BuildRequest, PhaseTree, build_engine
from sem_depth_node.engines.tensorrt_library import LibraryMissing, TensorRtLibrary
from sem_depth_node.engines.watch import BuildCancelled, BuildWatch
from sem_depth_node.shipped import default_bundle

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX builds engines without a GPU: pip install tensorrt-rtx-cu12"
)

HEIGHT, WIDTH = 32, 96


def write_network(
    path: Path,
    *,
    layers: int = 3,
    channels: int = 8,
    half: bool = True,
    size: Sequence[int | str] = (HEIGHT, WIDTH),
    outputs: Sequence[str] = ("depth", "log_scale"),
    operator: str = "Relu",
) -> Path:
    """A convolutional network of the bundle contract, in half precision up to its outputs."""
    random = np.random.default_rng(0)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    weights = [numpy_helper.from_array(np.array([1]), "channel_axis")]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=kind),
        helper.make_node("Transpose", ["pixels"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    for i in range(layers):
        shape = (channels, channels if i else 3, 3, 3)
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, shape).astype(dtype), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"y{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node(operator, [f"y{i}"], [f"x{i + 1}"]))
    for name in outputs:
        shape = (1, channels, 1, 1)
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, shape).astype(dtype), f"w_{name}"))
        nodes.append(helper.make_node("Conv", [f"x{layers}", f"w_{name}"], [f"y_{name}"]))
        nodes.append(helper.make_node("Squeeze", [f"y_{name}", "channel_axis"], [f"z_{name}"]))
        nodes.append(helper.make_node("Cast", [f"z_{name}"], [name], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *size]) for name in outputs],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def request(onnx_path: Path, **options: int) -> BuildRequest:
    return BuildRequest(str(onnx_path), HEIGHT, WIDTH, "tensorrt_rtx", "8.9", BuildOptions(**options))


def write_slow_network(path: Path) -> Path:
    """A network that takes the builder seconds: long enough to be interrupted."""
    return write_network(path, layers=300, channels=64)


def test_a_build_reports_layers_by_precision_size_memory_and_time(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    report = build_engine(request(write_network(tmp_path / "half.onnx")), plan, BuildWatch())
    assert report.library == "tensorrt_rtx"
    assert report.library_version == TensorRtLibrary.load("tensorrt_rtx").version
    assert report.compute_capability == "8.9"
    assert report.engine_bytes == plan.stat().st_size > 0
    assert report.peak_host_memory_bytes > report.engine_bytes
    assert report.seconds > 0
    assert report.layers["CONVOLUTION"] == {"HALF": 5}
    assert report.layers_by_precision() == {"HALF": 8}  # 5 convolutions and 3 activations; casts compute nothing


def test_a_float32_graph_stays_float32(tmp_path: Path) -> None:
    report = build_engine(request(write_network(tmp_path / "n.onnx", half=False)), tmp_path / "plan", BuildWatch())
    assert report.layers_by_precision() == {"FLOAT": 8}


def test_a_graph_with_open_sizes_is_built_for_the_size_asked_for(tmp_path: Path) -> None:
    path = write_network(tmp_path / "open.onnx", size=("height", "width"))
    report = build_engine(request(path), tmp_path / "plan", BuildWatch())
    assert report.engine_bytes == (tmp_path / "plan").stat().st_size


def test_an_engine_of_a_profile_takes_its_sizes_and_is_built_once_for_all(tmp_path: Path) -> None:
    bundle = write_open_tiny_bundle(tmp_path / "bundle")
    library = TensorRtLibrary.load("tensorrt_rtx")
    cache, target = EngineCache(tmp_path / "cache"), choose_target(library, "8.9")
    paths = {
        build_or_find(bundle, chosen, library, target, cache, BuildWatch(), BuildOptions()).path
        for chosen in (bundle.inputs[0], bundle.input_of_size(128, 384), bundle.input_of_size(32, 64))
    }
    assert len(paths) == 1
    plan = cache.find(engine_key(bundle, bundle.inputs[0], library, target, BuildOptions()), BuildWatch())
    assert plan is not None
    assert BuildReport(**plan.report).layers["MATRIX_MULTIPLY"] == {"FLOAT": 2}


def test_a_profile_changes_the_plan_and_needs_a_graph_with_open_sizes(tmp_path: Path) -> None:
    path = write_network(tmp_path / "open.onnx", size=("height", "width"))
    build_engine(request(path), tmp_path / "one", BuildWatch())
    sizes = replace(request(path), profile=((32, 32), (96, 320)))
    build_engine(sizes, tmp_path / "all", BuildWatch())
    assert (tmp_path / "one").read_bytes() != (tmp_path / "all").read_bytes()
    fixed = replace(sizes, onnx=str(write_network(tmp_path / "fixed.onnx")))
    with pytest.raises(
        EngineError, match=r"fixed\.onnx.*image UINT8 \[1, 32, 96, 3\].*expected image UINT8 \[1, -1, -1, 3\]"
    ):
        build_engine(fixed, tmp_path / "plan", BuildWatch())


def test_progress_rises_from_0_to_1_and_names_its_phases(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    watch = BuildWatch(lambda phase, fraction: told.append((phase, fraction)))
    build_engine(request(write_network(tmp_path / "n.onnx")), tmp_path / "plan", watch)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert len(set(fractions)) > 10
    assert all(phase for phase, _ in told)


def test_nested_phases_share_their_parents_step() -> None:
    tree = PhaseTree()
    tree.start("build", None, 2)
    assert tree.fraction == 0
    tree.start("first", "build", 2)  # takes half of step 0
    tree.step("first", 0)
    assert tree.fraction == pytest.approx(0.125)
    tree.step("first", 1)
    tree.finish("first")
    assert tree.fraction == pytest.approx(0.25)
    tree.start("second", "build", 1)  # half of what is left
    tree.step("second", 0)
    tree.finish("second")
    assert tree.fraction == pytest.approx(0.375)
    tree.step("build", 0)
    assert tree.fraction == pytest.approx(0.5)
    tree.start("unrelated", "never seen", 1)
    tree.step("build", 1)
    assert tree.fraction == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"outputs": ("depth",)}, "expected image UINT8"),
        ({"outputs": ("depth", "confidence")}, "confidence FLOAT"),
        ({"size": (16, 96)}, r"image UINT8 \[1, 16, 96, 3\]"),
        ({"operator": "NoSuchOperator"}, "NoSuchOperator"),
    ],
)
def test_a_graph_that_is_not_of_the_contract_is_named(tmp_path: Path, damage: dict[str, object], words: str) -> None:
    path = write_network(tmp_path / "odd.onnx", **damage)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=words) as caught:
        build_engine(request(path), tmp_path / "plan", BuildWatch())
    assert str(path) in str(caught.value)
    assert not (tmp_path / "plan").exists()


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(EngineError, match=r"junk\.onnx"):
        build_engine(request(tmp_path / "junk.onnx"), tmp_path / "plan", BuildWatch())


def test_a_compute_capability_the_library_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    path = str(write_network(tmp_path / "n.onnx"))
    with pytest.raises(EngineError, match=r"8\.9.*not 8\.7.*Jetson"):
        build_engine(BuildRequest(path, HEIGHT, WIDTH, "tensorrt_rtx", "8.7"), tmp_path / "plan", BuildWatch())
    with pytest.raises(EngineError, match=r"8\.9.*not 8\.7.*Jetson"):
        choose_target(TensorRtLibrary.load("tensorrt_rtx"), "8.7")


@pytest.mark.parametrize("options", [{"workspace_mib": 0}, {"optimization_level": 6}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(EngineError, match="expected"):
        BuildOptions(**options)


def test_a_plan_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no_such_folder"):
        build_engine(request(write_network(tmp_path / "n.onnx")), tmp_path / "no_such_folder" / "plan", BuildWatch())


def test_cancelling_ends_the_builder_at_once(tmp_path: Path) -> None:
    cancelled = threading.Event()
    watch = BuildWatch(lambda phase, fraction: cancelled.set() if fraction > 0.1 else None, cancelled=cancelled)
    with pytest.raises(BuildCancelled):
        build_engine(request(write_slow_network(tmp_path / "slow.onnx")), tmp_path / "plan", watch)
    assert not _builders()
    assert not (tmp_path / "plan").exists()


def test_a_builder_that_dies_is_an_error_that_says_how(tmp_path: Path) -> None:
    def kill_builder(phase: str, fraction: float) -> None:
        for builder in _builders():
            builder.send_signal(signal.SIGKILL)

    with pytest.raises(EngineError, match="killed by SIGKILL"):
        build_engine(request(write_slow_network(tmp_path / "slow.onnx")), tmp_path / "plan", BuildWatch(kill_builder))


def test_the_builder_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    path = write_slow_network(tmp_path / "slow.onnx")
    code = (
        "import sys; from pathlib import Path\n"
        "from sem_depth_node.engines.tensorrt_build import BuildRequest, build_engine\n"
        "from sem_depth_node.engines.watch import BuildWatch\n"
        f"request = BuildRequest(sys.argv[1], {HEIGHT}, {WIDTH}, 'tensorrt_rtx', '8.9')\n"
        "build_engine(request, Path(sys.argv[2]), BuildWatch(lambda *told: print(*told, flush=True)))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, path, tmp_path / "plan"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()  # the build has begun
    builders = _builders(parent.pid)
    assert builders
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(builders, timeout=30)
    assert not alive


def test_the_builder_ends_with_its_life_line(tmp_path: Path) -> None:
    """Also during a phase that reports nothing, when no write to the dead parent would end it."""
    wanted = json.dumps(asdict(request(write_slow_network(tmp_path / "slow.onnx"))))
    command = [sys.executable, "-m", "sem_depth_node.engines.tensorrt_build", wanted, str(tmp_path / "plan")]
    builder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    builder.communicate(b"", timeout=60)  # closes its stdin
    assert builder.returncode == 1
    assert not (tmp_path / "plan").exists()


def test_other_threads_go_on_while_an_engine_is_built(tmp_path: Path) -> None:
    """A node answers ROS calls from other threads meanwhile."""
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.wait(0.001):
            turns += 1

    counter = threading.Thread(target=count)
    counter.start()
    at_phase: list[int] = []
    watch = BuildWatch(lambda phase, fraction: at_phase.append(turns))
    build_engine(request(write_slow_network(tmp_path / "slow.onnx")), tmp_path / "plan", watch)
    stop.set()
    counter.join()
    assert at_phase[-1] - at_phase[0] > 20


def test_an_input_of_a_bundle_is_built_into_the_cache_and_found_again(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    library = TensorRtLibrary.load("tensorrt_rtx")
    cache = EngineCache(tmp_path)
    arguments = (tiny_bundle, tiny_bundle.inputs[0], library, choose_target(library, "8.9"), cache)
    phases: list[str] = []
    built = build_or_find(*arguments, BuildWatch(lambda phase, _: phases.append(phase)), BuildOptions())
    assert BuildReport(**built.report).layers["MATRIX_MULTIPLY"] == {"FLOAT": 2}
    assert phases
    phases.clear()
    found = build_or_find(*arguments, BuildWatch(lambda phase, _: phases.append(phase)), BuildOptions())
    assert not phases
    assert found.report == built.report
    # Other options, another capability, another input: each is another engine.
    build_or_find(*arguments, BuildWatch(), BuildOptions(workspace_mib=512))
    build_or_find(*arguments[:3], choose_target(library, "12.0"), cache, BuildWatch(), BuildOptions())
    build_or_find(tiny_bundle, tiny_bundle.inputs[1], *arguments[2:], BuildWatch(), BuildOptions())
    assert len(list(tmp_path.glob("*.engine"))) == 4


def test_the_shipped_bundle_builds(tmp_path: Path) -> None:
    bundle = ModelBundle.load(default_bundle())
    library = TensorRtLibrary.load("tensorrt_rtx")
    warnings: list[str] = []
    for bundle_input in bundle.inputs:
        engine = build_or_find(
            bundle,
            bundle_input,
            library,
            choose_target(library, "8.9"),
            EngineCache(tmp_path),
            BuildWatch(),
            BuildOptions(),
        )
        warnings += engine.report["warnings"]
    assert not warnings


def test_timings_are_kept_for_the_library_that_times_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorRT-RTX under the other library's name: it has the same interface, and its timing caches are empty.
    (tmp_path / "tensorrt.py").write_text("import sys, tensorrt_rtx\nsys.modules[__name__] = tensorrt_rtx\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    onnx_path = str(write_network(tmp_path / "n.onnx"))
    timings = tmp_path / "gpu.timings"
    wanted = BuildRequest(onnx_path, HEIGHT, WIDTH, "tensorrt", "8.9", timing_cache=str(timings))
    assert build_engine(wanted, tmp_path / "plan", BuildWatch()).library == "tensorrt"
    assert timings.stat().st_size > 0
    timings.write_bytes(b"damaged")
    build_engine(wanted, tmp_path / "plan", BuildWatch())
    assert timings.read_bytes() != b"damaged"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_library_that_is_not_installed_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(LibraryMissing, match="tensorrt is not installed"):
        TensorRtLibrary.load("tensorrt")


def test_a_library_without_its_shared_objects_is_said_not_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvinfer.so.10.missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"does not import: libnvinfer\.so\.10\.missing"):
        TensorRtLibrary.load("tensorrt")
    sys.modules.pop("tensorrt", None)


def _builders(parent: int | None = None) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            if "sem_depth_node.engines.tensorrt_build" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
