"""The newest frame wins, in fair turns, with the calibration that belongs to it."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the node's modules need rclpy, which is not installed")

from sem_depth_node.ros.mailbox import Frame, Mailbox, Mailboxes, Pairing, stamp_of


def message(stamp: int, name: str = "") -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000))
    return SimpleNamespace(header=header, name=name)


def mailbox(pairing: Pairing = "latest") -> Mailbox:
    return Mailbox(pairing, threading.Condition())


def take_within(boxes: Mailboxes, seconds: float = 10.0) -> tuple[str, Frame] | None:
    """What another thread takes."""
    taken: list[tuple[str, Frame] | None] = []
    thread = threading.Thread(target=lambda: taken.append(boxes.take()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "take did not return"
    return taken[0]


def test_an_empty_mailbox_has_nothing() -> None:
    assert mailbox().take() is None


def test_a_pair_is_taken_once() -> None:
    box = mailbox()
    box.put_camera_info(message(1))
    box.put_image(message(1))
    frame = box.take()
    assert frame is not None
    assert (frame.image.header, frame.camera_info.header) == (message(1).header, message(1).header)
    assert box.take() is None


def test_the_newest_image_wins_and_the_replaced_one_is_told() -> None:
    box = mailbox()
    box.put_camera_info(message(0))
    assert box.put_image(message(1, "old")) is None
    replaced = box.put_image(message(2, "new"))
    assert replaced is not None
    assert replaced.name == "old"
    frame = box.take()
    assert frame is not None
    assert frame.image.name == "new"


def test_an_image_waits_for_the_first_camera_info() -> None:
    box = mailbox()
    box.put_image(message(5))
    assert box.waits_for_camera_info
    assert box.take() is None
    box.put_camera_info(message(9))
    assert not box.waits_for_camera_info
    assert box.take() is not None


def test_a_calibration_sent_once_serves_every_image() -> None:
    box = mailbox()
    box.put_camera_info(message(0, "only"))
    for stamp in (1, 2, 3):
        box.put_image(message(stamp))
        frame = box.take()
        assert frame is not None
        assert frame.camera_info.name == "only"


def test_the_calibration_of_the_same_stamp_is_preferred_to_a_newer_one() -> None:
    box = mailbox()
    box.put_camera_info(message(1, "own"))
    box.put_camera_info(message(2, "next"))
    box.put_image(message(1))
    frame = box.take()
    assert frame is not None
    assert frame.camera_info.name == "own"


def test_a_camera_in_step_is_given_the_time_to_send_the_images_own_calibration() -> None:
    boxes = Mailboxes(["camera"])
    box = boxes["camera"]
    box.put_image(message(1))
    box.put_camera_info(message(1, "wide"))
    assert box.take() is not None
    box.put_image(message(2))  # the camera zooms
    assert box.take() is None
    assert box.patience > 0
    box.put_camera_info(message(2, "tele"))
    taken = take_within(boxes)
    assert taken is not None
    assert taken[1].camera_info.name == "tele"


def test_patience_ends_and_the_newest_calibration_serves() -> None:
    boxes = Mailboxes(["camera"])
    box = boxes["camera"]
    box.put_camera_info(message(1, "last"))
    box.put_image(message(1))
    assert box.take() is not None
    box.put_image(message(2))  # and its camera_info was lost
    taken = take_within(boxes)
    assert taken is not None
    assert taken[1].camera_info.name == "last"
    box.put_image(message(3))  # nobody waits twice for a camera that fell out of step
    assert box.patience == 0
    assert box.take() is not None


@pytest.mark.parametrize("lag", [None, 0.043], ids=["stopped", "late"])
def test_a_fast_camera_whose_calibration_stops_or_lags_is_still_served(lag: float | None) -> None:
    boxes = Mailboxes(["camera"])
    taken: list[int] = []

    def work() -> None:
        while (found := boxes.take()) is not None:
            taken.append(stamp_of(found[1].image))
            boxes.finish(found[0])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    box, late = boxes["camera"], []
    box.put_camera_info(message(0))
    for stamp in range(30):  # at 30 Hz, so that a newer image always comes before patience with this one ends
        box.put_image(message(stamp))
        late.append((time.perf_counter() + (lag or 0), stamp))
        end = time.perf_counter() + 1 / 30
        while (now := time.perf_counter()) < end:
            while lag and late and late[0][0] <= now:
                box.put_camera_info(message(late.pop(0)[1]))
            time.sleep(0.002)
    boxes.close()
    thread.join(10)
    assert len(taken) >= 20, "one pause of 0.1 s, then every image"


def test_exact_pairing_takes_no_other_stamp() -> None:
    box = mailbox("exact")
    box.put_camera_info(message(1))
    box.put_image(message(2))
    assert box.take() is None
    assert box.waits_for_camera_info
    box.put_camera_info(message(3))
    assert box.take() is None
    box.put_camera_info(message(2, "own"))
    frame = box.take()
    assert frame is not None
    assert frame.camera_info.name == "own"


def test_calibrations_kept_are_few() -> None:
    box = mailbox("exact")
    for stamp in range(1000):
        box.put_camera_info(message(stamp))
    box.put_image(message(900))
    assert box.take() is None, "one this old is forgotten"
    box.put_image(message(999))
    assert box.take() is not None


def test_after_a_jump_back_only_the_newest_calibration_is_known() -> None:
    box = mailbox("exact")
    box.put_camera_info(message(1))
    box.put_camera_info(message(2))
    box.restart()
    box.put_image(message(1))
    assert box.take() is None


def test_cameras_take_turns() -> None:
    boxes = Mailboxes(["fast", "slow", "silent"])
    for camera in ("fast", "slow"):
        boxes[camera].put_camera_info(message(99))
    order = []
    for stamp in range(6):
        for camera in ("fast", "slow"):
            boxes[camera].put_image(message(stamp))
        taken = take_within(boxes)
        assert taken is not None
        order.append(taken[0])
        boxes.finish(taken[0])
    assert order == ["fast", "slow"] * 3


def test_a_waiting_thread_is_woken_by_a_frame_and_by_closing() -> None:
    boxes = Mailboxes(["camera"])
    taken: list[tuple[str, Frame] | None] = []

    def work() -> None:
        while (frame := boxes.take()) is not None:
            taken.append(frame)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    boxes["camera"].put_image(message(1))
    boxes["camera"].put_camera_info(message(1))
    end = time.monotonic() + 10
    while not taken and time.monotonic() < end:
        time.sleep(0.01)
    assert len(taken) == 1
    boxes.close()
    thread.join(10)
    assert not thread.is_alive()
