"""One engine for several cameras."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.engines.engine import DepthEngine, EngineOutput


class SharedEngine:
    """What one of several users holds of an engine: the same engine, with answers that stay until its own next call.

    Args:
        engine: shared; closed by whoever opened it.
        lock: held while the engine runs, unless that is `concurrent`; the same one for all engines of a device, which
            they would only fight over.
    """

    def __init__(self, engine: DepthEngine, lock: threading.Lock) -> None:
        self._engine = engine
        self._turn = contextlib.nullcontext() if engine.concurrent else lock
        self.name, self.concurrent, self.opens_quickly = engine.name, engine.concurrent, engine.opens_quickly
        self.height, self.width = engine.height, engine.width
        self._output = EngineOutput(*(np.empty((engine.height, engine.width), np.float32) for _ in range(2)))

    @property
    def description(self) -> str:
        """The engine's."""
        return self._engine.description

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network; see `DepthEngine.infer`."""
        with self._turn:
            # Copied, because the engine's own arrays are the next user's, or the next one's of this thread.
            for own, answer in zip(self._output, self._engine.infer(image), strict=True):
                np.copyto(own, answer)
        return self._output

    def close(self) -> None:
        """Nothing: the others may go on."""
