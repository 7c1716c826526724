"""The graph that does all of a frame on the device answers as the estimator does on the processor."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.tensorrt_build import BuildRequest, build_engine
from sem_depth_node.engines.watch import BuildWatch
from sem_depth_node.estimator import DepthEstimator, EstimatorSettings
from sem_depth_node.framing import Framing
from sem_depth_node.pointcloud import PointCloudBuilder
from sem_depth_training.full_frame import (
    FullFrame,
    contract,
    copied_bytes,
    resize_matrix,
    scale_of,
    wrap,
)

CAMERAS = {
    "stretched": CameraModel(1242, 375, 721.5, 721.5, 609.6, 172.9),
    "cropped at the sides": CameraModel(1242, 300, 721.5, 721.5, 500.0, 150.0),
    "cropped at the horizon": CameraModel(1000, 800, 700.0, 700.0, 499.5, 300.0),
    "one side shrunk, one enlarged": CameraModel(660, 190, 400.0, 400.0, 330.0, 95.0),
    "enlarged": CameraModel(320, 96, 200.0, 210.0, 159.5, 47.5),
}


@pytest.fixture(scope="module")
def bundle(repository: Path) -> ModelBundle:
    return ModelBundle.load(repository / "ros2_ws" / "src" / "sem_depth_node" / "models" / "compact")


def photograph(camera: CameraModel) -> npt.NDArray[np.uint8]:
    """Boxes before a gradient, with noise: edges for the network, and no two pixels alike."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
    grey = 40 + 150 * rows / camera.height + 30 * np.sin(columns / 40)
    image = np.repeat(grey[..., None], 3, axis=2)
    for _ in range(8):
        x, y = rng.integers(0, camera.width), rng.integers(camera.height // 3, camera.height)
        colour = [float(level) for level in rng.integers(0, 255, 3)]
        cv2.rectangle(image, (int(x), int(y) - 60), (int(x) + 50, int(y)), colour, -1)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def resized(image: npt.NDArray[np.uint8], framing: Framing) -> npt.NDArray[np.uint8]:
    """The network's input as the graph makes it."""
    window, (columns, lines), (height, width) = framing.source, framing.multiple, image.shape[:2]
    down = resize_matrix(height, framing.target.height, window.y, window.height, lines)
    across = resize_matrix(width, framing.target.width, window.x, window.width, columns)
    levels = np.einsum("yY,YXc,xX->yxc", down, image.astype(np.float32), across, optimize=True)
    return np.ascontiguousarray(np.rint(levels).astype(np.uint8))


def median_difference(depth: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Median of |depth / other - 1| where both are finite."""
    both = np.isfinite(depth) & np.isfinite(other)
    return float(np.median(np.abs(depth[both] / other[both] - 1)))


@pytest.mark.parametrize("name", CAMERAS)
def test_answers_as_the_estimator_does(
    name: str, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = CAMERAS[name]
    size = bundle.nearest_input(camera.width / camera.height)
    image = photograph(camera)
    estimator = DepthEstimator(bundle, [OnnxRuntimeEngine(size)], EstimatorSettings(min_depth=2.0, max_depth=40.0))
    own = estimator.estimate(image, camera).depth.copy()
    # OpenCV works in fixed point, so that every tenth level differs by one; what follows it is to be the same.
    framing = estimator.path_for(camera).framing
    levels = framing.to_engine(image).astype(np.int16)
    rounded_otherwise = resized(image, framing) - levels
    moved = []
    for seed in range(5):
        elsewhere = np.random.default_rng(seed).permutation(rounded_otherwise.ravel()).reshape(levels.shape)
        otherwise = (levels + elsewhere).clip(0, 255).astype(np.uint8)
        monkeypatch.setattr(framing, "to_engine", lambda image, answer=otherwise: answer)
        moved.append(median_difference(estimator.estimate(image, camera).depth, own))
    monkeypatch.setattr(framing, "to_engine", lambda image: resized(image, framing))
    expected = estimator.estimate(image, camera)
    wrap(size, FullFrame(camera, 2.0, 40.0, points=True), tmp_path / "frame.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "frame.onnx", providers=["CPUExecutionProvider"])
    scale = np.array([scale_of(camera, size, bundle.manifest)], np.float32)
    depth, confidence, points = (
        output[0] for output in session.run(None, {"frame": image[None], "metres_per_canonical": scale})
    )
    # A level may still be rounded the other way; the network then differs, which shows near a limit. They are far fewer
    # than those moved above, and depth is to differ by far less.
    assert np.mean(np.isnan(depth) == np.isnan(expected.depth)) > 0.999
    assert np.mean(np.isinf(depth) == np.isinf(expected.depth)) > 0.999
    both = np.isfinite(depth) & np.isfinite(expected.depth)
    assert both.mean() > 0.2
    difference = np.abs(depth[both] / expected.depth[both] - 1)
    assert np.median(difference) < np.median(moved) / 50
    assert difference.max() < 2e-2
    assert np.abs(confidence - expected.confidence)[both].max() < 1e-2
    cloud = PointCloudBuilder(camera).build(depth, image)
    np.testing.assert_allclose(points, cloud[..., :3], rtol=1e-5)
    # How much those levels matter is the network's affair: about as much as when as many differ elsewhere in the image.
    assert median_difference(depth, own) < 2 * max(moved)


@pytest.mark.parametrize("name", CAMERAS)
def test_resizing_is_opencvs_to_a_level(name: str, bundle: ModelBundle) -> None:
    camera = CAMERAS[name]
    size = bundle.nearest_input(camera.width / camera.height)
    framing = Framing(camera, size.height, size.width)
    image = photograph(camera)
    difference = np.abs(resized(image, framing).astype(int) - framing.to_engine(image))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.15


def test_tensorrt_rtx_compiles_it(bundle: ModelBundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (pip install tensorrt-rtx-cu12)")
    camera = CAMERAS["stretched"]
    size = bundle.nearest_input(640 / 192)
    settings = FullFrame(camera, 0.5, 80.0, half=True, points=True)
    wrap(size, settings, tmp_path / "frame.onnx")
    request = BuildRequest(
        str(tmp_path / "frame.onnx"), size.height, size.width, "tensorrt_rtx", "8.9", contract=contract(settings)
    )
    report = build_engine(request, tmp_path / "plan", BuildWatch())
    assert report.engine_bytes > 0
    assert not report.warnings


def test_copies_are_counted() -> None:
    assert copied_bytes(375, 1242, half=False, points=False) == (1_397_250, 3_726_000)
    assert copied_bytes(375, 1242, half=True, points=True) == (1_397_250, 1_863_000 + 5_589_000)
