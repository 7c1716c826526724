"""Transitions, starting, stopping, and what the node does while it loads."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from running_node import Bench, RunningNode, bench, free_domain, wait_for
from scenes import LEFT, SECOND, image_message, info_message, metric_depth, plane
from sensor_msgs.msg import Image
from tiny_bundle import write_tiny_bundle

from sem_depth_node.bundle import ModelBundle, sha256_of
from sem_depth_node.ros.outputs import DepthOutputs
from sem_depth_node.ros.subscription import AdaptiveSubscription

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, TRANSIENT_LOCAL = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL
STAMP = 1_600_000_000 * SECOND
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


@pytest.fixture(scope="module")
def domain() -> int:
    return free_domain()


@pytest.fixture(scope="module")
def node(domain: int) -> Iterator[RunningNode]:
    parameters = {"autostart": False, "bundle": "/nowhere/bundle", "engine": "onnxruntime"}
    with RunningNode(domain, parameters) as running:
        yield running


@pytest.fixture(scope="module")
def robot(domain: int, node: RunningNode) -> Iterator[Bench]:
    with bench(domain) as opened:
        yield opened


@pytest.fixture
def unconfigured(robot: Bench) -> Bench:
    """The node in its first state, wherever the test before left it."""
    for transition in (DEACTIVATE, CLEANUP):
        if robot.state() != "unconfigured":
            robot.transition(transition)
    assert robot.state() == "unconfigured"
    return robot


def test_without_autostart_it_waits_for_a_manager(unconfigured: Bench) -> None:
    status, _ = unconfigured.diagnosis("state", lambda *_: True)
    assert status.message == "unconfigured"
    assert unconfigured.subscribed_as("/image") is None


def test_a_bundle_that_is_not_there_fails_with_one_line(unconfigured: Bench, node: RunningNode) -> None:
    unconfigured.set(bundle="/nowhere/bundle")
    assert not unconfigured.transition(CONFIGURE)
    assert unconfigured.state() == "unconfigured"
    line = node.said("cannot configure", "/nowhere/bundle: no such folder, expected a model bundle")
    assert "[ERROR]" in line
    status, _ = unconfigured.diagnosis("state", lambda *_: True)
    assert status.level == b"\2"
    assert "/nowhere/bundle" in status.message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("hash", "sha256 is"),
        ("version", "field 'schema_version' is 7, this package reads 1"),
        ("graph", "ONNX Runtime cannot load it"),
        ("contract", "inputs and outputs are"),
    ],
)
def test_a_bad_bundle_fails_with_one_line(
    unconfigured: Bench, node: RunningNode, tmp_path: Path, spoil: str, words: str
) -> None:
    bundle = write_tiny_bundle(tmp_path / spoil)
    manifest = bundle.folder / "manifest.json"
    fields = json.loads(manifest.read_text())
    if spoil == "version":
        fields["schema_version"] = 7
    elif spoil == "contract":
        fields["inputs"][0]["height"] += 1
    else:
        file = bundle.inputs[0].path
        file.write_bytes(b"not a graph")
        if spoil == "graph":
            fields["files"][file.name] = sha256_of(file)
    manifest.write_text(json.dumps(fields))
    assert unconfigured.set(bundle=str(bundle.folder)).successful
    assert not unconfigured.transition(CONFIGURE)
    node.said("cannot configure", words, str(bundle.folder))
    assert not any("Traceback" in line for line in node.log)


def test_all_the_way_up_and_down_twice(unconfigured: Bench, tiny_bundle: ModelBundle) -> None:
    assert unconfigured.set(bundle=str(tiny_bundle.folder)).successful
    for round_trip in range(2):
        assert unconfigured.transition(CONFIGURE)
        assert unconfigured.state() == "inactive"
        assert unconfigured.subscribed_as("/image") is None
        assert unconfigured.transition(ACTIVATE)
        unconfigured.camera()
        unconfigured.listen_to_all()
        stamp = STAMP + round_trip * SECOND
        unconfigured.show(image_message(stamp), info_message(stamp))
        depth = plane(unconfigured.output("depth/image", stamp))
        assert depth[0, 0] == pytest.approx(metric_depth(LEFT[0]), rel=1e-6)
        assert unconfigured.transition(DEACTIVATE)
        wait_for(lambda: not unconfigured.ros.count_subscribers("/image"), "the subscription to end")
        assert unconfigured.transition(CLEANUP)
        wait_for(lambda: not unconfigured.ros.count_publishers("/depth/points"), "the publishers to go")
        unconfigured.ignore_all()


def test_impossible_transitions_are_refused_and_survived(unconfigured: Bench, node: RunningNode) -> None:
    assert not unconfigured.transition(ACTIVATE)
    assert not unconfigured.transition(99)
    node.said("transition 3 refused: not possible in this state")
    assert unconfigured.state() == "unconfigured"


def test_it_answers_while_it_loads(
    unconfigured: Bench, node: RunningNode, tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    # A bundle with gigabytes of weights, which take seconds to check.
    fields = json.loads((tiny_bundle.folder / "manifest.json").read_text())
    big = tmp_path / "big"
    big.mkdir()
    for file in fields["files"]:
        (big / file).write_bytes((tiny_bundle.folder / file).read_bytes())
    with (big / "a_weights.bin").open("wb") as weights:
        weights.truncate(2 << 30)  # sparse: takes no room on the disk
    fields["files"]["a_weights.bin"] = "0" * 64
    (big / "manifest.json").write_text(json.dumps(fields))
    assert unconfigured.set(bundle=str(big)).successful

    answer = unconfigured.begin_transition(CONFIGURE)
    # Two services: the question may be answered before the request is taken.
    wait_for(lambda: unconfigured.state() == "configuring", "the request to be taken")
    assert not unconfigured.transition(CLEANUP)
    node.said("transition 2 refused: another one is in progress")
    assert unconfigured.set(fit="letterbox").successful
    refused = unconfigured.set(engine="openvino")
    assert not refused.successful, "what it configures with is fixed from the beginning"
    assert "engine" in refused.reason
    assert unconfigured.state() == "configuring", "the answers above came while it loaded"
    assert not answer()
    node.said("cannot configure", "a_weights.bin", "sha256 is")
    assert unconfigured.state() == "unconfigured"


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (signal.SIGINT, "active"),
        (signal.SIGTERM, "active"),
        (signal.SIGINT, "unconfigured"),
        (signal.SIGINT, "finalized"),
    ],
)
def test_signals_end_it_quietly(tiny_bundle: ModelBundle, number: int, state: str) -> None:
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "autostart": state == "active"}
    running = RunningNode(free_domain(), parameters)
    if state == "active":
        running.said("active: image /image")
    else:
        with bench(running.domain) as robot:
            if state == "finalized":
                assert robot.transition(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
            assert robot.state() == state
    assert running.end(number) == 0
    assert not any("Traceback" in line or "[ERROR]" in line for line in running.log), running.log


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_signal_while_it_starts_ends_it_quietly(tiny_bundle: ModelBundle, delay: float) -> None:
    running = RunningNode(free_domain(), {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"})
    # The node listens to signals from here on: its first publisher is there.
    with bench(running.domain) as robot:
        wait_for(lambda: robot.ros.count_publishers("/sem_depth/transition_event"), "the node")
        time.sleep(delay)
        assert running.end(signal.SIGINT) == 0
    assert not any("Traceback" in line or "[ERROR]" in line for line in running.log), running.log


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"min_depth": 2}, "min_depth"),
        ({"fit": "zoom"}, "fit is 'zoom', expected one of crop, letterbox"),
        ({"min_depth": 5.0, "max_depth": 4.0}, "max_depth is 4, expected more than min_depth, 5"),
    ],
)
def test_wrong_parameters_at_the_start_end_it_with_one_line(parameters: dict[str, object], words: str) -> None:
    running = RunningNode(free_domain(), parameters)
    running.said("wrong parameter", words)
    assert running.wait() == 2
    assert len(running.log) == 1


def test_the_subscriptions_follow_the_publishers(unconfigured: Bench, tiny_bundle: ModelBundle) -> None:
    robot = unconfigured
    assert robot.set(bundle=str(tiny_bundle.folder)).successful
    assert robot.transition(CONFIGURE)
    assert robot.transition(ACTIVATE)
    robot.listen("depth/image")
    for index, (reliability, durability) in enumerate(
        ((BEST_EFFORT, VOLATILE), (RELIABLE, VOLATILE), (RELIABLE, TRANSIENT_LOCAL))
    ):
        robot.camera(reliability=reliability, durability=durability)  # waits for a subscription like it
        shown: list[int] = []

        def answered(index: int = index, shown: list[int] = shown) -> bool:
            shown.append(STAMP + (10 * index) * SECOND + len(shown))
            robot.show(image_message(shown[-1]), info_message(shown[-1]))
            return any(robot.has("depth/image", stamp) for stamp in shown)

        wait_for(answered, f"depth from a {reliability.name} camera")
    # A second camera that is not reliable: a reliable subscription would not hear it.
    with bench(robot.domain) as second:
        second.advertise("image", BEST_EFFORT)
        wait_for(lambda: robot.subscribed_as("/image") == (BEST_EFFORT, VOLATILE), "a best effort subscription")
    wait_for(lambda: robot.subscribed_as("/image") == (RELIABLE, TRANSIENT_LOCAL), "the reliable one again")


def test_a_topic_of_another_type_is_told_with_what_to_do(unconfigured: Bench, tiny_bundle: ModelBundle) -> None:
    assert unconfigured.set(bundle=str(tiny_bundle.folder)).successful
    assert unconfigured.transition(CONFIGURE)
    assert unconfigured.transition(ACTIVATE)
    with bench(unconfigured.domain) as second:
        second.advertise("image", RELIABLE, compressed=True)
        status, values = unconfigured.diagnosis("frames", lambda _, values: "last wrong_type" in values)
    words = (
        "/image carries sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image: set the parameter compressed"
    )
    assert words in values["last wrong_type"]
    assert words in status.message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("/depth/points:\n        publisher:\n          reliability: bogus", "depth/points cannot be published: "),
        ("/image:\n        subscription:\n          reliability: bogus", "cannot activate: qos_overrides./image"),
        ("/image:\n        subscription:\n          depth: -3", "cannot activate: /image cannot be subscribed to: "),
    ],
)
def test_a_wrong_override_fails_with_one_line_and_leaves_nothing(
    tiny_bundle: ModelBundle, tmp_path: Path, override: str, words: str
) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    qos_overrides:\n      {override}\n")
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "autostart": False}
    domain = free_domain()
    with RunningNode(domain, parameters, "--params-file", str(file)) as node, bench(domain) as robot:
        for _ in range(2):
            if robot.transition(CONFIGURE):
                assert not robot.transition(ACTIVATE)
                assert robot.state() == "inactive"
                assert robot.transition(CLEANUP)
        node.said(words)
        wait_for(lambda: not robot.ros.count_publishers("/depth/image"), "no publisher that was left behind")
        wait_for(lambda: not robot.ros.count_subscribers("/camera_info"), "no subscription that was left behind")
        assert not any("Traceback" in line for line in node.log)


def test_wrong_ros_arguments_end_it_with_one_line() -> None:
    node = RunningNode(free_domain(), {}, "--params-file", "/nowhere/parameters.yaml")
    assert node.wait() == 2
    assert any(line.startswith("sem_depth_node: wrong arguments: ") for line in node.log)
    assert not any("Traceback" in line for line in node.log)


def test_what_is_destroyed_has_no_event_that_its_callback_group_would_wait_for() -> None:
    # rclpy locks a callback group forever when an event is due while its publisher or subscription is destroyed.
    context = Context()
    rclpy.init(context=context, domain_id=free_domain())
    node = LifecycleNode("destroys", context=context)
    group = MutuallyExclusiveCallbackGroup()
    subscription = AdaptiveSubscription(node, Image, "image", lambda _: None, 1, group)
    outputs = DepthOutputs(node)
    made = [entity for entity in (*node.subscriptions, *node.publishers) if "image" in entity.topic_name]
    assert {entity.topic_name for entity in made} == {"/image", "/depth/image"}
    assert [entity.event_handlers for entity in made] == [[], []]
    subscription.destroy()
    assert subscription.adapt() is None
    assert not any(entity.topic_name == "/image" for entity in node.subscriptions), "destroyed, it stays so"
    outputs.destroy()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_an_override_ends_the_adapting(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    file = tmp_path / "qos.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    qos_overrides:\n      /image:\n        subscription:\n"
        "          reliability: best_effort\n          depth: 2\n"
        "      /depth/image:\n        publisher:\n          reliability: best_effort\n"
    )
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}
    domain = free_domain()
    with RunningNode(domain, parameters, "--params-file", str(file)) as node, bench(domain) as robot:
        node.said("active")
        robot.advertise("image", RELIABLE)
        robot.advertise("camera_info", RELIABLE)
        wait_for(lambda: robot.subscribed_as("/camera_info") == (RELIABLE, VOLATILE), "camera_info to be adapted to")
        assert robot.subscribed_as("/image") == (BEST_EFFORT, VOLATILE)
        offered = {
            topic: robot.ros.get_publishers_info_by_topic(f"/depth/{topic}")[0].qos_profile.reliability
            for topic in ("image", "confidence")
        }
        assert offered == {"image": BEST_EFFORT, "confidence": RELIABLE}
