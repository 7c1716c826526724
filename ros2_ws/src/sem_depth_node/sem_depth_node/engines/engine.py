"""The protocol every engine follows."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class EngineError(Exception):
    """An engine that cannot be had, built or run; the message says what was found and what to do."""


class EngineOutput(NamedTuple):
    """What the network says of one image.

    Attributes:
        depth: float32 (H, W), canonical metres along Z.
        log_scale: float32 (H, W), logarithm of the Laplacian scale of the log-depth residual.
    """

    depth: NDArray[np.float32]
    log_scale: NDArray[np.float32]


class DepthEngine(Protocol):
    """Runs a bundle's network at one input size."""

    @property
    def name(self) -> str:
        """What the parameter `engine` calls it."""

    @property
    def description(self) -> str:
        """Engine, version and device in a few words, for logs and diagnostics."""

    @property
    def height(self) -> int:
        """Rows of the input in pixels."""

    @property
    def width(self) -> int:
        """Columns of the input in pixels."""

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call `infer` at once; the arrays returned are then each thread's own."""

    @property
    def opens_quickly(self) -> bool:
        """Whether to open one takes seconds at most, so that it can wait for the first image."""

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network on `image`, uint8 (height, width, 3) RGB, C-contiguous.

        The arrays returned belong to the engine and are valid until the next call.

        Raises:
            EngineError: the image has another shape or type, or the device failed.
        """

    def close(self) -> None:
        """Free the device's memory. No call may follow, except another close."""


def check_image(image: NDArray[np.uint8], height: int, width: int) -> None:
    """Raise EngineError unless `image` is what an engine of this input size takes."""
    if image.dtype != np.uint8 or image.shape != (height, width, 3) or not image.flags.c_contiguous:
        raise EngineError(
            f"engine input is {image.dtype} {image.shape}, expected contiguous uint8 {(height, width, 3)} RGB"
        )
