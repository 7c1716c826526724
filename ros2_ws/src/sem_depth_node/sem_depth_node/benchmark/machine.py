"""What machine it was measured on, and whether it was left alone meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Of everything that the time of a frame is spent in.
_LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "rclpy",
)


@dataclass(frozen=True)
class Machine:
    """Where it was measured, as far as the system tells.

    Attributes:
        governor: of the processor's frequency, where it is readable.
        load_before: load average (1 min).
        libraries: versions by name.
    """

    processor: str
    cores: int
    memory_gib: float
    governor: str
    load_before: float
    python: str
    system: str
    libraries: Mapping[str, str]

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        return (
            f"{self.processor}, {self.cores} cores ({self.governor}), {self.memory_gib} GiB, load {self.load_before} "
            f"before; Python {self.python}, {libraries}; {self.system}"
        )


@dataclass
class Company:
    """What others did on the machine meanwhile.

    Attributes:
        processors: used by processes other than this one and those it started and waited for; 0 until it is over.
    """

    processors: float = 0.0


def this_machine() -> Machine:
    """The machine this process runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        _processor(),
        len(os.sched_getaffinity(0)),
        round(memory, 1),
        _governor(),
        round(os.getloadavg()[0], 2),
        platform.python_version(),
        platform.platform(),
        dict(_versions()),
    )


def peak_memory_mib() -> float:
    """The largest resident size this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def company() -> Iterator[Company]:
    """Find out how much of the processors others use during the `with`."""
    found = Company()
    busy, own, begin = _busy_seconds(), _own_seconds(), time.monotonic()
    yield found
    others = (_busy_seconds() - busy) - (_own_seconds() - own)
    found.processors = round(max(0.0, others / (time.monotonic() - begin)), 2)


def _busy_seconds() -> float:
    """Of all processors since the start of the machine; steal counts, because it was somebody else's."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "governor unknown"


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
