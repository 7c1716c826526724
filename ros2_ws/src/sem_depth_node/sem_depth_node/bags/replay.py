"""When each message of a bag is due: the timing of a replay, apart from what publishes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sem_depth_node.bags.reader import BagError, BagMessage, BagReader

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class ReplaySettings:
    """What part of a bag to play, and how fast.

    Attributes:
        rate: playing speed relative to the recording's, above 0.
        loop: start again at the end, for ever.
        start: seconds into the bag at which to begin.
        duration: seconds of the bag to play; None for all that follows.
        topics: names to play; None for all.
    """

    rate: float = 1.0
    loop: bool = False
    start: float = 0.0
    duration: float | None = None
    topics: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate is {self.rate}, expected above 0")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"start is {self.start} s, expected 0 or later")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ValueError(f"duration is {self.duration} s, expected above 0")


def select_span(bag: BagReader, settings: ReplaySettings) -> tuple[int, int]:
    """First and last recording time to play, nanoseconds.

    Raises:
        BagError: the bag has no message in that span.
    """
    begin = bag.start + round(settings.start * NANOSECONDS)
    end = bag.end if settings.duration is None else begin + round(settings.duration * NANOSECONDS)
    if not bag.topics or begin > bag.end:
        length = (bag.end - bag.start) / NANOSECONDS if bag.topics else 0.0
        raise BagError(
            f"{bag.path}: nothing to play at {settings.start:g} s, the bag lasts {length:.3f} s; {bag.listing()}"
        )
    return begin, min(end, bag.end)


def latched_before(bag: BagReader, settings: ReplaySettings, topics: Collection[str]) -> Iterator[BagMessage]:
    """The messages of latched `topics` that a replay skips by starting late, so that their state can be restored."""
    begin, _ = select_span(bag, settings)
    chosen = [t for t in topics if settings.topics is None or t in settings.topics]
    if chosen:
        yield from bag.messages(chosen, stop=begin)


def play(
    bag: BagReader,
    settings: ReplaySettings,
    *,
    now: Callable[[], int] = time.monotonic_ns,
    wait_until: Callable[[int, int], bool],
) -> Iterator[BagMessage]:
    """Messages, each when it is due.

    A message that is late is yielded at once; the schedule is absolute, so delays do not add up.

    Args:
        bag: open.
        settings: what and how fast.
        now: a monotonic clock, nanoseconds.
        wait_until: sleeps until `now()` reaches its first argument, its second being the bag's time then; returns
            False to end the replay.
    """
    begin, end = select_span(bag, settings)
    while True:
        began, played = now(), False
        for message in bag.messages(settings.topics, begin, end + 1):
            due = began + round((message.time - begin) / settings.rate)
            if not wait_until(due, message.time):
                return
            played = True
            yield message
        # The bag lasts to its end, also where what is played of it ends before.
        if not (settings.loop and played and wait_until(began + round((end - begin) / settings.rate), end)):
            return
