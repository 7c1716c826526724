"""Several cameras on one node: each gets its own answers, none crowds out another, one look tells how all are."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from encoded_images import encode
from running_node import Bench, RunningNode, bench, free_domain, wait_for
from scenes import HEIGHT, LEFT, RIGHT, SECOND, WIDTH, image_message, info_message, metric_depth, picture, plane
from sensor_msgs.msg import Image

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.ros.mailbox import Mailboxes

STAMP = 1_600_000_000 * SECOND


def message(camera: str, number: int) -> Any:
    """An image or camera_info, as far as a mailbox looks at it."""
    return SimpleNamespace(
        camera=camera, number=number, header=SimpleNamespace(stamp=SimpleNamespace(sec=number, nanosec=0))
    )


def test_of_cameras_that_have_a_frame_the_one_that_waited_longest_is_next() -> None:
    boxes = Mailboxes(["front", "left", "right", "silent"])
    for camera in ("front", "left", "right", "silent"):
        boxes[camera].put_camera_info(message(camera, 1000))  # of no image's stamp, so that none waits for its own
    turns = []
    for number in range(9):
        boxes["front"].put_image(message("front", number))  # a new one before every turn
        if number % 2 == 0:
            boxes["left"].put_image(message("left", number))
        if number == 3:
            boxes["right"].put_image(message("right", number))
        camera, frame = boxes.take() or pytest.fail("closed")
        assert frame.image.camera == frame.camera_info.camera == camera
        turns.append((camera, frame.image.number))
        boxes.finish(camera)
    # Left's and front's newest in turn, and right as soon as it has one: its last turn is longest ago.
    assert turns == [
        ("front", 0),
        ("left", 0),
        ("front", 2),
        ("right", 3),
        ("left", 4),
        ("front", 5),
        ("left", 6),
        ("front", 7),
        ("left", 8),
    ]


def test_a_camera_whose_frame_is_in_work_waits_while_others_go_on() -> None:
    boxes = Mailboxes(["front", "left"])
    for camera in ("front", "left"):
        boxes[camera].put_camera_info(message(camera, 1000))
        boxes[camera].put_image(message(camera, 0))
    assert (boxes.take() or pytest.fail("closed"))[0] == "front"
    boxes["front"].put_image(message("front", 1))
    assert (boxes.take() or pytest.fail("closed"))[0] == "left"
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(boxes.take()), daemon=True)
    thread.start()
    thread.join(0.2)
    assert not taken
    boxes.finish("front")
    thread.join(10)
    camera, frame = taken[0]
    assert (camera, frame.image.number) == ("front", 1)


@pytest.fixture(scope="module")
def domain() -> int:
    return free_domain()


@pytest.fixture(scope="module")
def node(domain: int, tiny_bundle: ModelBundle) -> Iterator[RunningNode]:
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "input_timeout": 1.0, "workers": 2}
    with RunningNode(domain, parameters, "-p", "cameras:=[front, side/left]") as running:
        running.said("active", "/front/image", "/front/camera_info")
        running.said("active", "/side/left/image", "/side/left/camera_info")
        yield running


def opened(domain: int, camera: str) -> Iterator[Bench]:
    with bench(domain, namespace=f"/{camera}") as robot:
        robot.camera()
        robot.listen("depth/image")
        robot.listen("depth/camera_info")
        for topic in ("depth/image", "depth/camera_info"):
            wait_for(lambda topic=topic: robot.ros.count_publishers(f"/{camera}/{topic}"), f"publisher of {topic}")
        yield robot


@pytest.fixture
def front(domain: int, node: RunningNode) -> Iterator[Bench]:
    yield from opened(domain, "front")


@pytest.fixture
def left(domain: int, node: RunningNode) -> Iterator[Bench]:
    yield from opened(domain, "side/left")


def test_each_camera_gets_depth_of_its_own_images_by_its_own_calibration(front: Bench, left: Bench) -> None:
    # The left camera has half the size and so half the focal length in pixels, and sees the picture turned around.
    turned = np.ascontiguousarray(picture(HEIGHT // 2, WIDTH // 2)[:, ::-1])
    for stamp in range(STAMP, STAMP + 5 * SECOND, SECOND):
        front.show(image_message(stamp), info_message(stamp))
        left.show(image_message(stamp, encode(turned, "rgb8")), info_message(stamp, WIDTH // 2, HEIGHT // 2))
        of_front, of_left = plane(front.output("depth/image", stamp)), plane(left.output("depth/image", stamp))
        assert of_front.shape == (HEIGHT, WIDTH)
        assert of_left.shape == (HEIGHT // 2, WIDTH // 2)
        # The network's input covers the same field of view, whichever the size of the image.
        for depth, (west, east) in ((of_front, (LEFT, RIGHT)), (of_left, (RIGHT, LEFT))):
            row = depth[depth.shape[0] // 2]
            np.testing.assert_allclose(row[[10, -10]], [metric_depth(west[0]), metric_depth(east[0])], rtol=1e-5)
        assert front.output("depth/camera_info", stamp).width == WIDTH
        assert left.output("depth/camera_info", stamp).width == WIDTH // 2


def test_a_camera_that_floods_the_node_does_not_keep_another_from_its_answers(
    domain: int, node: RunningNode, left: Bench
) -> None:
    flooded = threading.Event()
    large = np.zeros((4 * HEIGHT, 4 * WIDTH, 3), np.uint8)
    image, info = image_message(STAMP, encode(large, "rgb8")), info_message(STAMP, 4 * WIDTH, 4 * HEIGHT)
    with bench(domain, namespace="/front") as front:

        def flood() -> None:
            while not flooded.wait(0.002):
                front.show(image, info)

        front.camera()
        answers = itertools.count()
        front.ros.create_subscription(Image, "/front/depth/image", lambda _: next(answers), 5)
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            left.diagnosis("front frames", lambda status, values: "dropped: newer_came" in values)
            for stamp in range(STAMP + 10 * SECOND, STAMP + 20 * SECOND, SECOND):
                left.show(image_message(stamp), info_message(stamp))
                left.output("depth/image", stamp)
        finally:
            flooded.set()
            thread.join()
    _, values = left.diagnosis("side/left frames", lambda status, values: True)
    assert values["frames dropped"] == "0"
    assert next(answers) > 10


def test_one_entry_tells_how_all_cameras_are(front: Bench, left: Bench) -> None:
    showing = threading.Event()

    def show() -> None:
        stamp = STAMP + 100 * SECOND
        while not showing.wait(0.1):
            stamp += SECOND
            front.show(image_message(stamp), info_message(stamp))

    thread = threading.Thread(target=show)
    thread.start()
    try:
        status, values = front.diagnosis("cameras", lambda status, values: status.message.startswith("1 of 2"))
        assert status.level == status.WARN
        assert status.message == "1 of 2 cameras are well; look at side/left"
        assert "/side/left/image" in values["side/left"]
        assert "Hz" in values["front"]
    finally:
        showing.set()
        thread.join()
    status, values = front.diagnosis("cameras", lambda status, values: "/front/image" in values["front"])
    assert status.level == status.ERROR
    entries = [entry.name for entry in front.received["/diagnostics"][-1].status]
    assert entries == [
        "sem_depth: state",
        "sem_depth: cameras",
        "sem_depth: front frames",
        "sem_depth: side/left frames",
    ]


def test_what_is_wrong_with_one_camera_is_said_of_that_camera(front: Bench, left: Bench) -> None:
    stamp = STAMP + 1000 * SECOND
    broken = image_message(stamp)
    broken.encoding = "yuv9000"
    left.show(broken, info_message(stamp))
    status, _ = left.diagnosis("side/left frames", lambda status, values: "yuv9000" in status.message)
    assert status.level == status.WARN
    front.show(image_message(stamp), info_message(stamp))
    front.output("depth/image", stamp)
    _, values = front.diagnosis("front frames", lambda status, values: True)
    assert not any("yuv9000" in value for value in values.values())


@pytest.mark.parametrize("cameras", ["[front, front]", "[front, '']", "[front camera]", "['1st']"])
def test_names_that_cannot_be_are_refused_at_once(cameras: str) -> None:
    with RunningNode(free_domain(), {}, "-p", f"cameras:={cameras}") as node:
        node.said("wrong parameter", "cameras")
        assert node.wait() == 2
