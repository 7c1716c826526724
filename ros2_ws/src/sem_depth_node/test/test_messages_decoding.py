"""Images of every encoding come out as the picture that went in."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from encoded_images import encode, two_halves
from hypothesis import given
from hypothesis import strategies as st

from sem_depth_node.bad_input import BadInput
from sem_depth_node.image_decoding import ENCODINGS, ImageDecoder

LEFT, RIGHT = (200, 100, 50), (30, 60, 220)
GREY = ("mono8", "mono16", "8UC1")
SIXTEEN_BIT = [name for name in ENCODINGS if name.endswith("16")]


def expected(rgb: np.ndarray, encoding: str) -> np.ndarray:
    return np.repeat(rgb[..., :1], 3, axis=2) if encoding in GREY else rgb


@given(
    encoding=st.sampled_from(ENCODINGS),
    height=st.integers(2, 10).map(lambda n: 2 * n),
    width=st.integers(2, 10).map(lambda n: 4 * n),
    left=st.tuples(*[st.integers(0, 255)] * 3),
    right=st.tuples(*[st.integers(0, 255)] * 3),
    padding=st.sampled_from((0, 1, 2, 7, 64)),
    big_endian=st.booleans(),
    whole=st.booleans(),
)
def test_every_encoding_gives_the_picture_back(
    encoding: str,
    height: int,
    width: int,
    left: tuple[int, int, int],
    right: tuple[int, int, int],
    padding: int,
    big_endian: bool,
    whole: bool,
) -> None:
    rgb = two_halves(height, width, left, right)
    image = encode(rgb, encoding, padding, big_endian, whole)
    decoded = ImageDecoder().decode(image)
    assert decoded.shape == rgb.shape
    assert decoded.dtype == np.uint8
    # Inside each half: a Bayer pattern mixes neighbours at the seam. YUV of 8 bits loses up to 2 levels.
    tolerance = 3 if encoding.startswith(("yuv", "yuyv", "uyvy", "nv")) else 0
    for columns in (slice(1, width // 2 - 1), slice(width // 2 + 1, width - 1)):
        difference = decoded[:, columns].astype(int) - expected(rgb, encoding)[:, columns]
        assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("encoding", SIXTEEN_BIT)
def test_byte_order_is_honoured(encoding: str) -> None:
    rgb = two_halves(8, 16, LEFT, RIGHT)
    swapped = encode(rgb, encoding, big_endian=True)
    swapped.is_bigendian = 0
    assert not np.array_equal(ImageDecoder().decode(swapped), ImageDecoder().decode(encode(rgb, encoding)))


def test_rgb_is_not_copied() -> None:
    image = encode(two_halves(8, 16, LEFT, RIGHT), "rgb8", padding=5)
    image.data = bytearray(image.data)
    decoded = ImageDecoder().decode(image)
    image.data[0] = 9
    assert decoded[0, 0, 0] == 9


def test_numpy_data_is_read_as_rclpys() -> None:
    rgb = two_halves(8, 16, LEFT, RIGHT)
    image = encode(rgb, "bgr8", padding=3)
    image.data = np.frombuffer(image.data, np.uint8)
    assert np.array_equal(ImageDecoder().decode(image), rgb)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("field", "change", "fault"),
    [
        ("step", -1, "size_mismatch"),
        ("height", 2, "size_mismatch"),
        ("height", -2, "size_mismatch"),
        ("width", 4, "size_mismatch"),
    ],
)
def test_sizes_that_disagree_are_refused(encoding: str, field: str, change: int, fault: str) -> None:
    image = encode(two_halves(8, 16, LEFT, RIGHT), encoding)
    setattr(image, field, getattr(image, field) + change)
    with pytest.raises(BadInput, match="expected") as problem:
        ImageDecoder().decode(image)
    assert problem.value.fault == fault


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_missing_bytes_are_refused(encoding: str) -> None:
    image = encode(two_halves(8, 16, LEFT, RIGHT), encoding)
    image.data = image.data[:-1]
    with pytest.raises(BadInput, match="data holds") as problem:
        ImageDecoder().decode(image)
    assert problem.value.fault == "size_mismatch"


@pytest.mark.parametrize(("height", "width"), [(0, 16), (8, 0), (0, 0)])
def test_zero_size_is_refused(height: int, width: int) -> None:
    image = SimpleNamespace(height=height, width=width, encoding="rgb8", step=3 * width, is_bigendian=0, data=b"")
    with pytest.raises(BadInput, match=f"{width}x{height}") as problem:
        ImageDecoder().decode(image)
    assert problem.value.fault == "zero_size"


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1", "RGB8", "", "h264"])
def test_unknown_encodings_are_named(encoding: str) -> None:
    image = encode(two_halves(8, 16, LEFT, RIGHT), "rgb8")
    image.encoding = encoding
    with pytest.raises(BadInput, match=f"'{encoding}', expected one of rgb8") as problem:
        ImageDecoder().decode(image)
    assert problem.value.fault == "unknown_encoding"


@pytest.mark.parametrize("encoding", ["yuv422", "yuv422_yuy2", "nv12", "nv21"])
def test_odd_widths_that_cannot_be_are_refused(encoding: str) -> None:
    image = encode(two_halves(8, 16, LEFT, RIGHT), encoding)
    image.width = 15
    with pytest.raises(BadInput, match="even width"):
        ImageDecoder().decode(image)


def compressed(rgb: np.ndarray, name: str, suffix: str) -> SimpleNamespace:
    ok, data = cv2.imencode(suffix, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert ok
    return SimpleNamespace(format=name, data=data.tobytes())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("jpeg", ".jpg"),
        ("jpg", ".jpg"),
        ("png", ".png"),
        ("rgb8; jpeg compressed bgr8", ".jpg"),
        ("bgr8; png compressed bgr8", ".png"),
    ],
)
def test_compressed_images_give_the_picture_back(name: str, suffix: str) -> None:
    rgb = two_halves(16, 32, LEFT, RIGHT)
    decoded = ImageDecoder().decode_compressed(compressed(rgb, name, suffix))
    for columns in (slice(0, 8), slice(24, 32)):  # whole jpeg blocks
        assert np.abs(decoded[:, columns].astype(int) - rgb[:, columns]).max() <= 3


def test_jpegs_encoded_as_rgb_keep_their_colours() -> None:
    rgb = two_halves(16, 32, LEFT, RIGHT)
    swapped = compressed(rgb[..., ::-1], "rgb8; jpeg compressed rgb8", ".png")
    assert np.array_equal(ImageDecoder().decode_compressed(swapped), rgb)


def mosaic_of(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The grey picture that a camera with a Bayer filter takes, as it is in the data of a raw message."""
    depth = np.uint16 if encoding.endswith("16") else np.uint8
    return np.frombuffer(encode(rgb, encoding).data, depth).reshape(rgb.shape[:2])


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.startswith("bayer_")])
@pytest.mark.parametrize("after", ["", " ", " SAME"])
def test_compressed_mosaics_have_the_colours_of_raw_ones(encoding: str, after: str) -> None:
    rgb = two_halves(16, 32, LEFT, RIGHT)
    ok, data = cv2.imencode(".png", mosaic_of(rgb, encoding))
    assert ok
    image = SimpleNamespace(format=f"{encoding}; png compressed{after.replace('SAME', encoding)}", data=data.tobytes())
    raw = ImageDecoder().decode(encode(rgb, encoding))
    assert np.array_equal(ImageDecoder().decode_compressed(image), raw)


def test_what_was_no_mosaic_any_more_when_compressed_is_taken_as_it_is() -> None:
    rgb = two_halves(16, 32, LEFT, RIGHT)
    for name in ("bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed"):
        in_colour = ImageDecoder().decode_compressed(compressed(rgb, name, ".png"))
        assert np.array_equal(in_colour, rgb), "a file of three channels has its colours"
    ok, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    assert ok
    grey = ImageDecoder().decode_compressed(
        SimpleNamespace(format="bayer_rggb8; jpeg compressed mono8", data=data.tobytes())
    )
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_cut_short_are_refused(suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = compressed(noise, "jpeg; png", suffix)
    image.data = image.data[: len(image.data) // 2]
    with pytest.raises(BadInput, match="cut short") as problem:
        ImageDecoder().decode_compressed(image)
    assert problem.value.fault == "undecodable"


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8rubbish\xff\xd9"])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput) as problem:
        ImageDecoder().decode_compressed(SimpleNamespace(format="jpeg", data=data))
    assert problem.value.fault == "undecodable"


@pytest.mark.parametrize("name", ["h264", "", "16UC1; compressedDepth png"])
def test_other_codecs_are_named(name: str) -> None:
    with pytest.raises(BadInput, match="expected jpeg or png") as problem:
        ImageDecoder().decode_compressed(SimpleNamespace(format=name, data=b"x"))
    assert problem.value.fault == "unknown_encoding"


def test_a_rotation_in_exif_leaves_the_pixels_where_the_calibration_has_them() -> None:
    rgb = two_halves(16, 32, LEFT, RIGHT)
    image = compressed(rgb, "jpeg", ".jpg")
    orientation = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(orientation) + 2).to_bytes(2, "big") + orientation
    image.data = image.data[:2] + segment + image.data[2:]
    rotated = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    assert rotated is not None
    assert rotated.shape == (32, 16, 3), "the picture must carry a rotation for this test to mean anything"
    assert ImageDecoder().decode_compressed(image).shape == (16, 32, 3)
