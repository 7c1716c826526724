"""The measures of an evaluation, against cases whose answer is known, and the command on a drawn street."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from sem_depth_node.camera import CameraModel
from sem_depth_node.metrics import mean_metrics
from sem_depth_training.boundaries import REACH, boundary_error
from sem_depth_training.calibration import Calibration
from sem_depth_training.cli import app
from sem_depth_training.data.frames import DataError, Frame, read_index
from sem_depth_training.evaluate import Prediction, frame_metrics, predictor_of, protocol, with_flip, with_windows
from sem_depth_training.evaluation_report import evaluate
from sem_depth_training.flicker import Flicker
from sem_depth_training.floor import direction_floor
from sem_depth_training.generated_section import BEGIN, END, write_generated

CAMERA = CameraModel(320, 96, 180.0, 180.0, 159.5, 40.0)
SHIPPED = Path(__file__).parents[2] / "ros2_ws/src/sem_depth_node/models/compact"


def ground(camera: CameraModel, height: float = 1.6) -> NDArray[np.float32]:
    """Depth of a flat road, 0 above the horizon and beyond 100 m."""
    slopes = camera.ray_slopes()[1]
    depth = np.where(slopes > height / 100, height / np.maximum(slopes, 1e-6), 0)
    return np.repeat(depth[:, None], camera.width, axis=1).astype(np.float32)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Four frames of a road in two weathers, split train and val."""
    folder = tmp_path / "streets"
    folder.mkdir()
    rows = ["split,sequence,camera,image,depth,fx,fy,cx,cy,width,height,gt_kind,licence,sky"]
    depth = ground(CAMERA)
    picture = np.random.default_rng(0).integers(0, 255, (96, 320, 3), np.uint8)
    cv2.imwrite(str(folder / "sky.png"), np.where(depth == 0, 255, 0).astype(np.uint8))
    for place, (split, weather) in enumerate([("train", "sun"), ("train", "rain"), ("val", "sun"), ("val", "night")]):
        cv2.imwrite(str(folder / f"{place}.png"), picture)
        cv2.imwrite(str(folder / f"{place}_depth.png"), np.round(depth * 256).astype(np.uint16))
        rows.append(
            f"{split},street_city_{weather}_s0_{place},drawn,{place}.png,{place}_depth.png,180,180,159.5,40,320,96,dense,"
            "CC0,sky.png"
        )
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder / "index.csv"


def predict_ground(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
    depth = np.where(ground(camera) > 0, ground(camera), np.inf).astype(np.float32)
    return Prediction(depth, np.full(depth.shape, 0.9, np.float32))


def test_confidence_that_orders_pixels_as_their_errors_do_has_no_sparsification_error() -> None:
    truth = np.full(1000, 10.0)
    error = np.random.default_rng(0).uniform(0, 0.5, 1000)
    knowing, misled = Calibration(), Calibration()
    knowing.add(truth * (1 + error), truth, 1 - error)
    misled.add(truth * (1 + error), truth, error)
    assert knowing.summary()["ause"] == pytest.approx(0, abs=1e-12)
    assert knowing.summary()["aurg"] > 0.1  # type: ignore[operator]
    assert misled.summary()["aurg"] < -0.1  # type: ignore[operator]
    assert knowing.summary()["coverage"] == pytest.approx((error <= 0.1).mean())


def test_calibration_error_is_the_gap_between_stated_and_found() -> None:
    truth = np.full(100, 10.0)
    prediction = np.where(np.arange(100) < 60, 10.5, 15.0)
    sure = Calibration()
    sure.add(prediction, truth, np.full(100, 0.85))
    found = sure.summary()
    assert (found["coverage"], found["mean_confidence"]) == (pytest.approx(0.6), pytest.approx(0.85))
    assert found["ece"] == pytest.approx(0.25)


def test_a_boundary_that_is_off_by_four_pixels_is_off_by_four_pixels() -> None:
    truth, shifted, soft = (np.full((60, 120), 20.0, np.float32) for _ in range(3))
    truth[:, 60:] = 10
    shifted[:, 64:] = 10
    soft = cv2.GaussianBlur(truth, (0, 0), 20)
    exact, late, lost = (boundary_error(depth, truth, 80.0) for depth in (truth, shifted, soft))
    assert exact is not None
    assert (exact.accuracy, exact.completeness, exact.found) == (0, 0, 1)
    assert late is not None
    assert (late.accuracy, late.completeness, late.found) == (4, 4, 0)
    assert lost is not None
    assert (lost.accuracy, lost.completeness) == (REACH, REACH)
    assert boundary_error(truth, np.full((60, 120), 20.0, np.float32), 80.0) is None


def test_what_a_crop_leaves_unknown_is_neither_a_boundary_nor_a_missing_one() -> None:
    truth = np.full((80, 120), 20.0, np.float32)
    truth[:, 60:] = 10
    cut = truth.copy()
    cut[:16] = cut[-16:] = np.nan
    error = boundary_error(cut, truth, 80.0)
    assert error is not None
    assert (error.accuracy, error.completeness, error.found) == (0, 0, 1)
    assert boundary_error(np.full_like(truth, np.nan), truth, 80.0) is None


def test_flicker_counts_change_of_error_and_not_an_error_that_stays() -> None:
    steady, breathing, grainy = Flicker(), Flicker(), Flicker()
    wrong = np.full((10, 10), 0.3, np.float32)
    steady.add([wrong, wrong, wrong])
    breathing.add([wrong, wrong + np.float32(0.1), wrong])
    checker = np.float32(0.1) * (np.indices((10, 10)).sum(axis=0) % 2 * 2 - 1).astype(np.float32)
    grainy.add([checker, -checker])
    gap = Flicker()
    gap.add([wrong, None, wrong + 1])
    assert steady.summary() == {"pairs": 2, "local": 0.0, "scale": 0.0}
    assert breathing.summary() == {"pairs": 2, "local": pytest.approx(0.1), "scale": pytest.approx(0.1)}
    assert grainy.summary() == {"pairs": 1, "local": pytest.approx(0.2), "scale": pytest.approx(0.0)}
    assert gap.summary() is None


def test_the_floor_of_a_flat_road_is_that_road_for_every_camera(index: Path) -> None:
    floor = direction_floor(read_index(index, "train"))
    other = CameraModel(200, 80, 100.0, 100.0, 99.5, 30.0)
    depth = floor(np.zeros((80, 200, 3), np.uint8), other).depth
    road = ground(other)
    near = (road > 6) & (road < 20)  # nearer ground is below what the training camera sees
    assert near.sum() > 1000
    np.testing.assert_allclose(depth[near], road[near], rtol=0.15)
    assert depth[-1, 0] == depth[road > 0].min()


def test_flip_and_windows_agree_with_the_whole_image_where_the_answer_is_known() -> None:
    image = np.zeros((96, 320, 3), np.uint8)
    whole = predict_ground(image, CAMERA)
    flipped = with_flip(predict_ground)(image, CAMERA)
    windowed = with_windows(predict_ground, 4, 1.5)(image, CAMERA)
    np.testing.assert_allclose(flipped.depth, whole.depth, rtol=1e-6)
    np.testing.assert_allclose(windowed.depth, whole.depth, rtol=1e-6)
    with pytest.raises(DataError, match="at least 3"):
        with_windows(predict_ground, 2, 1.5)(image, CAMERA)
    with pytest.raises(DataError, match="6 windows of 320 pixels do not differ in an image 320 wide"):
        with_windows(predict_ground, 6, 4.0)(image, CAMERA)


def test_flip_mirrors_the_image_and_the_principal_point() -> None:
    seen = []

    def predict(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        seen.append((image[0, :, 0].tolist(), camera.cx))
        return Prediction(image[..., 0].astype(np.float32), np.zeros(image.shape[:2], np.float32))

    image = np.repeat(np.array([[[1], [2], [3]]], np.uint8), 3, axis=2)
    mean = with_flip(predict)(image, CameraModel(3, 1, 5.0, 5.0, 0.5, 0.0)).depth
    assert seen == [([1, 2, 3], 0.5), ([3, 2, 1], 1.5)]
    assert mean.tolist() == [[1, 2, 3]]


def test_an_evaluation_of_the_truth_finds_no_error_anywhere(index: Path) -> None:
    frames = read_index(index, "val")
    floor = direction_floor(read_index(index, "train"))
    content = evaluate(predict_ground, frames, protocol("none"), "none", floor).as_json()
    assert content["mean"]["abs_rel"] < 1e-3
    assert content["floor"]["abs_rel"] > content["mean"]["abs_rel"]
    assert content["boundaries"]["found"] == 1
    assert set(content["by_weather"]) == {"sun", "night"}
    assert sum(part["pixels"] for part in content["by_range"]) == sum(part["pixels"] for part in content["by_row"])
    assert content["calibration"]["coverage"] == 1
    assert content["flicker"] is None


def test_the_other_camera_of_a_pair_is_no_next_frame(index: Path) -> None:
    rows = index.read_text().splitlines()
    head, first, second = rows[0], rows[1], rows[2]
    cells = first.split(",")

    def row(camera: str, files: str) -> str:
        image, depth = files.split(",")[3:5]
        return ",".join(["val", "drive", camera, image, depth, *cells[5:]])

    index.write_text(
        "\n".join([head, *(row(camera, files) for camera in ("left", "right") for files in (first, second))])
    )
    flicker = evaluate(predict_ground, read_index(index, "val"), protocol("none"), "none").as_json()["flicker"]
    assert flicker["pairs"] == 2
    frames = read_index(index, "val")
    thinned = evaluate(predict_ground, frames, protocol("none"), "none", thinned=True).as_json()["flicker"]
    assert thinned is None, "frames between these were left out"


def test_frames_without_an_answer_are_not_counted(index: Path) -> None:
    def blind(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        nothing = np.full(image.shape[:2], np.nan, np.float32)
        return Prediction(nothing, np.zeros_like(nothing))

    frames: list[Frame] = read_index(index, "val")
    with pytest.raises(DataError, match="has no depth in the evaluated range and crop"):
        evaluate(blind, frames, protocol())
    with pytest.raises(DataError, match="has no depth in the evaluated range and crop"):
        frame_metrics(blind, frames)

    def half_blind(image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        calls.append(1)
        return predict_ground(image, camera) if len(calls) > 1 else blind(image, camera)

    calls: list[int] = []
    assert evaluate(half_blind, frames, protocol()).frames == frames[1:]


def test_generated_results_replace_only_what_was_generated(tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    write_generated(document, "one")
    document.write_text(f"# Title\n\n{document.read_text()}\nLast words.\n")
    write_generated(document, "two")
    assert document.read_text() == f"# Title\n\n{BEGIN}\ntwo\n{END}\n\nLast words.\n"


def test_a_full_disk_leaves_the_document_as_it_was_and_names_it(tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text("Written by hand.\n")
    (tmp_path / "d.md.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_generated(document, "one")
    assert raised.value.filename == str(document)
    assert document.read_text() == "Written by hand.\n"
    write_generated(document, "one")
    assert document.read_text() == f"Written by hand.\n\n{BEGIN}\none\n{END}\n"


def test_the_command_writes_numbers_tables_and_pictures_of_the_shipped_network(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", str(SHIPPED), str(index), "--streets", str(index), "--streets-split", "val", "--flip"]
    arguments += ["--json", str(out / "e.json"), "--markdown", str(out / "e.md"), "--plots", str(out / "plots")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "e.json").read_text())
    assert set(report["sets"]) == {"streets/val", "streets/val_no_crop"}
    content = report["sets"]["streets/val"]
    assert "mean with the mirrored image" in content["protocol"]
    assert content["frames_evaluated"] == 2
    expected = mean_metrics(frame_metrics(predictor_of(SHIPPED, (192, 640), flip=True), read_index(index, "val")))
    assert content["mean"] == pytest.approx(expected, rel=1e-6)
    assert "| network |" in (out / "e.md").read_text()
    assert {path.name for path in (out / "plots").iterdir()} == {
        *("streets_val_curves.png", "streets_val_frames.jpg", "weather.jpg", "day_rain_night.jpg"),
        *("streets_val_no_crop_curves.png", "streets_val_no_crop_frames.jpg"),
    }
