"""Corruptions and the score over them."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_training.corruptions import CORRUPTIONS, OWN, ROBODEPTH, SEVERITIES, corrupt
from sem_depth_training.data.frames import DataError, Frame
from sem_depth_training.evaluate import Prediction
from sem_depth_training.robustness import (
    CLEAN,
    Robustness,
    RobustnessError,
    Score,
    _read_baseline,
    constant_scores,
    levels,
    markdown,
    measure,
    read_scores,
    write_scores,
)

RUN = {"model": "m", "digest": "0" * 64, "data": "d/val", "frames": 1, "protocol": "p"}


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Smooth colours with edges, so that blur, blocks and noise all show."""
    v, u = np.mgrid[0:96, 0:160]
    picture = np.stack([u * 1.5, v * 2.5, 255 - u], axis=-1).clip(0, 255).astype(np.uint8)
    cv2.rectangle(picture, (40, 30), (90, 70), (230, 40, 60), -1)
    return picture


@pytest.fixture(scope="module")
def panes() -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(1).integers(0, 255, (120, 100, 3), np.uint8)]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_repeats_itself(
    name: str, image: NDArray[np.uint8], panes: list[NDArray[np.uint8]]
) -> None:
    changes = []
    for severity in SEVERITIES:
        first, again = (corrupt(image, name, severity, 7, panes) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == image.shape
        assert first.dtype == np.uint8
        changes.append(float(np.abs(first.astype(float) - image).mean()))
    assert changes[0] > 0.2
    assert changes[-1] > changes[0]


def test_corruptions_do_what_their_parameters_say(image: NDArray[np.uint8]) -> None:
    grey = np.full((96, 160, 3), 128, np.uint8)
    noisy = corrupt(grey, "gaussian_noise", 1, 0).astype(float) / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.03)
    hit = corrupt(grey, "impulse_noise", 5, 0)
    assert np.isin(hit, (0, 255)).mean() == pytest.approx(0.27, abs=0.01)
    assert set(np.unique(corrupt(image, "color_quant", 5, 0))) == {0, 128}
    flat = corrupt(image, "contrast", 4, 0).astype(float)
    assert flat.std(axis=(0, 1)) == pytest.approx(0.1 * image.astype(float).std(axis=(0, 1)), rel=0.03)
    blocks = corrupt(image, "pixelate", 5, 0)
    np.testing.assert_array_equal(blocks[:4, :4], np.broadcast_to(blocks[0, 0], (4, 4, 3)))


def test_seeds_differ_and_wrong_names_are_refused(image: NDArray[np.uint8]) -> None:
    assert (corrupt(image, "snow", 3, 0) != corrupt(image, "snow", 3, 1)).any()
    with pytest.raises(ValueError, match="expected 1 to 5 of brightness"):
        corrupt(image, "hail", 1, 0)
    with pytest.raises(ValueError, match="pictures of frosted panes"):
        corrupt(image, "frost", 1, 0)


def scores_of(dee: float) -> dict[str, dict[int, Score]]:
    """Every corruption at one error; clean without any."""
    return {CLEAN: {0: Score(0.0, 1.0)}, **{n: dict.fromkeys(SEVERITIES, Score(dee, 1 - dee)) for n in CORRUPTIONS}}


def test_mce_and_mrr_follow_their_definition() -> None:
    result = Robustness(RUN, scores_of(0.3), "b", scores_of(0.6))
    assert result.mean(result.corruption_error) == pytest.approx(50)
    assert result.mean(result.resilience) == pytest.approx(70)
    assert result.dee("fog") == pytest.approx(0.3)


def test_rain_and_night_are_beside_the_mean_and_not_in_it() -> None:
    scores = scores_of(0.3)
    for name in OWN:
        scores[name] = dict.fromkeys(SEVERITIES, Score(0.9, 0.1))
    result = Robustness(RUN, scores, "b", scores_of(0.6))
    assert result.mean(result.corruption_error) == pytest.approx(50)
    assert len(ROBODEPTH) == 18
    assert "| night * |" in markdown(result)


def test_clean_images_published_by_robodepth_give_the_published_resilience() -> None:
    """MonoDepth2 R18 of the benchmark's table: DEE of each corruption, 84.46 % mRR."""
    published = [0.130, 0.280, 0.155, 0.277, 0.511, 0.187, 0.244, 0.242, 0.216, 0.201, 0.129, 0.193]
    published += [0.384, 0.389, 0.340, 0.388, 0.145, 0.196]
    scores = {CLEAN: {0: Score(0.119, 0.881)}}
    scores |= {n: {s: Score(d, 1 - d) for s in SEVERITIES} for n, d in zip(ROBODEPTH, published, strict=True)}
    result = Robustness(RUN, scores, "itself", scores)
    assert result.mean(result.resilience) == pytest.approx(84.46, abs=0.03)
    assert result.mean(result.corruption_error) == pytest.approx(100)


@pytest.fixture
def frame(tmp_path: Path, image: NDArray[np.uint8]) -> Frame:
    cv2.imwrite(str(tmp_path / "i.png"), image)
    cv2.imwrite(str(tmp_path / "d.png"), np.full((96, 160), 10 * 256, np.uint16))
    camera = CameraModel(160, 96, 100.0, 100.0, 79.5, 47.5)
    return Frame(tmp_path / "i.png", tmp_path / "d.png", None, camera, "s", "CC0")


def test_measuring_goes_on_where_it_stopped_and_sees_the_resized_camera(frame: Frame, tmp_path: Path) -> None:
    cameras = []

    def predict(picture: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        cameras.append(camera)
        depth = np.full(picture.shape[:2], 11.0, np.float32)
        return Prediction(depth, depth)

    scores = {"fog": {2: Score(0.5, 0.5)}}
    measure(predict, [frame], (48, 80), ["fog"], [], scores)
    assert len(cameras) == 5  # clean and four severities
    assert {(camera.width, camera.fx) for camera in cameras} == {(80, 50.0)}
    assert scores["fog"][2] == Score(0.5, 0.5)
    assert scores["fog"][1].abs_rel == pytest.approx(0.1, abs=1e-6)
    file = tmp_path / "r.json"
    write_scores(file, RUN, scores)
    assert read_scores(file, RUN) == scores
    assert len(levels(["fog"])) == 6


def test_a_file_of_another_measurement_is_not_mixed_in(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    write_scores(file, RUN, scores_of(0.3))
    with pytest.raises(RobustnessError, match=r"r\.json: of another measurement: frames 1 for 2"):
        read_scores(file, {**RUN, "frames": 2})
    file.write_text(json.dumps({"scores": 3}))
    with pytest.raises(RobustnessError, match="not a result of sem-depth-train robustness"):
        read_scores(file)


def test_a_baseline_that_lacks_a_level_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    scores = scores_of(0.5)
    del scores["fog"], scores["snow"][3]
    write_scores(file, RUN, scores)
    with pytest.raises(RobustnessError, match=r"other\.json: has no snow 3, fog 1, fog 2, .*finish measuring it"):
        _read_baseline(file, RUN, ["snow", "fog", "frost"])
    assert _read_baseline(file, RUN, ["frost"]) == scores


def test_what_is_beyond_range_counts_and_frames_without_depth_do_not(frame: Frame, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "nothing.png"), np.zeros((96, 160), np.uint16))
    unmeasured = replace(frame, depth=tmp_path / "nothing.png")

    def predict(picture: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        depth = np.full(picture.shape[:2], 10.0, np.float32)
        depth[:, : depth.shape[1] // 2] = np.inf
        return Prediction(depth, depth)

    scores = constant_scores(predict, [unmeasured, frame], (48, 80))
    assert scores[CLEAN][0].abs_rel == pytest.approx((80 - 10) / 10 / 2, rel=0.02), "half of it at 80 m"
    with pytest.raises(DataError, match=r"nothing\.png: has no depth in the evaluated range"):
        constant_scores(predict, [unmeasured], (48, 80))


def test_a_frame_without_any_answer_is_named(frame: Frame) -> None:
    seen: list[NDArray[np.uint8]] = []

    def silent_but_for_the_first(picture: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        seen.append(picture)
        depth = np.full(picture.shape[:2], 10.0 if len(seen) == 1 else np.nan, np.float32)
        return Prediction(depth, depth)

    said = rf"{frame.image.name} \(snow 1\): the model answers at none of its \d+ measured"
    with pytest.raises(RobustnessError, match=said):
        measure(silent_but_for_the_first, [frame], (48, 80), ["snow"], [], {})


def test_what_does_not_look_at_the_image_is_the_same_under_every_corruption(frame: Frame) -> None:
    def constant(picture: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        depth = np.full(picture.shape[:2], 20.0, np.float32)
        return Prediction(depth, depth)

    scores = constant_scores(constant, [frame], (48, 80))
    assert scores["snow"][5] == scores[CLEAN][0] == Score(1.0, 0.0)
