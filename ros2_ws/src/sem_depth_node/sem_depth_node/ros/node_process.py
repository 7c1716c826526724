"""The node as a process of its own, for those who measure it from outside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sem_depth_node.child_process import ChildProcess


class NodeProcess(ChildProcess):
    """A running `sem_depth_node`. Leaving the `with` ends it.

    Args:
        arguments: after --ros-args.
        log: file that its output goes to.

    Attributes:
        started: when, by `time.time_ns`.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.started = time.time_ns()
        command = [sys.executable, "-m", "sem_depth_node.ros.node", "--ros-args", *arguments]
        super().__init__("node", command, log, fails_with="cannot configure: ")

    @property
    def processor_seconds(self) -> float:
        """Processor time used so far."""
        values = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)

    @property
    def memory_mib(self) -> float:
        """Memory in use, pages shared with other processes divided among them (PSS)."""
        return self._kib("smaps_rollup", "Pss:") / 1024

    @property
    def peak_memory_mib(self) -> float:
        """The largest resident size so far, shared pages counted whole."""
        return self._kib("status", "VmHWM:") / 1024

    def _kib(self, file: str, label: str) -> int:
        lines = Path(f"/proc/{self.pid}/{file}").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(label))
