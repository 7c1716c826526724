"""What the process does with memory that was freed: kept for the next message, given back once after loading."""

import subprocess
import sys

import pytest

# In a process of its own, because the settings are of the whole process and stay.
_MEASURE = """
import os
import resource

import numpy as np

from sem_depth_node.ros.process_tuning import give_back_freed_memory, keep_freed_memory


def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


keep_freed_memory()
before = resident()
blocks = [np.ones(2**20, np.uint8) for _ in range(200)]
del blocks
kept = resident() - before
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
again = [np.ones(2**20, np.uint8) for _ in range(200)]
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
del again
give_back_freed_memory()
print(kept, resident() - before, faults)
"""


@pytest.fixture(scope="module")
def measured() -> list[float]:
    """MiB that stay resident of 200 freed, then after giving back; page faults of taking as much again."""
    shown = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True).stdout
    return [float(value) for value in shown.split()]


def test_freed_memory_stays_for_the_next_message(measured: list[float]) -> None:
    kept, _, faults = measured
    assert kept > 190
    assert faults < 1000  # 51 200 pages, had the system to give them anew


def test_freed_memory_is_given_back_when_asked(measured: list[float]) -> None:
    _, left, _ = measured
    assert left < 20
