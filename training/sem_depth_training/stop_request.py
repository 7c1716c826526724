"""Stopping a run between two steps, when SIGINT or SIGTERM asks for it."""

import signal
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator


class StopRequest:
    """Within this context SIGINT and SIGTERM set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested_anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process of the run was asked to stop; all of them get the same answer."""
        return on_any_process(accelerator, self.requested)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def on_any_process(accelerator: Accelerator, here: bool) -> bool:
    """Whether `here` is true in any process of the run; all of them must ask, and get the same answer."""
    flag = torch.tensor(float(here), device=accelerator.device)
    return bool(accelerator.reduce(flag).item() > 0)
