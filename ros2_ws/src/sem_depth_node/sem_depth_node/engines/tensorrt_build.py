"""Compiling an ONNX graph into a TensorRT engine, in a process of its own.

The builder runs for seconds to minutes, takes gigabytes and is native code: in its own process it can be cancelled at
any moment, gives all its memory back, leaves the processor to the robot (it is niced) and cannot take the node with it
when it crashes. It ends when its parent does, however the parent ends.

Networks are strongly typed: the graph's types are the engine's types, and nothing falls to another precision unasked.
"""

from __future__ import annotations

import collections
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from sem_depth_node.engines.cache import write_atomically
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.tensorrt_library import LibraryName, TensorRtLibrary
from sem_depth_node.engines.watch import BuildWatch

# Layers that move or make data and compute nothing: their precision says nothing about the network's.
_MOVING_LAYERS = frozenset(
    {
        "ASSERTION",
        "CAST",
        "CONCATENATION",
        "CONSTANT",
        "FILL",
        "GATHER",
        "IDENTITY",
        "PADDING",
        "SELECT",
        "SHAPE",
        "SHUFFLE",
        "SLICE",
        "SQUEEZE",
        "UNSQUEEZE",
    }
)
_CANCEL_POLL_SECONDS = 0.1


RECIPE = 1
"""Part of the cache key. Raise it with every change to how engines are built that no other part of the key tells."""


@dataclass(frozen=True)
class BuildOptions:
    """What may be chosen about a build; part of the cache key.

    Attributes:
        workspace_mib: GPU memory a layer may use for scratch, MiB. Too little and the builder finds no kernel.
        optimization_level: 0 (quick build) to 5 (longest search); 3 is TensorRT's default. TensorRT-RTX ignores it.
    """

    workspace_mib: int = 2048
    optimization_level: int = 3

    def __post_init__(self) -> None:
        if self.workspace_mib < 1:
            raise EngineError(f"workspace is {self.workspace_mib} MiB, expected at least 1")
        if not 0 <= self.optimization_level <= 5:
            raise EngineError(f"optimization level is {self.optimization_level}, expected 0 to 5")


@dataclass(frozen=True)
class BuildRequest:
    """One build: `onnx` at `height` x `width` with `library` for `compute_capability` (the GPU's own for tensorrt).

    With a `profile`, smallest and largest (height, width), the engine takes every size of the graph in between, and is
    tuned for `height` x `width`. A `contract`, inputs and outputs by name with TensorRT's name of the type and the
    shape, takes the place of the bundle's.
    """

    onnx: str
    height: int
    width: int
    library: LibraryName
    compute_capability: str
    options: BuildOptions = field(default_factory=BuildOptions)
    timing_cache: str | None = None
    profile: tuple[tuple[int, int], tuple[int, int]] | None = None
    contract: dict[str, tuple[str, tuple[int, ...]]] | None = None


@dataclass(frozen=True)
class BuildReport:
    """What a build was and took.

    Attributes:
        library, library_version, compute_capability: of the engine.
        seconds: the whole build, parsing included.
        engine_bytes: size of the plan.
        peak_host_memory_bytes: the builder process's peak resident memory.
        layers: layer type -> precision -> number of layers, of the network handed to the builder. Networks are strongly
            typed, so the builder may fuse these layers but not change their precision.
        warnings: what TensorRT warned about, without repeats.
    """

    library: str
    library_version: str
    compute_capability: str
    seconds: float
    engine_bytes: int
    peak_host_memory_bytes: int
    layers: dict[str, dict[str, int]]
    warnings: list[str]

    def layers_by_precision(self) -> dict[str, int]:
        """Precision -> number of layers that compute floating-point values, most frequent first."""
        counts: collections.Counter[str] = collections.Counter()
        for kind, precisions in self.layers.items():
            if kind not in _MOVING_LAYERS:
                counts.update({name: n for name, n in precisions.items() if not name.startswith(("INT", "BOOL"))})
        return dict(counts.most_common())


def build_engine(request: BuildRequest, plan: Path, watch: BuildWatch) -> BuildReport:
    """Build in a process of its own and write the plan to `plan`.

    Raises:
        BuildCancelled: `watch` was cancelled.
        EngineError: the graph does not parse or is not of the bundle contract, the library finds no kernels or cannot
            build for the compute capability, or the builder process died.
    """
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    command = [sys.executable, "-m", __name__, json.dumps(asdict(request)), str(plan)]
    with tempfile.TemporaryFile() as output, _start(command, output) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=_read_events, args=(process.stdout, events), daemon=True)
        reader.start()
        try:
            report = _follow(events, watch)
        except BaseException:
            process.kill()
            raise
        else:
            if report is not None:
                process.kill()  # nothing is left to do, and tearing CUDA down can take seconds
                return report
        finally:
            reader.join()  # the pipe is closed next, and nobody may be reading then
        code = process.wait()
        output.seek(0)
        tail = output.read()[-2000:].decode(errors="replace").strip()
    raise EngineError(f"the TensorRT builder {_death(code)} while building {request.onnx}; its last words: {tail}")


def _start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        # Its own session: Ctrl-C reaches this process alone, which then ends the builder. stdin is its life line.
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=output, start_new_session=True)
    except OSError as error:
        raise EngineError(f"cannot start the TensorRT builder with {sys.executable}: {error}") from error


def _follow(events: queue.Queue[dict[str, Any] | None], watch: BuildWatch) -> BuildReport | None:
    """Pass the builder's events on until it reports; None if it ends without."""
    while True:
        watch.raise_if_cancelled()
        try:
            event = events.get(timeout=_CANCEL_POLL_SECONDS)
        except queue.Empty:
            continue
        if event is None:
            return None
        if "phase" in event:
            watch.progress(event["phase"], event["fraction"])
        elif "warning" in event:
            watch.log.warning(f"TensorRT: {event['warning']}")
        elif "error" in event:
            raise EngineError(event["error"])
        else:
            return BuildReport(**event["report"])


def _read_events(stream: IO[bytes], events: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        if line.endswith(b"\n"):  # a killed builder may leave half a line
            events.put(json.loads(line))
    events.put(None)


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


def main() -> None:
    """The builder process: `python -m sem_depth_node.engines.tensorrt_build REQUEST PLAN`, events as JSON lines."""
    # TensorRT may print; the events' channel is kept to the events.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    fields = json.loads(sys.argv[1])
    request = BuildRequest(**{**fields, "options": BuildOptions(**fields["options"])})
    lock = threading.Lock()

    def emit(**event: Any) -> None:
        with lock:
            channel.write(json.dumps(event) + "\n")

    try:
        report = _build(request, Path(sys.argv[2]), emit)
    except EngineError as error:
        emit(error=str(error))
    except OSError as error:
        emit(error=f"cannot write the engine {sys.argv[2]}: {error}")
    else:
        emit(report=asdict(report))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _build(request: BuildRequest, plan_path: Path, emit: Callable[..., None]) -> BuildReport:
    started = time.monotonic()
    library = TensorRtLibrary.load(request.library)
    trt = library.trt
    warnings: list[str] = []
    errors: list[str] = []

    def on_message(severity: str, message: str) -> None:
        if severity == "ERROR":
            errors.append(message)
        elif message not in warnings:
            warnings.append(message)
            emit(warning=message)

    logger = library.logger(on_message)
    builder = trt.Builder(logger)
    # TensorRT 11 is always strongly typed and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    emit(phase="reading the network", fraction=0.0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request.onnx):
        problems = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = "; ".join(f"{p.node_operator()} {p.node_name()}: {p.desc()}".strip() for p in problems)
        raise EngineError(f"{request.onnx}: {library.name} {library.version} cannot read it: {reasons}")
    config = builder.create_builder_config()
    _check_contract(trt, network, request)
    _fix_shapes(builder, network, config, request)
    config.progress_monitor = _progress_monitor(trt, lambda phase, fraction: emit(phase=phase, fraction=fraction))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.options.workspace_mib << 20)
    config.builder_optimization_level = request.options.optimization_level
    # On by default, and not float32: it multiplies 10-bit mantissas. Whoever wants speed exports a float16 bundle.
    config.clear_flag(trt.BuilderFlag.TF32)
    if library.builds_without_gpu:
        _choose_target(library, config, request.compute_capability)
        # Without it the engine may allocate while running, which a CUDA graph capture does not allow.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    elif request.timing_cache is not None:  # TensorRT-RTX times nothing and has no use for one
        _attach_timing_cache(config, Path(request.timing_cache))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{library.name} {library.version} built no engine of {request.onnx}: {'; '.join(errors)} "
            f"(workspace limit {request.options.workspace_mib} MiB)"
        )
    emit(phase="writing the engine", fraction=1.0)
    plan_path.write_bytes(plan)
    if not library.builds_without_gpu and request.timing_cache is not None:
        write_atomically(Path(request.timing_cache), memoryview(config.get_timing_cache().serialize()))
    return BuildReport(
        library=library.name,
        library_version=library.version,
        compute_capability=request.compute_capability,
        seconds=round(time.monotonic() - started, 3),
        engine_bytes=plan.nbytes,
        peak_host_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        layers=_count_layers(network),
        warnings=warnings,
    )


def _check_contract(trt: Any, network: Any, request: BuildRequest) -> None:
    """Raise EngineError unless the graph's inputs and outputs are those of the contract."""
    h, w = (request.height, request.width) if request.profile is None else (-1, -1)
    expected = {"image": (trt.DataType.UINT8, (1, h, w, 3)), "depth": (trt.DataType.FLOAT, (1, h, w))}
    expected["log_scale"] = expected["depth"]
    if request.contract is not None:
        expected = {name: (trt.DataType.__members__[kind], tuple(s)) for name, (kind, s) in request.contract.items()}
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in tensors}
    # -1 is a size that the graph leaves open, which a profile must find so.
    fits = found.keys() == expected.keys() and all(
        dtype == expected[name][0]
        and len(shape) == len(expected[name][1])
        and all(size in (-1, wanted) for size, wanted in zip(shape, expected[name][1], strict=True))
        for name, (dtype, shape) in found.items()
    )
    if not fits:
        raise EngineError(
            f"{request.onnx}: the graph's inputs and outputs are {_words(found)}, expected {_words(expected)}; "
            "export it with sem-depth-train export"
        )


def _words(tensors: dict[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype.name} {list(shape)}" for name, (dtype, shape) in tensors.items())


def _fix_shapes(builder: Any, network: Any, config: Any, request: BuildRequest) -> None:
    """Give a graph with open sizes the one size this engine is for, or the sizes of its profile."""
    image = network.get_input(0)
    if -1 in tuple(image.shape):
        best = (request.height, request.width)
        smallest, largest = request.profile or (best, best)
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, *((1, *size, 3) for size in (smallest, best, largest)))
        config.add_optimization_profile(profile)


def _choose_target(library: TensorRtLibrary, config: Any, compute_capability: str) -> None:
    capability = library.buildable_capabilities().get(compute_capability)
    if capability is None:
        raise EngineError(unbuildable(library, compute_capability))
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def unbuildable(library: TensorRtLibrary, compute_capability: str) -> str:
    """What to say when `library` has no kernels for a compute capability."""
    return (
        f"{library.name} {library.version} builds for compute capability "
        f"{', '.join(library.buildable_capabilities())}, not {compute_capability}; engines for other GPUs, Jetsons "
        "among them, are built on the machine itself with tensorrt"
    )


def _attach_timing_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    # A cache of another GPU or version is refused; timing then starts afresh.
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _count_layers(network: Any) -> dict[str, dict[str, int]]:
    counts: dict[str, collections.Counter[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            counts.setdefault(layer.type.name, collections.Counter())[layer.get_output(0).dtype.name] += 1
    return {kind: dict(counts[kind]) for kind in sorted(counts)}


def _progress_monitor(trt: Any, on_progress: Callable[[str, float], None]) -> Any:
    """An IProgressMonitor that turns TensorRT's nested phases into one fraction that never falls."""

    base: Any = trt.IProgressMonitor

    class _Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)  # pybind11 wants its own, not super()
            self.phases = PhaseTree()
            self.lock = threading.Lock()
            self.reported: tuple[str, float] = ("", -1.0)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                self.phases.start(phase_name, parent_phase, num_steps)
                self.report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                self.phases.step(phase_name, step)
                self.report(phase_name)
            return True  # go on; cancelling ends the process instead

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                self.phases.finish(phase_name)
                self.report(phase_name)

        def report(self, phase_name: str) -> None:
            fraction = self.phases.fraction
            if phase_name != self.reported[0] or fraction - self.reported[1] >= 0.005:
                self.reported = (phase_name, fraction)
                on_progress(phase_name, fraction)

    return _Monitor()


@dataclass
class _Phase:
    parent: _Phase | None
    steps: int
    done: int = 0  # whole steps
    within: float = 0.0  # how much of the step under way its sub-phases have done
    share: float = 1.0  # how much of the parent's step this phase stands for

    @property
    def fraction(self) -> float:
        return min((self.done + self.within) / self.steps, 1.0)


class PhaseTree:
    """How far nested phases of a build have come.

    TensorRT tells each phase's number of steps, but not how many sub-phases a step will have: each is taken for half of
    what is left of the step.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    @property
    def fraction(self) -> float:
        """0 to 1, never falling."""
        return self._fraction

    def start(self, name: str, parent_name: str | None, steps: int) -> None:
        """A phase of `steps` steps begins within the current step of phase `parent_name`."""
        parent = self._phases.get(parent_name) if parent_name is not None else None
        self._phases[name] = _Phase(parent, max(steps, 1), share=(1 - parent.within) / 2 if parent else 1.0)

    def step(self, name: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""
        phase = self._phases[name]
        phase.done, phase.within = step + 1, 0.0
        self._advance(phase)

    def finish(self, name: str) -> None:
        """A phase is over."""
        phase = self._phases.pop(name)
        if phase.parent is not None:
            phase.parent.within += phase.share
            self._advance(phase.parent)

    def _advance(self, phase: _Phase) -> None:
        fraction = phase.fraction
        while phase.parent is not None:
            outer = phase.parent
            fraction = min((outer.done + outer.within + fraction * phase.share) / outer.steps, 1.0)
            phase = outer
        self._fraction = max(self._fraction, fraction)


if __name__ == "__main__":
    main()
