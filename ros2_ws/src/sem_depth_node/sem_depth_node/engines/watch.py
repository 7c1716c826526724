"""Following a long engine build: progress, warnings, cancelling."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from sem_depth_node.engines.engine import EngineError

ProgressCallback = Callable[[str, float], None]
"""Called with the phase in words and the fraction done, 0 to 1, from the thread that creates the engine."""


class BuildCancelled(EngineError):
    """The build was cancelled by whoever asked for it."""


class Log(Protocol):
    """What the engines need of a logger; both Python's and rclpy's have it."""

    def info(self, message: str, /) -> object:
        """Log something worth knowing."""

    def warning(self, message: str, /) -> object:
        """Log something that works but should be looked at."""


class BuildWatch:
    """Whoever waits for an engine: is told of progress, and may cancel.

    Args:
        on_progress: called often while an engine is built; an exception it raises ends the build.
        log: where remarks and warnings go; None is the logger `sem_depth_node.engines`.
        cancelled: set it from any thread to end the build within a fraction of a second.
    """

    def __init__(
        self,
        on_progress: ProgressCallback | None = None,
        log: Log | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.log: Log = log or logging.getLogger("sem_depth_node.engines")
        self._on_progress = on_progress
        self._cancelled = cancelled

    def progress(self, phase: str, fraction: float) -> None:
        """Pass on how far the build is."""
        if self._on_progress is not None:
            self._on_progress(phase, fraction)

    def raise_if_cancelled(self) -> None:
        """Raise BuildCancelled once the build is no longer wanted."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise BuildCancelled("the engine build was cancelled")
