"""Images in, every output out: geometry, stamps, encodings, what is computed when."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from encoded_images import encode
from running_node import Bench, RunningNode, bench, free_domain, nanoseconds, wait_for
from scenes import (
    CAMERA,
    FRAME,
    HEIGHT,
    LEFT,
    RIGHT,
    SECOND,
    WIDTH,
    image_message,
    info_message,
    metric_depth,
    picture,
    plane,
)
from tiny_bundle import log_scale

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.image_decoding import ENCODINGS

STAMP = 1_600_000_000 * SECOND + 123_456_789


@pytest.fixture(scope="module")
def domain() -> int:
    return free_domain()


@pytest.fixture(scope="module")
def node(domain: int, tiny_bundle: ModelBundle) -> Iterator[RunningNode]:
    """The node, in a namespace, with its input remapped."""
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}
    remapping = ("-r", "__ns:=/front", "-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info")
    with RunningNode(domain, parameters, *remapping) as running:
        running.said("active", "/camera/image_raw", "/camera/camera_info")
        yield running


@pytest.fixture(scope="module")
def robot(domain: int, node: RunningNode) -> Iterator[Bench]:
    with bench(domain, node="/front/sem_depth", namespace="/front") as opened:
        opened.camera("/camera/image_raw", "/camera/camera_info")
        yield opened


@pytest.fixture
def listening(robot: Bench) -> Bench:
    """The robot, subscribed to every output."""
    robot.listen_to_all()
    return robot


def inside(half: str) -> tuple[slice, slice]:
    """Pixels of one half of the picture, away from the seam that scaling blurs."""
    columns = slice(0, WIDTH // 2 - 8) if half == "left" else slice(WIDTH // 2 + 8, WIDTH)
    return slice(0, HEIGHT), columns


def test_every_output_comes_with_the_images_stamp_and_frame(listening: Bench) -> None:
    listening.show(image_message(STAMP), info_message(STAMP))
    for topic in ("depth/image", "depth/camera_info", "depth/confidence", "depth/points", "depth/preview"):
        message = listening.output(topic, STAMP)
        assert message.header.frame_id == FRAME
        assert (message.width, message.height) == (WIDTH, HEIGHT)

    depth = plane(listening.output("depth/image", STAMP))
    assert depth[inside("left")] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)
    assert depth[inside("right")] == pytest.approx(metric_depth(RIGHT[0]), rel=1e-6)
    # The edge between the halves hangs in the air.
    assert np.isnan(depth[:, WIDTH // 2]).all()

    confidence = plane(listening.output("depth/confidence", STAMP))
    for half, colour in (("left", LEFT), ("right", RIGHT)):
        probability = 1 - math.exp(-math.log(1.1) / math.exp(log_scale(colour[1])))
        assert confidence[inside(half)] == pytest.approx(probability, rel=1e-5)
    assert (confidence[:, WIDTH // 2] == 0).all()

    info = listening.output("depth/camera_info", STAMP)
    assert info.k == pytest.approx([CAMERA.fx, 0, CAMERA.cx, 0, CAMERA.fy, CAMERA.cy, 0, 0, 1])
    assert info.p == pytest.approx(info_message(STAMP).p)

    cloud = listening.output("depth/points", STAMP)
    assert [(field.name, field.offset, field.datatype) for field in cloud.fields] == [
        ("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("rgb", 12, 7)
    ]  # fmt: skip
    assert (cloud.point_step, cloud.row_step, cloud.is_dense) == (16, 16 * WIDTH, False)
    points = np.frombuffer(cloud.data, "<f4").reshape(HEIGHT, WIDTH, 4)
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    known = np.isfinite(depth)
    np.testing.assert_allclose(points[known][:, 2], depth[known], rtol=1e-5)
    np.testing.assert_allclose(points[known][:, 0], (depth * (u - CAMERA.cx) / CAMERA.fx)[known], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(points[known][:, 1], (depth * (v - CAMERA.cy) / CAMERA.fy)[known], rtol=1e-5, atol=1e-6)
    assert np.isnan(points[~known][:, :3]).all()
    packed = np.frombuffer(cloud.data, "<u4").reshape(HEIGHT, WIDTH, 4)[..., 3]
    assert packed[0, 0] == LEFT[0] << 16 | LEFT[1] << 8 | LEFT[2]
    assert packed[0, -1] == RIGHT[0] << 16 | RIGHT[1] << 8 | RIGHT[2]

    preview = listening.output("depth/preview", STAMP)
    colours = np.frombuffer(preview.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (preview.encoding, preview.step) == ("bgr8", 3 * WIDTH)
    assert colours[0, 0].tolist() != colours[0, -1].tolist()
    assert not colours[:, WIDTH // 2].any(), "what is not known is black"

    timing = {pair.key: float(pair.value) for pair in listening.output("depth/timing", STAMP).status[0].values}
    parts = ("waiting", "decoding", "engine", "estimating", "building", "publishing")
    assert timing["latency (ms)"] == pytest.approx(sum(timing[f"{part} (ms)"] for part in parts), abs=0.01)
    assert all(timing[f"{part} (ms)"] >= 0 for part in parts)


def test_a_frame_does_not_show_through_in_the_next(listening: Bench) -> None:
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for index, value in enumerate((40, 200, 90)):
        red[..., 0] = value
        stamp = STAMP + (10 + index) * SECOND
        listening.show(image_message(stamp, encode(red, "rgb8")), info_message(stamp))
        depth = plane(listening.output("depth/image", stamp))
        cloud = np.frombuffer(listening.output("depth/points", stamp).data, "<f4").reshape(HEIGHT, WIDTH, 4)
        expected = metric_depth(value)
        assert depth == pytest.approx(expected if expected <= 80 else np.inf, rel=1e-6)
        assert cloud[..., 2] == pytest.approx(expected if expected <= 80 else np.nan, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_understood(listening: Bench, encoding: str) -> None:
    stamp = STAMP + (100 + ENCODINGS.index(encoding)) * SECOND
    image = encode(picture(), encoding, padding=6, big_endian=encoding.endswith("16"))
    listening.show(image_message(stamp, image), info_message(stamp))
    depth = plane(listening.output("depth/image", stamp))
    # YUV of 8 bits loses up to 3 levels of red.
    tolerance = metric_depth(3) - metric_depth(0) if encoding.startswith(("yuv", "yuyv", "uyvy", "nv")) else 1e-4
    assert depth[inside("left")] == pytest.approx(metric_depth(LEFT[0]), abs=tolerance)
    assert depth[inside("right")] == pytest.approx(metric_depth(RIGHT[0]), abs=tolerance)


def test_images_of_another_aspect_are_cut_or_shown_whole_and_never_stretched(listening: Bench) -> None:
    tall = np.zeros((256, 256, 3), np.uint8)
    tall[..., 0] = 99
    info = info_message(STAMP, WIDTH, HEIGHT)
    info.width = info.height = 256
    for index, fit in enumerate(("crop", "letterbox")):
        assert listening.set(fit=fit).successful
        stamp = STAMP + (200 + index) * SECOND
        listening.show(image_message(stamp, encode(tall, "rgb8")), info)
        depth = plane(listening.output("depth/image", stamp))
        answered = np.isfinite(depth)
        # Of the two inputs, 96x64 is nearer to a square. Cut to 3:2, 170 or 171 of 256 rows remain.
        rows = answered.any(axis=1).sum()
        assert rows in ((170, 171) if fit == "crop" else (256,))
        shown = 256 if fit == "crop" else 256 * 96 / 64
        assert depth[answered] == pytest.approx(metric_depth(99, width_shown=shown, input_width=96), rel=5e-3)
    assert listening.set(fit="crop").successful


def test_native_size_has_a_camera_of_its_own(listening: Bench) -> None:
    assert listening.set(native_size=True).successful
    stamp = STAMP + 210 * SECOND
    listening.show(image_message(stamp), info_message(stamp))
    depth, info = listening.output("depth/image", stamp), listening.output("depth/camera_info", stamp)
    assert (depth.width, depth.height) == (info.width, info.height) == (192, 64)
    assert info.k == pytest.approx(info_message(0, 192, 64).k)
    assert info.p[:3] == pytest.approx(info_message(0, 192, 64).p[:3])
    assert info.p[3] == pytest.approx(-22.0), "the baseline scales with the pixels"
    points = np.frombuffer(listening.output("depth/points", stamp).data, "<f4").reshape(64, 192, 4)
    assert points[10, 20, 0] == pytest.approx(metric_depth(LEFT[0]) * (20 - info.k[2]) / info.k[0], rel=1e-5)
    assert listening.set(native_size=False).successful


def test_millimetres(listening: Bench) -> None:
    assert listening.set(depth_encoding="16UC1").successful
    stamp = STAMP + 220 * SECOND
    listening.show(image_message(stamp), info_message(stamp))
    message = listening.output("depth/image", stamp)
    assert (message.encoding, message.step) == ("16UC1", 2 * WIDTH)
    depth = np.frombuffer(message.data, "<u2").reshape(HEIGHT, WIDTH)
    assert (depth[inside("left")] == round(1000 * metric_depth(LEFT[0]))).all()
    assert (depth[:, WIDTH // 2] == 0).all()
    assert listening.set(depth_encoding="32FC1").successful


def test_parameters_change_what_is_valid_at_once(listening: Bench) -> None:
    near, far = metric_depth(RIGHT[0]), metric_depth(LEFT[0])
    between = (near + far) / 2
    for index, (name, left, right) in enumerate((("max_depth", np.inf, near), ("min_depth", far, np.nan))):
        assert listening.set(**{name: between}).successful
        stamp = STAMP + (230 + index) * SECOND
        listening.show(image_message(stamp), info_message(stamp))
        depth = plane(listening.output("depth/image", stamp))
        assert depth[0, 0] == pytest.approx(left, rel=1e-6)
        assert depth[0, -1] == pytest.approx(right, rel=1e-6, nan_ok=True)
        assert listening.set(**{name: 0.0}).successful


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("fit", "zoom", "expected one of crop, letterbox"),
        ("depth_encoding", "64FC1", "expected one of 32FC1, 16UC1"),
        ("min_confidence", 1.5, "out of range"),
        ("max_depth", math.nan, "out of range"),
        ("min_depth", 90.0, "leave no range: 90 m to 80 m"),
        ("bundle", "/elsewhere", "takes effect at configure"),
        ("autostart", False, "read-only"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(listening: Bench, name: str, value: object, reason: str) -> None:
    result = listening.set(**{name: value})
    assert not result.successful
    assert reason in result.reason


def test_the_network_rests_while_nobody_listens(robot: Bench) -> None:
    robot.ignore_all()
    before = int(robot.diagnosis("frames", lambda *_: True)[1].get("dropped: no_subscriber", 0))
    for index in range(5):
        stamp = STAMP + (300 + index) * SECOND
        robot.show(image_message(stamp), info_message(stamp))
    status, values = robot.diagnosis("frames", lambda _, values: int(values.get("dropped: no_subscriber", 0)) > before)
    assert status.level == b"\0"
    assert "nobody subscribes" in status.message
    # camera_info alone does not need it either.
    processed = values["frames processed"]
    robot.listen("depth/camera_info")
    stamp = STAMP + 310 * SECOND
    wait_for(lambda: robot.ros.count_publishers("/front/depth/camera_info"), "the publisher")
    shown: list[int] = []

    def show() -> bool:
        shown.append(stamp + len(shown))
        robot.show(image_message(shown[-1]), info_message(shown[-1]))
        return bool(robot.received["depth/camera_info"])

    wait_for(show, "camera_info")
    assert nanoseconds(robot.received["depth/camera_info"][0]) in shown
    assert robot.received["depth/camera_info"][0].k == pytest.approx(info_message(0).k)
    assert robot.diagnosis("frames", lambda *_: True)[1]["frames processed"] == processed


def test_diagnostics_say_how_it_goes(listening: Bench) -> None:
    stopped = threading.Event()

    def film() -> None:
        for stamp in itertools.count(STAMP + 400 * SECOND, SECOND // 10):
            listening.show(image_message(stamp), info_message(stamp))
            if stopped.wait(0.1):
                return

    def at_work(status: Any, values: dict[str, str]) -> bool:
        done = sum(int(values[f"frames {fate}"]) for fate in ("processed", "dropped"))
        timed = {"latency median (ms)", "overhead p95 (ms)", "engine median (ms)"} <= values.keys()
        return status.level == b"\0" and timed and int(values["frames received"]) == done

    camera = threading.Thread(target=film)
    camera.start()
    try:
        status, values = listening.diagnosis("frames", at_work)
    finally:
        stopped.set()
        camera.join()
    assert re.fullmatch(r"[\d.]+ Hz, latency [\d.]+ ms", status.message)
    assert float(values["output rate (Hz)"]) > 0
    assert float(values["input rate (Hz)"]) > 0
    state, values = listening.diagnosis("state", lambda *_: True)
    assert state.message == "active"
    assert values["bundle"] == "tiny"
    assert re.match(r"(OpenVINO|ONNX Runtime) [\d.]+ on CPU", values["engine 0"])
    # Then the camera falls silent.
    status, _ = listening.diagnosis("frames", lambda status, _: status.level == b"\3")
    assert "no image on /camera/image_raw (1 publishers)" in status.message
