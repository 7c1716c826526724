"""The CPU engine that runs everywhere: ONNX Runtime."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.engine import EngineError, EngineOutput, check_image


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """How networks are run on the CPU: `threads` intra-op threads (0 takes one per physical core), little spinning.

    A spinning thread holds a core that decoding and sending need, yet between two layers it is back at work sooner than
    one that sleeps. So threads spin for 50 microseconds, which spans layers and ends with the frame; versions before
    1.26 cannot limit it, and do not spin.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= (1, 26):
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class _Arrays:
    """Input and outputs of a session, bound once: a run then allocates nothing and its results land where they are
    read."""

    def __init__(self, session: onnxruntime.InferenceSession, height: int, width: int) -> None:
        plane = (1, height, width)
        self.image = np.empty((*plane, 3), np.uint8)
        self.depth, self.log_scale = np.empty(plane, np.float32), np.empty(plane, np.float32)
        self.binding = session.io_binding()
        self.binding.bind_input("image", "cpu", 0, np.uint8, self.image.shape, self.image.ctypes.data)
        self.binding.bind_output("depth", "cpu", 0, np.float32, plane, self.depth.ctypes.data)
        self.binding.bind_output("log_scale", "cpu", 0, np.float32, plane, self.log_scale.ctypes.data)


class OnnxRuntimeEngine:
    """Runs one input size of a bundle on the CPU. A run leaves part of the processor idle, so runs may overlap.

    Args:
        bundle_input: the graph to load.
        threads: intra-op threads; 0 takes one per physical core.

    Raises:
        EngineError: the file does not load, or its inputs and outputs are not those of the bundle contract.
    """

    concurrent = True
    name = "onnxruntime"
    opens_quickly = True

    def __init__(self, bundle_input: BundleInput, threads: int = 0) -> None:
        options = session_options(threads)
        options.log_severity_level = 3  # errors; they come back as exceptions too
        try:
            session = onnxruntime.InferenceSession(
                str(bundle_input.path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base below Exception
            raise EngineError(f"{bundle_input.path}: ONNX Runtime cannot load it ({error})") from error
        self.height, self.width = bundle_input.height, bundle_input.width
        self._check_contract(session, bundle_input)
        self.description = f"ONNX Runtime {onnxruntime.__version__} on CPU, {self.width}x{self.height}"
        self._session: onnxruntime.InferenceSession | None = session
        self._of_thread = threading.local()

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network; see `DepthEngine.infer`."""
        check_image(image, self.height, self.width)
        if (session := self._session) is None:
            raise EngineError("the ONNX Runtime engine is closed")
        arrays: _Arrays | None = getattr(self._of_thread, "arrays", None)
        if arrays is None:
            arrays = self._of_thread.arrays = _Arrays(session, self.height, self.width)
        arrays.image[0] = image
        try:
            session.run_with_iobinding(arrays.binding)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on an image ({error})") from error
        return EngineOutput(arrays.depth[0], arrays.log_scale[0])

    def close(self) -> None:
        """Let go of the session and its memory."""
        self._session = None

    @staticmethod
    def _check_contract(session: onnxruntime.InferenceSession, bundle_input: BundleInput) -> None:
        h, w = (bundle_input.height, bundle_input.width) if bundle_input.profile is None else ("open", "open")
        expected: dict[str, tuple[str, list[int | str]]] = {
            "image": ("tensor(uint8)", [1, h, w, 3]),
            "depth": ("tensor(float)", [1, h, w]),
            "log_scale": ("tensor(float)", [1, h, w]),
        }
        found = {
            node.name: (node.type, [size if isinstance(size, int) else "open" for size in node.shape])
            for node in (*session.get_inputs(), *session.get_outputs())
        }
        if found != expected:
            raise EngineError(
                f"{bundle_input.path}: the graph's inputs and outputs are {found}, expected {expected}; "
                "export it with sem-depth-train export"
            )
