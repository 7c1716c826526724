"""The fast CPU engine: OpenVINO."""

from __future__ import annotations

from functools import cache

import numpy as np
import openvino
from numpy.typing import NDArray

from sem_depth_node.bundle import BundleInput
from sem_depth_node.engines.engine import EngineError, EngineOutput, check_image


@cache
def _core() -> openvino.Core:
    """The process's only core, never let go of.

    Each core gives the thread that makes it an alternate signal stack and, when it goes, puts back the one that it
    found there. Of two cores the later one therefore puts back the earlier one's, freed by then if the earlier one went
    first; and the next signal, such as Ctrl-C, kills the process.
    """
    return openvino.Core()


class OpenVinoEngine:
    """Runs one input size of a bundle on the CPU, its products in bfloat16 where the processor has instructions for it.

    Args:
        bundle_input: the graph to load.
        threads: threads of a run; 0 takes one per physical core.

    Raises:
        EngineError: the file does not load, or its inputs and outputs are not those of the bundle contract.
    """

    concurrent = False
    """A run keeps every thread busy: two at once would only take turns."""
    name = "openvino"
    opens_quickly = True

    def __init__(self, bundle_input: BundleInput, threads: int = 0) -> None:
        self.height, self.width = h, w = bundle_input.height, bundle_input.width
        try:
            core = _core()
            model = core.read_model(bundle_input.path)
            self._check_contract(model, bundle_input)
            model.reshape({"image": [1, h, w, 3]})  # fixed sizes even where the file leaves them open
            # Said, not left to OpenVINO: elsewhere it would choose float16, in which the network may overflow.
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
            options: dict[str, str | int] = {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision,
            }
            if threads:
                options["INFERENCE_NUM_THREADS"] = threads
            request = core.compile_model(model, "CPU", options).create_infer_request()
        except EngineError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and TypeError alike
            raise EngineError(f"{bundle_input.path}: OpenVINO cannot load it ({error})") from error
        release = openvino.get_version().partition("-")[0]  # before the build's number and branch
        self.description = f"OpenVINO {release} on CPU, {precision}, {w}x{h}"
        # Our own arrays, set once: a run then allocates nothing and its results land where they are read.
        self._image = np.empty((1, h, w, 3), np.uint8)
        self._depth, self._log_scale = np.empty((1, h, w), np.float32), np.empty((1, h, w), np.float32)
        for name, array in (("image", self._image), ("depth", self._depth), ("log_scale", self._log_scale)):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        self._request: openvino.InferRequest | None = request

    def infer(self, image: NDArray[np.uint8]) -> EngineOutput:
        """Run the network; see `DepthEngine.infer`."""
        check_image(image, self.height, self.width)
        if self._request is None:
            raise EngineError("the OpenVINO engine is closed")
        self._image[0] = image
        try:
            self._request.infer()
        except Exception as error:
            raise EngineError(f"OpenVINO failed on an image ({error})") from error
        return EngineOutput(self._depth[0], self._log_scale[0])

    def close(self) -> None:
        """Let go of the network and its memory."""
        self._request = None

    @staticmethod
    def _check_contract(model: openvino.Model, bundle_input: BundleInput) -> None:
        h, w = (bundle_input.height, bundle_input.width) if bundle_input.profile is None else ("open", "open")
        expected: dict[str, tuple[str, list[int | str]]] = {
            "image": ("u8", [1, h, w, 3]),
            "depth": ("f32", [1, h, w]),
            "log_scale": ("f32", [1, h, w]),
        }
        found = {
            port.any_name: (
                port.element_type.to_string(),
                ["open" if size.is_dynamic else size.get_length() for size in port.partial_shape],
            )
            for port in (*model.inputs, *model.outputs)
        }
        if found != expected:
            raise EngineError(
                f"{bundle_input.path}: the graph's inputs and outputs are {found}, expected {expected}; "
                "export it with sem-depth-train export"
            )
