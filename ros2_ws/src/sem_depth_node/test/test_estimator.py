"""The estimator: metres, validity and geometry of what comes out, with an engine whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.bundle import GraphInput, Manifest, ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.engine import EngineOutput
from sem_depth_node.estimator import DepthEstimator, EstimatorSettings

CANONICAL = 500.0


class RedDepth:
    """An engine that reads canonical depth in metres from the red channel and is equally sure everywhere."""

    description = "red channel"
    concurrent = False
    opens_quickly = True

    def __init__(self, height: int, width: int, log_scale: float = -3.0) -> None:
        self.height, self.width, self.log_scale = height, width, log_scale
        self.seen: list[tuple[int, ...]] = []
        self.closed = False

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        self.seen.append(image.shape)
        depth = image[..., 0].astype(np.float32)
        return EngineOutput(depth, np.full_like(depth, self.log_scale))

    def close(self) -> None:
        self.closed = True


def bundle() -> ModelBundle:
    manifest = Manifest(
        name="red",
        description="",
        inputs=(GraphInput(onnx="red.onnx", height=48, width=160),),
        files={"red.onnx": "0" * 64},
        canonical_focal_length=CANONICAL,
        depth_range=(0.5, 80.0),
        precision="float32",
        training_data=(),
        weights_licence="CC0-1.0",
        metrics=(),
    )
    return ModelBundle(Path("red"), manifest)


def image_of(camera: CameraModel, red: int) -> NDArray[np.uint8]:
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    image[..., 0] = red
    return image


KITTI = CameraModel(1242, 375, 721.5, 721.5, 609.6, 172.9)


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_metres_follow_the_focal_length_of_the_resized_image(zoom: float) -> None:
    camera = CameraModel(1242, 375, 721.5 * zoom, 721.5 * zoom, 609.6, 172.9)
    estimate = DepthEstimator(bundle(), [RedDepth(48, 160)]).estimate(image_of(camera, 40), camera)
    resized = camera.resized(160, 48)
    expected = 40 * np.sqrt(resized.fx * resized.fy) / CANONICAL
    np.testing.assert_allclose(estimate.depth, expected, rtol=1e-5)


def test_depth_has_the_size_and_camera_of_the_image_unless_native_size_is_asked_for() -> None:
    estimator = DepthEstimator(bundle(), [RedDepth(48, 160)])
    estimate = estimator.estimate(image_of(KITTI, 40), KITTI)
    assert estimate.depth.shape == estimate.confidence.shape == (375, 1242)
    assert estimate.camera == KITTI
    estimator.settings = EstimatorSettings(native_size=True)
    estimate = estimator.estimate(image_of(KITTI, 40), KITTI)
    assert estimate.depth.shape == estimate.confidence.shape == (48, 160)
    assert estimate.camera == KITTI.resized(160, 48)


@pytest.mark.parametrize(("fit", "native_size"), [("crop", False), ("letterbox", True)])
def test_pixels_without_an_answer_are_nan_with_no_confidence(fit: str, native_size: bool) -> None:
    square = CameraModel(300, 300, 250, 250, 150, 150)
    settings = EstimatorSettings(fit=fit, native_size=native_size)  # type: ignore[arg-type]
    estimate = DepthEstimator(bundle(), [RedDepth(48, 160)], settings).estimate(image_of(square, 200), square)
    unanswered = np.isnan(estimate.depth)
    assert 0.5 < unanswered.mean() < 0.9
    assert (estimate.confidence[unanswered] == 0).all()
    assert (estimate.confidence[~unanswered] > 0).all()


def test_a_letterbox_answers_up_to_the_border_of_the_image() -> None:
    square = CameraModel(300, 300, 250, 250, 150, 150)
    estimator = DepthEstimator(bundle(), [RedDepth(48, 160)], EstimatorSettings(fit="letterbox"))
    assert np.isfinite(estimator.estimate(image_of(square, 100), square).depth).all()


def test_too_far_is_infinite_and_too_near_is_nan() -> None:
    estimator = DepthEstimator(bundle(), [RedDepth(48, 160)], EstimatorSettings(min_depth=2.0, max_depth=20.0))
    scale = KITTI.resized(160, 48).focal_length / CANONICAL
    assert np.isposinf(estimator.estimate(image_of(KITTI, int(30 / scale)), KITTI).depth).all()
    assert np.isnan(estimator.estimate(image_of(KITTI, int(1 / scale)), KITTI).depth).all()
    assert np.isfinite(estimator.estimate(image_of(KITTI, int(10 / scale)), KITTI).depth).all()


def test_the_bundles_range_holds_when_none_is_set() -> None:
    wide = CameraModel(1242, 375, 7000, 7000, 609.6, 172.9)
    assert np.isposinf(DepthEstimator(bundle(), [RedDepth(48, 160)]).estimate(image_of(wide, 200), wide).depth).all()


def test_unsure_pixels_are_dropped_only_below_the_threshold_asked_for() -> None:
    for log_scale, dropped in ((-3.0, False), (0.0, True)):
        estimator = DepthEstimator(bundle(), [RedDepth(48, 160, log_scale)], EstimatorSettings(min_confidence=0.5))
        depth = estimator.estimate(image_of(KITTI, 40), KITTI).depth
        assert np.isnan(depth).all() == dropped


def test_flying_pixels_between_near_and_far_are_dropped() -> None:
    image = image_of(KITTI, 250)
    image[:, :600, 0] = 60
    estimator = DepthEstimator(bundle(), [RedDepth(48, 160)])
    estimate = estimator.estimate(image, KITTI)
    flying = np.isnan(estimate.depth)
    assert flying[:, 600].all()
    assert not flying[:, :570].any()
    assert not flying[:, 630:].any()
    assert (estimate.confidence[flying] == 0).all(), "also where scaling spread them"
    estimator.settings = EstimatorSettings(flying_pixel_threshold=0)
    assert not np.isnan(estimator.estimate(image, KITTI).depth).any()


def test_what_is_too_near_has_no_confidence() -> None:
    image = image_of(KITTI, 100)
    image[:, :600, 0] = 10
    settings = EstimatorSettings(min_depth=2.0, flying_pixel_threshold=0.0)
    estimate = DepthEstimator(bundle(), [RedDepth(48, 160)], settings).estimate(image, KITTI)
    too_near = np.isnan(estimate.depth)
    assert too_near[:, :570].all()
    np.testing.assert_array_equal(estimate.confidence == 0, too_near)


def test_an_image_goes_to_the_engine_of_the_nearest_aspect() -> None:
    wide, tall = RedDepth(48, 160), RedDepth(64, 96)
    estimator = DepthEstimator(bundle(), [wide, tall])
    waymo = CameraModel(1920, 1280, 2000, 2000, 960, 640)
    for camera in (KITTI, waymo, KITTI):  # changing mid-stream, and back
        assert estimator.estimate(image_of(camera, 40), camera).depth.shape == (camera.height, camera.width)
    assert (len(wide.seen), len(tall.seen)) == (2, 1)


def test_an_image_of_another_size_than_its_camera_is_refused_by_name() -> None:
    estimator = DepthEstimator(bundle(), [RedDepth(48, 160)])
    with pytest.raises(ValueError, match=r"\(100, 100, 3\).*\(375, 1242, 3\)"):
        estimator.estimate(np.zeros((100, 100, 3), np.uint8), KITTI)


def test_warm_up_runs_and_close_closes_every_engine() -> None:
    engines = [RedDepth(48, 160), RedDepth(64, 96)]
    estimator = DepthEstimator(bundle(), engines)
    estimator.warm_up()
    assert [engine.seen for engine in engines] == [[(48, 160, 3)], [(64, 96, 3)]]
    estimator.close()
    assert all(engine.closed for engine in engines)


def test_an_estimator_without_engines_is_refused() -> None:
    with pytest.raises(ValueError, match="no engine"):
        DepthEstimator(bundle(), [])


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, 0.0, -3.0])
def test_nonsense_from_an_engine_is_unknown_not_far(nonsense: float) -> None:
    class Overflowing(RedDepth):
        def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
            output = super().infer(image)
            output.depth[20:30, 70:90] = nonsense
            return output

    with np.errstate(all="raise"):
        depth = DepthEstimator(bundle(), [Overflowing(48, 160)]).estimate(image_of(KITTI, 40), KITTI).depth
    assert np.isnan(depth[170:230, 560:690]).all()
    assert np.isfinite(depth[:100]).all()
