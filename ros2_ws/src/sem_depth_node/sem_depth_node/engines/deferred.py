"""An engine that is opened when the first image for it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.engine import DepthEngine, EngineError, EngineOutput


class DeferredEngine:
    """Holds the place of an input size that no camera may ever need, and so spares its memory.

    Args:
        bundle_input: the input size.
        open_engine: opens its engine.
        like: an open engine of the same name.
    """

    opens_quickly = True

    def __init__(self, bundle_input: BundleInput, open_engine: Callable[[], DepthEngine], like: DepthEngine) -> None:
        self.height, self.width = bundle_input.height, bundle_input.width
        self.name, self.concurrent = like.name, like.concurrent
        self._open_engine = open_engine
        self._opening = threading.Lock()
        self._engine: DepthEngine | None = None
        self._closed = False

    @property
    def description(self) -> str:
        """The engine's, once there is one."""
        engine = self._engine
        return engine.description if engine is not None else f"{self.width}x{self.height} once an image needs it"

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network, opening it first where nobody has; see `DepthEngine.infer`.

        Raises:
            EngineError: also where it cannot be opened; the next image tries again.
        """
        with self._opening:
            if self._closed:
                raise EngineError(f"the engine of {self.width}x{self.height} is closed")
            if self._engine is None:
                self._engine = self._open_engine()
            engine = self._engine
        return engine.infer(image)

    def close(self) -> None:
        """Free its memory, if it took any."""
        with self._opening:
            self._closed = True
            if self._engine is not None:
                self._engine.close()
