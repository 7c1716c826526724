"""Timing by turns.

Subjects take turns, a few runs each, round after round, so that a machine whose speed drifts slows all of them alike:
compare ratios, taken round by round, before absolute times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        name: as it appears in the table.
        run: one repetition.
        stage: such as "engine" or "frame path"; ratios are taken against the first subject of the same stage.
        slow: takes one repetition a turn, however many the others get.
    """

    name: str
    run: Callable[[], object]
    stage: str
    slow: bool = False


@dataclass(frozen=True)
class Timing:
    """What was measured of one subject, in milliseconds.

    Attributes:
        p5, median, p95: over all repetitions.
        ratio: median over rounds of this subject's median by the first one's of its stage.
        ratio_low, ratio_high: the smallest and largest of those.
    """

    name: str
    stage: str
    repetitions: int
    p5: float
    median: float
    p95: float
    ratio: float
    ratio_low: float
    ratio_high: float


def time_in_turns(subjects: Sequence[Subject], rounds: int, repetitions: int, warm_up: int = 3) -> list[Timing]:
    """Run each subject `repetitions` times in turn, `rounds` times over.

    Raises:
        ValueError: there is nothing to run.
    """
    if not subjects or rounds < 1 or repetitions < 1:
        raise ValueError(
            f"{len(subjects)} subjects, {rounds} rounds, {repetitions} repetitions: expected one or more of each"
        )
    for subject in subjects:
        for _ in range(1 if subject.slow else warm_up):
            subject.run()
    seconds: list[list[list[float]]] = [[] for _ in subjects]
    for _ in range(rounds):
        for index, subject in enumerate(subjects):
            seconds[index].append([_time(subject) for _ in range(1 if subject.slow else repetitions)])
    medians = [np.median(of_subject, axis=1) for of_subject in seconds]
    timings = []
    for index, subject in enumerate(subjects):
        first = next(i for i, other in enumerate(subjects) if other.stage == subject.stage)
        ratios = medians[index] / medians[first]
        p5, median, p95 = np.percentile(np.multiply(seconds[index], 1e3), [5, 50, 95])
        timings.append(
            Timing(
                subject.name,
                subject.stage,
                sum(map(len, seconds[index])),
                float(p5),
                float(median),
                float(p95),
                float(np.median(ratios)),
                float(np.min(ratios)),
                float(np.max(ratios)),
            )
        )
    return timings


def _time(subject: Subject) -> float:
    start = time.perf_counter()
    subject.run()
    return time.perf_counter() - start
