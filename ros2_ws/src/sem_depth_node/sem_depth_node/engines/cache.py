"""Compiled engines on disk: built once, never used for anything they were not built for.

An engine file is the library's plan, followed by a JSON trailer (the key it was built under and the build report), the
trailer's length, the sha256 of everything before, and a magic number. Files appear whole or not at all: they are
written under a temporary name, synced and renamed. One process at a time builds (`build.lock`, an flock, which the
kernel lets go when its holder dies); the others wait and find the engine made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import platform
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.watch import BuildWatch

CACHE_VARIABLE = "SEM_DEPTH_CACHE_DIR"
DEFAULT_LIMIT = 8 << 30  # bytes: a handful of full-size float16 engines

_MAGIC = b"SEMDEPTHENGINE01"
_FOOTER = struct.Struct(f"<Q32s{len(_MAGIC)}s")
_LOCK_POLL_SECONDS = 0.1
# Names of `EngineKey.file_name`, and of `_temporary` for files of the cache.
_ENGINE = re.compile(r".+-\d+x\d+-\w+-sm[\d.]+-[0-9a-f]{20}\.engine")
_TEMPORARY = re.compile(r".+\.(engine|kernels|timings)\.\d+-\d+\.tmp")


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether a compiled engine may be used.

    Attributes:
        bundle_name: for the file name only; the digest decides.
        bundle_digest: `ModelBundle.digest`.
        onnx: file name of the graph inside the bundle.
        height, width: the engine's input in pixels; with a profile, the size it is tuned for.
        precision: the bundle's precision.
        library, library_version: which TensorRT built it.
        compute_capability: of the GPU, such as "8.7".
        gpu_name: the GPU it is tuned to; empty where any GPU of that capability will do (TensorRT-RTX).
        platform: operating system and processor, such as "Linux-aarch64".
        options: the builder options.
        profile: the sizes that the engine takes, in words; empty where it takes one.
        recipe: number of how this package configures the builder, beside the options.
    """

    bundle_name: str
    bundle_digest: str
    onnx: str
    height: int
    width: int
    precision: str
    library: str
    library_version: str
    compute_capability: str
    gpu_name: str
    options: Mapping[str, object]
    profile: str = ""
    recipe: int = 0
    platform: str = f"{platform.system()}-{platform.machine()}"

    @property
    def file_name(self) -> str:
        """Readable, and unique to the key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.bundle_name)
        return f"{name}-{self.height}x{self.width}-{self.library}-sm{self.compute_capability}-{digest[:20]}.engine"


@dataclass(frozen=True)
class CachedEngine:
    """A checked engine file: `plan` is what the library loads, a view of the mapped file; `report` is its build's."""

    path: Path
    plan: memoryview
    report: dict[str, Any]


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where engines are kept: `chosen`, $SEM_DEPTH_CACHE_DIR, $XDG_CACHE_HOME/sem_depth, or ~/.cache/sem_depth.

    Raises:
        EngineError: none is set and there is no home folder.
    """
    if named := chosen or os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    # The XDG specification says to ignore a relative XDG_CACHE_HOME.
    if (xdg := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        return Path(xdg) / "sem_depth"
    try:
        return Path.home() / ".cache" / "sem_depth"
    except RuntimeError as error:
        raise EngineError(f"no folder for compiled engines: no home folder; set {CACHE_VARIABLE}") from error


class EngineCache:
    """Compiled engines in one folder.

    Args:
        folder: made when the first engine is built.
        limit: bytes the folder may hold; after a build the engines not used for longest are removed until it fits,
            the new one excepted.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def find(self, key: EngineKey, watch: BuildWatch | None = None) -> CachedEngine | None:
        """The engine built under exactly `key`, or None. A damaged or foreign file is not used, and `watch` is warned.

        Raises:
            EngineError: the file is there but cannot be read.
        """
        try:
            return self._open(key)
        except _Unusable as error:
            if watch is not None:
                watch.log.warning(f"{self.folder / key.file_name}: {error}; the engine is built again")
            return None

    def get(self, key: EngineKey, build: Callable[[Path], Mapping[str, object]], watch: BuildWatch) -> CachedEngine:
        """The engine for `key`, built if need be.

        Args:
            key: what the engine must have been built under.
            build: writes the plan to the path given and returns the build report. Whatever it leaves there when it
                raises is removed.
            watch: told while another process is building.

        Raises:
            BuildCancelled: `watch` was cancelled while waiting or building.
            EngineError: the folder cannot be written; or what `build` raised.
        """
        with contextlib.suppress(_Unusable):  # said below, by whoever holds the lock
            if engine := self._open(key):
                return engine
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(watch):
                if engine := self.find(key, watch):
                    return engine  # another process has built it since
                self._remove_leftovers()
                path = self._build(key, build)
                self._keep_within_limit(path)
        except OSError as error:
            raise EngineError(
                f"cannot write engine cache {self.folder}: {error}; free space, or choose a writable folder with "
                f"{CACHE_VARIABLE} or the cache directory parameter"
            ) from error
        engine = self.find(key, watch)
        if engine is None:
            raise EngineError(f"{path}: the engine just written does not read back; check the disk of {self.folder}")
        return engine

    def discard(self, key: EngineKey) -> None:
        """Remove the engine for `key`, if there is one.

        Raises:
            EngineError: the folder cannot be written.
        """
        path = self.folder / key.file_name
        try:
            path.unlink(missing_ok=True)
            kernel_cache_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise EngineError(f"cannot remove cached engine {path}: {error}") from error

    def _open(self, key: EngineKey) -> CachedEngine | None:
        path = self.folder / key.file_name
        try:
            engine = _read(path, key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise EngineError(f"cannot read cached engine {path}: {error}") from error
        # Marks the engine as used, for `limit`. A cache installed read-only cannot be marked, nor does it grow.
        with contextlib.suppress(OSError):
            os.utime(path)
        return engine

    def _build(self, key: EngineKey, build: Callable[[Path], Mapping[str, object]]) -> Path:
        path = self.folder / key.file_name
        temporary = _temporary(path)
        try:
            report = dict(build(temporary))
            _append_trailer(temporary, key, report)
            _sync_and_rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @contextlib.contextmanager
    def _locked(self, watch: BuildWatch) -> Iterator[None]:
        waiting = False
        descriptor = os.open(self.folder / "build.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while True:
                watch.raise_if_cancelled()
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        watch.log.info(f"another process is building an engine in {self.folder}; waiting for it")
                    waiting = True
                    watch.progress("waiting for another process to build", 0.0)
                    time.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)  # lets go of the lock

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left. Whoever holds the lock is the only builder."""
        for leftover in filter(_own(_TEMPORARY), self.folder.glob("*.tmp")):
            # Kernels are written without the lock, in an instant.
            if ".kernels." not in leftover.name or time.time() - leftover.stat().st_mtime > 60:
                leftover.unlink(missing_ok=True)

    def _keep_within_limit(self, newest: Path) -> None:
        engines = {path: path.stat() for path in filter(_own(_ENGINE), self.folder.glob("*.engine"))}
        excess = sum(stat.st_size for stat in engines.values()) - self.limit
        for path in sorted(engines, key=lambda path: engines[path].st_mtime):
            if excess <= 0:
                break
            if path != newest:
                # A process that has the file mapped keeps its pages.
                path.unlink(missing_ok=True)
                kernel_cache_path(path).unlink(missing_ok=True)
                excess -= engines[path].st_size


def _own(pattern: re.Pattern[str]) -> Callable[[Path], bool]:
    """Whether a file has a name that this module gives: nothing else in the folder is touched."""
    return lambda path: pattern.fullmatch(path.name) is not None


def kernel_cache_path(engine: Path) -> Path:
    """Where the kernels that TensorRT-RTX compiled for `engine` on this GPU are kept."""
    return engine.with_suffix(".kernels")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file of the cache whole or not at all. Raises OSError."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        _sync_and_rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


class _Unusable(Exception):
    """Why an engine file must not be loaded."""


def _append_trailer(path: Path, key: EngineKey, report: Mapping[str, object]) -> None:
    trailer = json.dumps({"key": asdict(key), "report": report}, sort_keys=True).encode()
    length = struct.pack("<Q", len(trailer))
    digest = hashlib.sha256()
    with path.open("r+b") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
        digest.update(trailer + length)
        file.write(trailer + length + digest.digest() + _MAGIC)


def _read(path: Path, key: EngineKey) -> CachedEngine:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _FOOTER.size:
            raise _Unusable("the file is cut short")
        # Mapped, not read: a plan can be gigabytes, and on a Jetson the GPU shares the memory.
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    length, digest, magic = _FOOTER.unpack(content[-_FOOTER.size :])
    end = len(content) - _FOOTER.size
    if magic != _MAGIC or length > end:
        raise _Unusable("the file is cut short or not an engine file")
    if hashlib.sha256(content[: end + 8]).digest() != digest:
        raise _Unusable("the file is corrupt (its sha256 is not the one it was written with)")
    trailer = json.loads(bytes(content[end - length : end]))
    if trailer["key"] != asdict(key):
        different = sorted(name for name, value in asdict(key).items() if trailer["key"].get(name) != value)
        raise _Unusable(f"the file was built under another key (other {', '.join(different) or 'fields'})")
    return CachedEngine(path, content[: end - length], trailer["report"])


def _sync_and_rename(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    # The new name itself must survive a power cut, too.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
