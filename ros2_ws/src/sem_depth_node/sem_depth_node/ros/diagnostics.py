"""What the node says about itself: faults (counted, logged now and then), timing of frames, /diagnostics."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

# Of one kind of fault, one log line in this many seconds.
LOG_PERIOD = 10.0
# A fault shows in the level of the diagnostics for this long.
FAULT_SHOWS = 5.0
# Rates and latencies are those of this many seconds.
WINDOW = 10.0

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


@dataclass(frozen=True)
class Fault:
    """The last fault of one kind."""

    kind: str
    message: str
    at: float
    severe: bool


class FaultLog:
    """Counts faults by kind, keeps the last of each, and logs each kind at most once in 10 s.

    Safe to use from several threads.

    Args:
        warn, error: log one line.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        warn: Callable[[str], object],
        error: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warn, self._error, self._clock = warn, error, clock
        self._lock = threading.Lock()
        self._last: dict[str, Fault] = {}
        self._logged: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def report(self, kind: str, message: str, severe: bool = False) -> None:
        """Count a fault and log it unless one of its kind was logged just now.

        Args:
            kind: a few fixed words with underscores.
            message: what was found and what is expected.
            severe: the node, not the input, is at fault.
        """
        now = self._clock()
        with self._lock:
            self._counts[kind] += 1
            self._last[kind] = Fault(kind, message, now, severe)
            if now - self._logged.get(kind, -math.inf) < LOG_PERIOD:
                self._unsaid[kind] += 1
                return
            self._logged[kind] = now
            unsaid = self._unsaid.pop(kind, 0)
        line = f"{kind}: {message}" + (f" ({unsaid} more like it before)" if unsaid else "")
        # Not one call through a variable: rclpy ties a severity to the line that logs.
        if severe:
            self._error(line)
        else:
            self._warn(line)

    @property
    def counts(self) -> dict[str, int]:
        """Faults so far, by kind."""
        with self._lock:
            return dict(self._counts)

    @property
    def last(self) -> list[tuple[Fault, float]]:
        """The last fault of each kind and its age in seconds, newest first."""
        now = self._clock()
        with self._lock:
            return sorted(((fault, now - fault.at) for fault in self._last.values()), key=lambda pair: pair[1])


@dataclass(frozen=True)
class FrameTiming:
    """Where the time of one frame went, in seconds. The node's overhead is all but `waiting` and `engine`.

    Attributes:
        waiting: from the image's arrival to the worker taking it.
        decoding: image message to rectified RGB, camera_info to camera.
        engine: inside the engine.
        estimating: around the engine: resizing, metres, validity.
        building: cloud, picture and messages of the estimate.
        publishing: handing the messages to the middleware, which serialises them.
    """

    waiting: float
    decoding: float
    engine: float
    estimating: float
    building: float
    publishing: float

    @property
    def latency(self) -> float:
        """From the image's arrival in the node to its last output sent."""
        return self.waiting + self.overhead + self.engine

    @property
    def overhead(self) -> float:
        """What the node spends on a frame beside the engine."""
        return self.decoding + self.estimating + self.building + self.publishing


class FrameStatistics:
    """Counts frames and keeps the timing of the last 10 s. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque()
        self._timings: deque[tuple[float, FrameTiming]] = deque()
        self._started = clock()
        self.received = self.processed = 0
        self.dropped: Counter[str] = Counter()

    def arrived(self) -> None:
        """An image came."""
        with self._lock:
            self.received += 1
            self._arrivals.append(self._clock())
            self._forget_old()

    def drop(self, reason: str) -> None:
        """An image will not be answered."""
        with self._lock:
            self.dropped[reason] += 1

    def finish(self, timing: FrameTiming) -> None:
        """An image was answered."""
        with self._lock:
            self.processed += 1
            self._timings.append((self._clock(), timing))
            self._forget_old()

    @property
    def seconds_without_image(self) -> float:
        """Since the last image, or since the start where none came."""
        with self._lock:
            return self._clock() - (self._arrivals[-1] if self._arrivals else self._started)

    def key_values(self) -> dict[str, str]:
        """Counts, rates in Hz and times in ms, for diagnostics."""
        with self._lock:
            self._forget_old()
            span = max(min(WINDOW, self._clock() - self._started), 1e-9)
            timings = [timing for _, timing in self._timings]
            values = {
                "frames received": str(self.received),
                "frames processed": str(self.processed),
                "frames dropped": str(sum(self.dropped.values())),
                **{f"dropped: {reason}": str(count) for reason, count in sorted(self.dropped.items())},
                "input rate (Hz)": f"{sum(a > self._clock() - span for a in self._arrivals) / span:.2f}",
                "output rate (Hz)": f"{len(timings) / span:.2f}",
            }
        if timings:
            for name in (
                "latency",
                "overhead",
                "engine",
                "waiting",
                "decoding",
                "estimating",
                "building",
                "publishing",
            ):
                milliseconds = [1000 * getattr(timing, name) for timing in timings]
                values[f"{name} median (ms)"] = f"{statistics.median(milliseconds):.2f}"
                values[f"{name} p95 (ms)"] = f"{percentile(milliseconds, 0.95):.2f}"
        return values

    def _forget_old(self) -> None:
        horizon = self._clock() - WINDOW
        while self._timings and self._timings[0][0] < horizon:
            self._timings.popleft()
        while len(self._arrivals) > 1 and self._arrivals[0] < horizon:  # the last one stays: its age is asked for
            self._arrivals.popleft()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0..1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def timing_message(header: Any, timing: FrameTiming) -> DiagnosticArray:
    """`depth/timing` of one frame: the frame's header, and its times in ms as key-values."""
    names = [entry.name for entry in fields(timing)] + ["overhead", "latency"]
    values = [KeyValue(key=f"{name} (ms)", value=f"{1000 * getattr(timing, name):.3f}") for name in names]
    return DiagnosticArray(header=header, status=[DiagnosticStatus(level=OK, name="timing", values=values)])


def diagnostic_status(name: str, level: bytes, message: str, hardware: str, values: dict[str, str]) -> DiagnosticStatus:
    """One entry for /diagnostics."""
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def summary_status(name: str, hardware: str, cameras: Mapping[str, Sequence[DiagnosticStatus]]) -> DiagnosticStatus:
    """One entry for several cameras: OK where all are, ERROR where none is of use, else WARN.

    Args:
        name: of the entry.
        hardware: of the entry.
        cameras: the entries of each, not empty.
    """
    poor = [camera for camera, entries in cameras.items() if any(entry.level != OK for entry in entries)]
    useless = [camera for camera, entries in cameras.items() if any(entry.level in (ERROR, STALE) for entry in entries)]
    level = OK if not poor else ERROR if len(useless) == len(cameras) else WARN
    message = f"{len(cameras) - len(poor)} of {len(cameras)} cameras are well"
    if poor:
        message += f"; look at {', '.join(poor)}"
    said = {camera: "; ".join(entry.message for entry in entries) for camera, entries in cameras.items()}
    return diagnostic_status(name, level, message, hardware, said)


def diagnostic_array(stamp: Time, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """A message for /diagnostics."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message
