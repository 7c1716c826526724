"""OpenVINO gives what ONNX Runtime gives, to the precision of the processor's fast products."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sem_depth_node.bags.reader import BagReader
from sem_depth_node.bags.streams import find_camera
from sem_depth_node.bundle import BundleInput, ModelBundle
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.image_decoding import ImageDecoder
from sem_depth_node.shipped import default_bundle, shipped_folder

pytest.importorskip("openvino")

from sem_depth_node.engines.openvino import OpenVinoEngine


@pytest.mark.parametrize("index", [0, 1])
def test_the_shipped_network_gives_the_depth_that_onnxruntime_gives(index: int) -> None:
    size = ModelBundle.load(default_bundle()).inputs[index]
    with BagReader(shipped_folder("demo")) as drive:
        message = drive.decode(next(drive.messages([find_camera(drive).image])))
    street = ImageDecoder().decode_compressed(message)
    image = np.ascontiguousarray(cv2.resize(street, (size.width, size.height), interpolation=cv2.INTER_AREA))
    engine, reference = OpenVinoEngine(size), OnnxRuntimeEngine(size)
    output, expected = engine.infer(image), reference.infer(image)
    difference = np.abs(output.depth / expected.depth - 1)
    limits = (0.01, 0.1) if "bf16" in engine.description else (1e-4, 1e-3)  # bfloat16 has 8 bits of mantissa
    assert np.median(difference) < limits[0]
    assert np.percentile(difference, 99) < limits[1]
    assert np.median(np.abs(output.log_scale - expected.log_scale)) < 0.05
    engine.close()


def test_a_second_image_does_not_meet_the_first(tiny_bundle: ModelBundle) -> None:
    size = tiny_bundle.inputs[0]
    engine, reference = OpenVinoEngine(size, threads=1), OnnxRuntimeEngine(size)
    for grey in (20, 200):
        image = np.full((size.height, size.width, 3), grey, np.uint8)
        np.testing.assert_array_equal(engine.infer(image).depth, reference.infer(image).depth)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(image)


def test_what_is_wrong_is_said(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    size = tiny_bundle.inputs[0]
    with pytest.raises(EngineError, match=r"expected contiguous uint8"):
        OpenVinoEngine(size).infer(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(EngineError, match=r"inputs and outputs are .*expected"):
        OpenVinoEngine(BundleInput(size.path, size.height + 1, size.width))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(EngineError, match=r"junk\.onnx: OpenVINO cannot load it"):
        OpenVinoEngine(BundleInput(tmp_path / "junk.onnx", 64, 96))


OPEN_CLOSE_AND_INTERRUPT = """
import os, signal, sys
from pathlib import Path
from sem_depth_node.bundle import ModelBundle
from sem_depth_node.engines.openvino import OpenVinoEngine

signal.signal(signal.SIGTERM, lambda number, frame: print("interrupted"))
engines = [OpenVinoEngine(size) for size in ModelBundle.load(Path(sys.argv[1])).inputs]
for engine in engines:
    engine.close()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_closed_its_engines_survives_a_signal(tiny_bundle: ModelBundle) -> None:
    program = [sys.executable, "-c", OPEN_CLOSE_AND_INTERRUPT, str(tiny_bundle.folder)]
    run = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert run.returncode != -signal.SIGSEGV, "killed by the signal's own delivery"
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr
