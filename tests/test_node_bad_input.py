"""Bad input: one clear log line, an entry in the diagnostics, and the node goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from encoded_images import encode
from lifecycle_msgs.msg import Transition
from running_node import Bench, RunningNode, bench, free_domain, nanoseconds, wait_for
from scenes import (
    HEIGHT,
    LEFT,
    RIGHT,
    SECOND,
    WIDTH,
    compressed_message,
    header,
    image_message,
    info_message,
    metric_depth,
    picture,
    plane,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sem_depth_node.bundle import ModelBundle

START = 1_600_000_000 * SECOND


@pytest.fixture(scope="module")
def running(tiny_bundle: ModelBundle) -> Iterator[SimpleNamespace]:
    """A node with a camera, and a listener to its outputs; `stamp` counts up."""
    domain = free_domain()
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}
    with RunningNode(domain, parameters) as node, bench(domain) as robot:
        node.said("active")
        robot.camera()
        robot.listen_to_all()
        yield SimpleNamespace(node=node, robot=robot, stamp=START)


@pytest.fixture
def configured_with(running: SimpleNamespace) -> Iterator[Callable[..., None]]:
    """Starts the node again with another pairing and an empty memory, and at the end as it was."""
    robot = running.robot

    def restart(pairing: str) -> None:
        assert robot.transition(Transition.TRANSITION_DEACTIVATE)
        assert robot.transition(Transition.TRANSITION_CLEANUP)
        assert robot.set(camera_info_pairing=pairing).successful
        assert robot.transition(Transition.TRANSITION_CONFIGURE)
        assert robot.transition(Transition.TRANSITION_ACTIVATE)
        robot.camera()

    yield restart
    restart("latest")


@pytest.fixture
def stamp(running: SimpleNamespace) -> int:
    """A stamp later than all before."""
    running.stamp += 10 * SECOND
    return int(running.stamp)


def expect_fault(robot: Bench, kind: str, words: str) -> None:
    """Wait until the diagnostics tell of the fault, as a warning."""
    status, values = robot.diagnosis("frames", lambda _, values: words in values.get(f"last {kind}", ""))
    assert status.level == b"\1"
    assert int(values[f"count {kind}"]) >= 1


def expect_answer(robot: Bench, stamp: int) -> None:
    """A good frame gets its depth."""
    robot.show(image_message(stamp), info_message(stamp))
    assert plane(robot.output("depth/image", stamp))[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)


def change(**fields: object) -> Callable[[Image], Image]:
    def apply(image: Image) -> Image:
        for name, value in fields.items():
            setattr(image, name, value)
        return image

    return apply


def cut_data(image: Image) -> Image:
    image.data = image.data[:1000]
    return image


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (change(encoding="32FC1"), "unknown_encoding", "'32FC1', expected one of rgb8"),
        (change(encoding=""), "unknown_encoding", "'', expected one of rgb8"),
        (change(step=100), "size_mismatch", f"step is 100 bytes, expected at least {3 * WIDTH}"),
        (change(step=0), "size_mismatch", f"step is 0 bytes, expected at least {3 * WIDTH}"),
        (change(height=HEIGHT + 1), "size_mismatch", "data holds"),
        (change(width=WIDTH + 1), "size_mismatch", f"expected at least {3 * WIDTH + 3}"),
        (cut_data, "size_mismatch", "data holds 1000 bytes"),
        (change(width=0), "zero_size", f"0x{HEIGHT} pixels"),
        (change(width=0, height=0, data=b""), "zero_size", "0x0 pixels"),
    ],
)
def test_bad_images(
    running: SimpleNamespace, stamp: int, spoil: Callable[[Image], Image], kind: str, words: str
) -> None:
    running.robot.show(spoil(image_message(stamp)), info_message(stamp))
    expect_fault(running.robot, kind, words)
    running.node.said(f"{kind}: ")
    expect_answer(running.robot, stamp + SECOND)


def zero_k(info: CameraInfo) -> CameraInfo:
    info.k, info.p = [0.0] * 9, [0.0] * 12
    return info


def no_size(info: CameraInfo) -> CameraInfo:
    info.width = info.height = 0
    return info


def too_tall(info: CameraInfo) -> CameraInfo:
    info.height *= 2
    return info


def not_finite(info: CameraInfo) -> CameraInfo:
    info.k[0] = np.nan
    return info


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (zero_k, "camera_info_invalid", "K holds fx=0, fy=0"),
        (no_size, "camera_info_invalid", "width x height is 0x0"),
        (not_finite, "camera_info_invalid", "fx=nan"),
        (
            lambda _: info_message(0, WIDTH, 2 * HEIGHT),
            "camera_info_size",
            f"is for {WIDTH}x{2 * HEIGHT}, the image has",
        ),
    ],
)
def test_bad_camera_infos(
    running: SimpleNamespace, stamp: int, spoil: Callable[[CameraInfo], CameraInfo], kind: str, words: str
) -> None:
    info = spoil(info_message(stamp))
    info.header = header(stamp)
    running.robot.show(image_message(stamp), info)
    expect_fault(running.robot, kind, words)
    running.node.said(f"{kind}: ")
    expect_answer(running.robot, stamp + SECOND)


def test_a_camera_info_of_another_size_is_scaled_where_the_aspect_fits(running: SimpleNamespace, stamp: int) -> None:
    running.robot.show(image_message(stamp), info_message(stamp, 2 * WIDTH, 2 * HEIGHT))
    info = running.robot.output("depth/camera_info", stamp)
    assert info.k == pytest.approx(info_message(0).k)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    depth = plane(running.robot.output("depth/image", stamp))
    assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)


def test_the_resolution_may_change_at_any_time(running: SimpleNamespace, stamp: int) -> None:
    for index, size in enumerate(
        ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (2 * HEIGHT, 2 * WIDTH), (HEIGHT, WIDTH))
    ):
        now = stamp + index * SECOND // 10
        image = image_message(now, encode(picture(*size), "bgr8"))
        running.robot.show(image, info_message(now, size[1], size[0]))
        depth = plane(running.robot.output("depth/image", now))
        points = running.robot.output("depth/points", now)
        assert depth.shape == size == (points.height, points.width)
        assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)


def test_stamps_that_jump_back_are_said_once_and_followed(running: SimpleNamespace, stamp: int) -> None:
    expect_answer(running.robot, stamp)
    back = START - 100 * SECOND
    for index in range(3):  # a bag starts over
        expect_answer(running.robot, back + index * SECOND)
    expect_fault(running.robot, "stamp_backwards", "jumped back by")
    assert sum("stamp_backwards" in line for line in running.node.log) == 1
    expect_answer(running.robot, stamp + SECOND)


def test_many_bad_images_make_one_line(running: SimpleNamespace, stamp: int) -> None:
    def lines() -> int:
        return sum("unknown_encoding" in line for line in running.node.log)

    _, values = running.robot.diagnosis("frames", lambda *_: True)
    count, said = int(values.get("count unknown_encoding", 0)), lines()
    for index in range(50):
        running.robot.show(change(encoding="64FC3")(image_message(stamp + index)), info_message(stamp + index))
    running.robot.diagnosis("frames", lambda _, values: int(values.get("count unknown_encoding", 0)) > count)
    assert lines() - said <= 1
    expect_answer(running.robot, stamp + SECOND)


def test_every_frame_is_accounted_for_when_more_come_than_can_be_answered(running: SimpleNamespace, stamp: int) -> None:
    _, before = running.robot.diagnosis("frames", lambda *_: True)
    count = 100
    for index in range(count):
        running.robot.show(image_message(stamp + index), info_message(stamp + index))
    newest = stamp + count - 1
    running.robot.output("depth/image", newest)

    def settled(_: object, values: dict[str, str]) -> bool:
        new = {name: int(values[name]) - int(before[name]) for name in ("frames received", "frames processed")}
        dropped = int(values["frames dropped"]) - int(before["frames dropped"])
        return 0 < new["frames received"] == new["frames processed"] + dropped

    running.robot.diagnosis("frames", settled)
    stamps = [nanoseconds(m) for m in running.robot.received["depth/image"] if stamp <= nanoseconds(m) <= newest]
    assert stamps == sorted(stamps)


def test_images_without_camera_info_wait_for_it(
    running: SimpleNamespace, stamp: int, configured_with: Callable[..., None]
) -> None:
    robot, node = running.robot, running.node
    configured_with("latest")
    shown: list[int] = []

    def said() -> bool:
        shown.append(stamp + len(shown) * SECOND // 10)
        robot.show(image_message(shown[-1]))
        time.sleep(0.1)
        return any("images come without camera_info: /camera_info has 1 publishers" in line for line in node.log)

    wait_for(said, "a line about camera_info")
    expect_fault(robot, "no_camera_info", "images come without camera_info")
    robot.show_info(info_message(stamp))
    depth = plane(robot.output("depth/image", shown[-1]))
    assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)
    _, values = robot.diagnosis("frames", lambda *_: True)
    assert int(values["dropped: no_camera_info"]) == len(shown) - 1
    # From then on the newest one counts, whatever its stamp.
    robot.show(image_message(shown[-1] + SECOND))
    robot.output("depth/image", shown[-1] + SECOND)


def test_exact_pairing_waits_for_the_stamp(
    running: SimpleNamespace, stamp: int, configured_with: Callable[..., None]
) -> None:
    configured_with("exact")
    running.robot.show(image_message(stamp), info_message(stamp - SECOND))
    running.robot.diagnosis("frames", lambda _, values: "with the stamp of" in values.get("last no_camera_info", ""))
    running.robot.show_info(info_message(stamp))
    running.robot.output("depth/image", stamp)


def test_compressed_images_whole_and_damaged(tiny_bundle: ModelBundle) -> None:
    domain = free_domain()
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "compressed": True}
    with RunningNode(domain, parameters) as node, bench(domain) as robot:
        node.said("active")
        robot.camera(compressed=True)
        robot.listen_to_all()
        whole = compressed_message(START, picture(), "jpeg")
        bad = (
            ("undecodable", "cut short", "jpeg", whole.data[:500]),
            ("undecodable", "not a jpeg", "jpeg", b"what is this"),
            ("unknown_encoding", "'h264'", "h264", whole.data),
        )
        for index, (kind, words, name, data) in enumerate(bad):
            head = header(START + index)
            robot.show(CompressedImage(header=head, format=name, data=data), info_message(START + index))
            expect_fault(robot, kind, words)
            node.said(f"{kind}: ")
        for index, (name, tolerance) in enumerate((("png", 1e-6), ("jpeg", 0.05))):
            stamp = START + (1 + index) * SECOND
            robot.show(compressed_message(stamp, picture(), name), info_message(stamp))
            depth = plane(robot.output("depth/image", stamp))
            assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=tolerance)
            assert depth[0, -1] == pytest.approx(metric_depth(RIGHT[0]), rel=tolerance)
