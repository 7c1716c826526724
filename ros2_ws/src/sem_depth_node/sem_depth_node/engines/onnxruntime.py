"""The CPU engine: ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.engine import EngineError, EngineOutput, check_image


class OnnxRuntimeEngine:
    """Runs one input size of a bundle on the CPU.

    Args:
        bundle_input: the graph to load.
        threads: intra-op threads; 0 takes one per physical core.

    Raises:
        EngineError: the file does not load, or its inputs and outputs are not those of the bundle contract.
    """

    def __init__(self, bundle_input: BundleInput, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # A spinning thread holds a core that decoding and sending need: the engine's gain is the frame's loss.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
        plane = (1, self.height, self.width)
        self._image = np.empty((1, self.height, self.width, 3), np.uint8)
        self._depth = np.empty(plane, np.float32)
        self._log_scale = np.empty(plane, np.float32)
        # Bound once to our own arrays: a run then allocates nothing and its results land where they are read.
        self._binding = session.io_binding()
        self._binding.bind_input("image", "cpu", 0, np.uint8, self._image.shape, self._image.ctypes.data)
        self._binding.bind_output("depth", "cpu", 0, np.float32, plane, self._depth.ctypes.data)
        self._binding.bind_output("log_scale", "cpu", 0, np.float32, plane, self._log_scale.ctypes.data)
        self._session: onnxruntime.InferenceSession | None = session

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network; see `DepthEngine.infer`."""
        check_image(image, self.height, self.width)
        if self._session is None:
            raise EngineError("the ONNX Runtime engine is closed")
        self._image[0] = image
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on an image ({error})") from error
        return EngineOutput(self._depth[0], self._log_scale[0])

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
