"""NVIDIA's two TensorRT libraries behind one name.

`tensorrt` comes with JetPack and the server packages: it builds on the GPU that will run the engine, by timing kernels.
`tensorrt_rtx` (TensorRT for RTX) builds without a GPU, for a compute capability, and compiles kernels when the engine
is first run. Their Python interfaces are the same for nearly everything used here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sem_depth_node.engines.engine import EngineError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]


class LibraryMissing(EngineError):
    """No TensorRT library is installed."""


@dataclass(frozen=True)
class TensorRtLibrary:
    """A loaded TensorRT library; `trt` is its Python module."""

    name: LibraryName
    trt: Any

    @classmethod
    def load(cls, name: LibraryName) -> TensorRtLibrary:
        """Import one of the libraries.

        Raises:
            LibraryMissing: it is not installed.
            EngineError: it is installed but does not import, for want of its shared libraries say.
        """
        try:
            return cls(name, importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name != name:
                raise EngineError(f"Python package {name} does not import: {error}") from error
            raise LibraryMissing(f"Python package {name} is not installed") from error
        except Exception as error:  # the packages load shared libraries by hand and raise whatever that raises
            raise EngineError(f"Python package {name} does not import: {error}") from error

    @classmethod
    def named(cls, name: str) -> TensorRtLibrary:
        """Like `load`, for a name that a person typed.

        Raises:
            EngineError: it is no library's name, or `load` fails.
        """
        for known in get_args(LibraryName):
            if name == known:
                return cls.load(known)
        raise EngineError(f"library is {name!r}, expected one of {', '.join(get_args(LibraryName))}")

    @classmethod
    def find(cls) -> TensorRtLibrary:
        """The library of this machine: `tensorrt` where it is installed, else `tensorrt_rtx`.

        Raises:
            LibraryMissing: neither is installed.
            EngineError: one is installed, but none imports.
        """
        errors: list[EngineError] = []
        for name in get_args(LibraryName):
            try:
                return cls.load(name)
            except EngineError as error:
                errors.append(error)
        message = (
            "; ".join(map(str, errors)) + " (tensorrt comes with JetPack or NVIDIA's packages; "
            "for an RTX card: pip install tensorrt-rtx-cu12)"
        )
        missing = all(isinstance(error, LibraryMissing) for error in errors)
        raise (LibraryMissing if missing else EngineError)(message)

    @property
    def version(self) -> str:
        """The library's full version."""
        return str(self.trt.__version__)

    @property
    def builds_without_gpu(self) -> bool:
        """Whether an engine can be built for a GPU that is not there."""
        return self.name == "tensorrt_rtx"

    def buildable_capabilities(self) -> dict[str, Any]:
        """Compute capability such as "8.9" -> the library's name for it; empty for `tensorrt`, which has no choice."""
        if not self.builds_without_gpu:
            return {}
        members = self.trt.ComputeCapability.__members__
        return {f"{int(name[2:-1])}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}

    def logger(self, on_message: Callable[[str, str], None]) -> Any:
        """A TensorRT logger that passes "ERROR" or "WARNING" and the text on; `on_message` must be thread-safe."""
        base: Any = self.trt.ILogger
        names = {base.INTERNAL_ERROR: "ERROR", base.ERROR: "ERROR", base.WARNING: "WARNING"}

        class _Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)  # pybind11 wants its own, not super()

            def log(self, severity: Any, message: str) -> None:
                if severity in names:
                    on_message(names[severity], message)

        return _Logger()
