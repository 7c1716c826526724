"""Parameters: what is refused, and in which words."""

import math
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the node's modules need rclpy, which is not installed")

from sem_depth_node.ros.parameters import Parameters

BUNDLE_RANGE = (0.5, 80.0)


def test_the_defaults_are_valid() -> None:
    settings = Parameters().estimator_settings(BUNDLE_RANGE)
    assert (settings.min_depth, settings.max_depth, settings.fit) == (0.5, 80.0, "crop")
    assert Parameters().engine_input_size is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fit": "stretch"}, "fit is 'stretch', expected one of crop, letterbox"),
        ({"engine": "cuda"}, "engine is 'cuda', expected one of auto, tensorrt, openvino, onnxruntime"),
        ({"min_confidence": 1.1}, "min_confidence is 1.1, expected a number from 0 to 1"),
        ({"max_depth": math.nan}, "max_depth is nan, expected a number"),
        ({"max_depth": math.inf}, "max_depth is inf, expected a number"),
        ({"threads": -1}, "threads is -1, expected a number from 0"),
        ({"min_depth": 3.0, "max_depth": 3.0}, "max_depth is 3, expected more than min_depth, 3"),
        ({"input_size": "640"}, "input_size is '640', expected WIDTHxHEIGHT"),
        ({"input_size": "640x-192"}, "expected WIDTHxHEIGHT"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Parameters(**values)


def test_a_range_that_the_bundle_leaves_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="leave no range: 90 m to 80 m"):
        Parameters(min_depth=90.0).estimator_settings(BUNDLE_RANGE)
    assert Parameters(min_depth=90.0, max_depth=100.0).estimator_settings(BUNDLE_RANGE).max_depth == 100.0


def test_some_change_only_while_unconfigured() -> None:
    parameters = Parameters()
    assert parameters.changed({"bundle": "/a"}, configured=False).bundle == "/a"
    with pytest.raises(ValueError, match="bundle takes effect at configure"):
        parameters.changed({"bundle": "/a"}, configured=True)
    assert parameters.changed({"bundle": ""}, configured=True) == parameters, "no change"
    assert parameters.changed({"fit": "letterbox"}, configured=True).fit == "letterbox"


def test_parameters_of_others_are_left_alone() -> None:
    assert (
        Parameters().changed({"use_sim_time": True, "qos_overrides./image.depth": 3}, configured=True) == Parameters()
    )


def test_input_size_is_width_by_height() -> None:
    assert Parameters(input_size="640x192").engine_input_size == (192, 640)
