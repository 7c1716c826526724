"""Wrong data is refused before training, by name."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sem_depth_training.data.frames import DataError, read_index


def test_frames_read_back_as_written(driving_index: Path) -> None:
    frames = read_index(driving_index, "train")
    assert len(frames) == 4
    depth = frames[0].read_depth()
    assert depth.shape == (96, 160)
    assert depth[-1, 0] == pytest.approx(1.6 * 120 / 47.5, abs=1 / 256)
    assert (frames[0].read_sky() == (depth == 0)).all()


def test_all_missing_files_are_named_together(driving_index: Path, tmp_path: Path) -> None:
    (tmp_path / "0_image.png").unlink()
    (tmp_path / "2_depth.png").unlink()
    with pytest.raises(DataError, match=r"2 files are missing(.|\n)*0_image\.png(.|\n)*2_depth\.png"):
        read_index(driving_index, "train")


def test_a_corrupt_image_and_depth_of_another_size_are_named(driving_index: Path, tmp_path: Path) -> None:
    frames = read_index(driving_index, "train")
    (tmp_path / "0_image.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"0_image\.png.*cannot be decoded"):
        frames[0].read_image()
    (tmp_path / "0_image.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0_image\.png.*cannot be decoded"):
        frames[0].read_image()
    cv2.imwrite(str(tmp_path / "1_depth.png"), np.zeros((48, 80), np.uint16))
    with pytest.raises(DataError, match=r"1_depth\.png: is 80x48, the index says 160x96"):
        frames[1].read_depth()
    cv2.imwrite(str(tmp_path / "2_depth.png"), np.zeros((96, 160), np.uint8))
    with pytest.raises(DataError, match=r"2_depth\.png.*16-bit"):
        frames[2].read_depth()


@pytest.mark.parametrize(("suffix", "codec"), [(".jpg", "jpeg"), (".png", "png")])
def test_an_image_cut_short_is_named_and_not_filled_with_grey(
    driving_index: Path, tmp_path: Path, suffix: str, codec: str
) -> None:
    frame = read_index(driving_index, "train")[0]
    whole = cv2.imencode(suffix, cv2.imread(str(frame.image)))[1].tobytes()
    frame.image.write_bytes(whole + bytes(8))  # what follows the end does not matter
    assert frame.read_image().shape == (96, 160, 3)
    frame.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"0_image\.png: is a {codec} cut short"):
        frame.read_image()


def test_wrong_indexes_say_what_is_wrong(driving_index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frame of split 'test'; it has train, val"):
        read_index(driving_index, "test")
    text = driving_index.read_text(encoding="utf-8")
    driving_index.write_text(text.replace("120.0", "wide", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.csv: line 2: .*wide"):
        read_index(driving_index, "train")
    driving_index.write_text(text.replace(",fx,", ",focal,"), encoding="utf-8")
    with pytest.raises(DataError, match="lacks the columns fx"):
        read_index(driving_index, "train")
    driving_index.write_text(text.rsplit(",", 1)[0], encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.csv: line 6 ends before licence"):
        read_index(driving_index, "val")
    driving_index.write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match=r"index\.csv: is not UTF-8 text"):
        read_index(driving_index, "val")
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read"):
        read_index(tmp_path / "nowhere.csv", "train")
