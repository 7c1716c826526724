"""One engine serves several threads, each with answers of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.engines.engine import EngineOutput
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.engines.shared import SharedEngine


class OneAtATime:
    """An engine that answers out of the same arrays every time, and notices a second caller."""

    name, description, height, width, concurrent, opens_quickly = "fake", "one at a time", 4, 6, False, True

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._output = EngineOutput(np.empty((4, 6), np.float32), np.empty((4, 6), np.float32))

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        assert self._free.acquire(blocking=False), "called while it runs"
        self._output.depth[:] = image[..., 0]
        self._free.release()
        return self._output

    def close(self) -> None: ...


@pytest.mark.parametrize("kind", ["one at a time", "onnxruntime"])
def test_users_get_the_answers_to_their_own_images(kind: str, tiny_bundle: ModelBundle) -> None:
    engine = OneAtATime() if kind == "one at a time" else OnnxRuntimeEngine(tiny_bundle.inputs[0])
    lock = threading.Lock()
    plain = np.zeros((engine.height, engine.width, 3), np.uint8)
    alone = [engine.infer(plain + np.uint8(red)).depth.copy() for red in range(8)]
    users = [SharedEngine(engine, lock) for _ in range(8)]

    def use(red: int) -> None:
        for _ in range(50):
            np.testing.assert_array_equal(users[red].infer(plain + np.uint8(red)).depth, alone[red])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))


def test_answers_stay_until_the_users_own_next_call(tiny_bundle: ModelBundle) -> None:
    engine = OnnxRuntimeEngine(tiny_bundle.inputs[0])
    first, second = (SharedEngine(engine, threading.Lock()) for _ in range(2))
    plain = np.zeros((engine.height, engine.width, 3), np.uint8)
    answer = first.infer(plain + np.uint8(50)).depth
    before = answer.copy()
    second.infer(plain + np.uint8(90))
    np.testing.assert_array_equal(answer, before)
