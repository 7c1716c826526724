"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines.cache import EngineCache
from sem_depth_node.engines.cuda import Cuda
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.select import create_engine
from sem_depth_node.engines.tensorrt import TensorRtEngine, build_or_find, choose_target
from sem_depth_node.engines.tensorrt_build import BuildOptions
from sem_depth_node.engines.tensorrt_library import TensorRtLibrary
from sem_depth_node.engines.watch import BuildWatch


@pytest.fixture(scope="module", autouse=True)
def library() -> TensorRtLibrary:
    try:
        Cuda().gpu()
        return TensorRtLibrary.find()
    except EngineError as error:
        pytest.skip(f"needs a GPU and TensorRT: {error}")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def size(tiny_bundle: ModelBundle) -> BundleInput:
    return tiny_bundle.inputs[0]


def images(size: BundleInput, count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (size.height, size.width, 3), np.uint8) for _ in range(count)]


def test_an_engine_is_built_answers_as_onnxruntime_does_and_opens_again_from_the_cache(
    tiny_bundle: ModelBundle, size: BundleInput, cache_dir: Path
) -> None:
    reference = OnnxRuntimeEngine(size)
    phases: list[str] = []
    for builds in (True, False):
        phases.clear()
        engine = create_engine(
            tiny_bundle, size, "tensorrt", cache_dir=cache_dir, on_progress=lambda phase, _: phases.append(phase)
        )
        assert bool(phases) is builds
        for image in images(size, 20):
            expected, found = reference.infer(image), engine.infer(image)
            np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
            np.testing.assert_allclose(found.log_scale, expected.log_scale, atol=1e-5)
        engine.close()


def test_the_cuda_graph_answers_as_launches_do_and_is_taken_without_a_warning(
    tiny_bundle: ModelBundle,
    size: BundleInput,
    cache_dir: Path,
    library: TensorRtLibrary,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = BuildWatch()
    cached = build_or_find(
        tiny_bundle, size, library, choose_target(library), EngineCache(cache_dir), watch, BuildOptions()
    )
    answers = {}
    for use_graph in (False, True):
        engine = TensorRtEngine(
            cached.plan, size.height, size.width, library=library, cuda=Cuda(), log=watch.log, use_graph=use_graph
        )
        answers[use_graph] = np.stack([engine.infer(image).depth.copy() for image in images(size, 5)])
        engine.close()
    np.testing.assert_array_equal(answers[True], answers[False])
    assert not caplog.records
