"""Faults are counted and said now and then; times add up."""

import pytest

pytest.importorskip("rclpy", reason="the node's modules need rclpy, which is not installed")

from std_msgs.msg import Header

from sem_depth_node.ros.diagnostics import (
    LOG_PERIOD,
    WINDOW,
    FaultLog,
    FrameStatistics,
    FrameTiming,
    percentile,
    timing_message,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_kind_of_fault_is_said_once_in_a_while_and_always_counted(clock: Clock) -> None:
    lines: list[str] = []
    faults = FaultLog(lines.append, lines.append, clock)
    for _ in range(5):
        faults.report("zero_size", "image is 0x0")
    faults.report("undecodable", "cut short")
    assert lines == ["zero_size: image is 0x0", "undecodable: cut short"]
    clock.now += LOG_PERIOD
    faults.report("zero_size", "image is 0x4")
    assert lines[-1] == "zero_size: image is 0x4 (4 more like it before)"
    assert faults.counts == {"zero_size": 6, "undecodable": 1}
    assert [(fault.kind, age) for fault, age in faults.last] == [("zero_size", 0.0), ("undecodable", LOG_PERIOD)]


def test_severe_faults_are_errors(clock: Clock) -> None:
    warnings: list[str] = []
    errors: list[str] = []
    faults = FaultLog(warnings.append, errors.append, clock)
    faults.report("engine_failed", "out of memory", severe=True)
    assert (warnings, errors) == ([], ["engine_failed: out of memory"])
    assert faults.last[0][0].severe


TIMING = FrameTiming(waiting=0.001, decoding=0.002, engine=0.1, estimating=0.003, building=0.001, publishing=0.003)


def test_overhead_is_all_but_waiting_and_the_engine() -> None:
    assert TIMING.overhead == pytest.approx(0.009)
    assert TIMING.latency == pytest.approx(0.110)


def test_the_timing_message_adds_up() -> None:
    message = timing_message(Header(frame_id="camera"), TIMING)
    values = {pair.key: float(pair.value) for pair in message.status[0].values}
    assert message.header.frame_id == "camera"
    assert values["latency (ms)"] == pytest.approx(110)
    assert values["overhead (ms)"] == pytest.approx(9)
    assert values["engine (ms)"] == pytest.approx(100)


def test_rates_and_medians_are_those_of_the_last_seconds(clock: Clock) -> None:
    statistics = FrameStatistics(clock)
    for index in range(200):
        clock.now += 0.1
        statistics.arrived()
        if index % 2:
            statistics.finish(TIMING)
        else:
            statistics.drop("newer_came")
    values = statistics.key_values()
    assert (values["frames received"], values["frames processed"], values["dropped: newer_came"]) == (
        "200",
        "100",
        "100",
    )
    assert float(values["input rate (Hz)"]) == pytest.approx(10, rel=0.02)
    assert float(values["output rate (Hz)"]) == pytest.approx(5, rel=0.05)
    assert float(values["latency median (ms)"]) == pytest.approx(110)
    clock.now += 2 * WINDOW
    values = statistics.key_values()
    assert float(values["input rate (Hz)"]) == float(values["output rate (Hz)"]) == 0
    assert "latency median (ms)" not in values
    assert statistics.seconds_without_image == pytest.approx(2 * WINDOW)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (1.0, 100), (0.0, 1)])
def test_percentiles_are_of_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value
