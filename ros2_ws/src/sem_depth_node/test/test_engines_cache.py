"""The engine cache, with real files, real processes and real kills."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sem_depth_node.engines.cache import EngineCache, EngineKey, cache_folder, kernel_cache_path
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.watch import BuildCancelled, BuildWatch

KEY = EngineKey(
    bundle_name="road model",
    bundle_digest="ab" * 32,
    onnx="model.onnx",
    height=192,
    width=640,
    precision="float16",
    library="tensorrt",
    library_version="10.3.0",
    compute_capability="8.7",
    gpu_name="Orin",
    options={"workspace_mib": 2048, "optimization_level": 3},
)

# A process that builds slowly into the cache argv[1] and appends a line to argv[2] for each build it begins.
SLOW_BUILDER = """
import sys, time
from pathlib import Path
from sem_depth_node.engines.cache import EngineCache
from sem_depth_node.engines.watch import BuildWatch
sys.path.insert(0, sys.argv[3])
from test_engines_cache import KEY

def build(plan):
    plan.write_bytes(b"half a plan")
    with open(sys.argv[2], "a") as log:
        log.write("begun\\n")
    time.sleep(float(sys.argv[4]))
    plan.write_bytes(b"the plan")
    return {}

engine = EngineCache(Path(sys.argv[1])).get(KEY, build, BuildWatch())
print(bytes(engine.plan).decode())
"""


def writes(content: bytes, **report: object) -> Callable[[Path], dict[str, object]]:
    """A build that makes this plan."""

    def build(plan: Path) -> dict[str, object]:
        plan.write_bytes(content)
        return report

    return build


def must_not_build(plan: Path) -> dict[str, object]:
    raise AssertionError("built although the engine is in the cache")


def slow_builder(cache: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_BUILDER, cache, log, Path(__file__).parent, str(seconds)]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.02)


def test_an_engine_is_built_once_and_found_again_with_its_report(tmp_path: Path) -> None:
    built = EngineCache(tmp_path / "new" / "cache").get(KEY, writes(b"the plan", seconds=3.5), BuildWatch())
    found = EngineCache(tmp_path / "new" / "cache").get(KEY, must_not_build, BuildWatch())
    assert bytes(found.plan) == bytes(built.plan) == b"the plan"
    assert found.report == {"seconds": 3.5}
    assert sorted(p.name for p in found.path.parent.iterdir()) == ["build.lock", KEY.file_name]


@pytest.mark.parametrize(
    "change",
    [
        {"bundle_digest": "cd" * 32},
        {"onnx": "other.onnx"},
        {"height": 352},
        {"width": 1216},
        {"precision": "float32"},
        {"library": "tensorrt_rtx"},
        {"library_version": "10.3.1"},
        {"compute_capability": "8.9"},
        {"gpu_name": "Orin Nano"},
        {"options": {"workspace_mib": 1024, "optimization_level": 3}},
        {"profile": "320x96 to 1280x384 in steps of 32"},
        {"platform": "Linux-riscv64"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_key_is_another_engine(
    tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)
    other = replace(KEY, **change)  # type: ignore[arg-type]
    mine = cache.get(KEY, writes(b"mine"), BuildWatch())
    assert cache.find(other, BuildWatch()) is None
    # Not even under the other key's name.
    (tmp_path / other.file_name).write_bytes(mine.path.read_bytes())
    assert cache.find(other, BuildWatch()) is None
    assert f"other {next(iter(change))}" in caplog.text
    assert bytes(cache.get(other, writes(b"theirs"), BuildWatch()).plan) == b"theirs"
    assert bytes(cache.get(KEY, must_not_build, BuildWatch()).plan) == b"mine"


def _truncate(content: bytes) -> bytes:
    return content[:-100]


def _flip_plan(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def _flip_trailer(content: bytes) -> bytes:
    at = content.index(b'"report"')
    return content[:at] + b"#" + content[at + 1 :]


def _flip_hash(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


def _empty(content: bytes) -> bytes:
    return b""


def _other_file(content: bytes) -> bytes:
    return b"ftrt" + bytes(1000)


@pytest.mark.parametrize("damage", [_truncate, _flip_plan, _flip_trailer, _flip_hash, _empty, _other_file])
def test_a_damaged_file_is_built_again_with_one_warning(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)
    path = cache.get(KEY, writes(b"the plan" * 100), BuildWatch()).path
    path.write_bytes(damage(path.read_bytes()))
    assert bytes(cache.get(KEY, writes(b"a new plan"), BuildWatch()).plan) == b"a new plan"
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "built again" in warnings[0]
    assert bytes(cache.get(KEY, must_not_build, BuildWatch()).plan) == b"a new plan"


def test_two_processes_starting_together_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    builders = [slow_builder(tmp_path / "cache", log, 1.0) for _ in range(2)]
    assert [builder.communicate(timeout=60)[0].strip() for builder in builders] == ["the plan", "the plan"]
    assert log.read_text() == "begun\n"


def test_a_killed_builder_leaves_the_lock_and_the_next_cleans_up(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    builder = slow_builder(cache, log, 600)
    wait_for(log.exists)
    assert list(cache.glob("*.tmp"))
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert not list(cache.glob("*.engine"))
    EngineCache(cache).get(KEY, writes(b"the plan"), BuildWatch())
    assert sorted(p.name for p in cache.iterdir()) == ["build.lock", KEY.file_name]


def test_kernels_that_a_running_engine_is_writing_are_left_alone(tmp_path: Path) -> None:
    fresh, old = tmp_path / "a.kernels.12-34.tmp", tmp_path / "b.kernels.12-34.tmp"
    for path in (fresh, old):
        path.write_bytes(b"kernels")
    os.utime(old, (time.time() - 3600,) * 2)
    EngineCache(tmp_path).get(KEY, writes(b"the plan"), BuildWatch())
    assert fresh.exists()
    assert not old.exists()


def test_an_interrupted_builder_leaves_nothing_behind(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    builder = slow_builder(cache, log, 600)
    wait_for(log.exists)
    builder.send_signal(signal.SIGINT)
    builder.communicate()
    assert [p.name for p in cache.iterdir()] == ["build.lock"]


def test_waiting_for_another_process_is_told_and_can_be_cancelled(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    builder = slow_builder(cache, log, 600)
    try:
        wait_for(log.exists)
        cancelled = threading.Event()
        phases: list[str] = []

        def on_progress(phase: str, fraction: float) -> None:
            phases.append(phase)
            cancelled.set()

        with pytest.raises(BuildCancelled):
            EngineCache(cache).get(KEY, must_not_build, BuildWatch(on_progress, cancelled=cancelled))
        assert "another process" in phases[0]
    finally:
        builder.kill()
        builder.communicate()


def test_a_failed_build_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    def fail(plan: Path) -> dict[str, object]:
        plan.write_bytes(b"half a plan")
        raise EngineError("no kernels")

    with pytest.raises(EngineError, match="no kernels"):
        EngineCache(tmp_path).get(KEY, fail, BuildWatch())
    assert [p.name for p in tmp_path.iterdir()] == ["build.lock"]


def test_the_folder_stays_within_its_limit_by_dropping_what_was_not_used_longest(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit=25_000)
    keys = [replace(KEY, height=height) for height in (1, 2, 3)]
    for age, key in zip((300, 200), keys[:2], strict=True):
        path = cache.get(key, writes(bytes(10_000)), BuildWatch()).path
        kernel_cache_path(path).write_bytes(b"kernels")
        os.utime(path, (time.time() - age,) * 2)
    assert cache.find(keys[0], BuildWatch())  # the older one has been used since
    in_use = cache.find(keys[1], BuildWatch())
    os.utime(tmp_path / keys[1].file_name, (time.time() - 200,) * 2)
    cache.get(keys[2], writes(bytes(10_000)), BuildWatch())
    assert {p.name for p in tmp_path.glob("*.engine")} == {keys[0].file_name, keys[2].file_name}
    assert not kernel_cache_path(tmp_path / keys[1].file_name).exists()
    assert in_use is not None
    assert bytes(in_use.plan) == bytes(10_000)  # whoever runs it keeps it


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("detector.engine", "upload.tmp", "net-640x192.engine", "a.engine.tmp")]
    for path in others:
        path.write_bytes(bytes(10_000))
        os.utime(path, (0, 0))
    cache = EngineCache(tmp_path, limit=10)
    cache.get(KEY, writes(bytes(10_000)), BuildWatch())
    assert all(path.exists() for path in others)
    assert cache.find(KEY, BuildWatch())


def test_an_engine_larger_than_the_limit_is_kept(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit=10)
    cache.get(KEY, writes(bytes(10_000)), BuildWatch())
    assert cache.find(KEY, BuildWatch())


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError, match="SEM_DEPTH_CACHE_DIR") as caught:
        EngineCache(tmp_path / "file" / "cache").get(KEY, writes(b"the plan"), BuildWatch())
    assert str(tmp_path / "file" / "cache") in str(caught.value)


def test_where_engines_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEM_DEPTH_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sem_depth"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / ".cache" / "sem_depth"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/sem_depth")
    monkeypatch.setenv("SEM_DEPTH_CACHE_DIR", "~/engines")
    assert cache_folder() == tmp_path / "engines"
    assert cache_folder("/data/engines") == Path("/data/engines")
