"""Commands run as processes of their own, with their output in a log file: started, watched, ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

ENDS = 120.0  # seconds a process has after Ctrl-C
_ENDS_AT_LAST = 5.0
_LOOKS = 0.1
_TAIL = 15  # lines

Self = TypeVar("Self", bound="ChildProcess")


class ProcessError(Exception):
    """A process did not start, ended early or cannot do its work; the message has the end of its log."""


class ChildProcess:
    """A running command.

    Args:
        name: for messages.
        command: program and arguments.
        log: file that its output goes to.
        environment: all of its variables; None passes on this process's.
        fails_with: what a line of the log has when the process lives on but is of no use.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        fails_with: str | None = None,
    ) -> None:
        self.name = name
        self._log, self._fails_with = log, fails_with
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                list(command), env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """What it has said."""
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    @property
    def tail(self) -> str:
        """The end of its log, in words."""
        last_lines = "\n".join(self.lines[-_TAIL:]) or "(nothing)"
        return f"the end of {self._log}:\n{last_lines}"

    def check_alive(self) -> None:
        """Raise a ProcessError where the process has ended or cannot do its work."""
        if (code := self._process.poll()) is not None:
            raise ProcessError(f"the {self.name} process ended with code {code}; {self.tail}")
        if self._fails_with is not None:
            for line in self.lines:
                if self._fails_with in line:
                    raise ProcessError(f"the {self.name} process {line[line.index(self._fails_with) :]}")

    def wait_for_line(self, text: str, timeout: float, alive: Sequence[ChildProcess] = ()) -> None:
        """Wait until a line of the log begins with `text`, for so many seconds, while `alive` live too.

        Raises:
            ProcessError: it did not come.
        """
        give_up = time.monotonic() + timeout
        while not any(line.startswith(text) for line in self.lines):
            for process in (*alive, self):
                process.check_alive()
            if time.monotonic() > give_up:
                raise ProcessError(f"the {self.name} process did not get ready in {timeout:g} s; {self.tail}")
            time.sleep(_LOOKS)

    def wait(self, alive: Sequence[ChildProcess] = ()) -> None:
        """Wait for the end of the process while `alive` live.

        Raises:
            ProcessError: one of those ended, or this one not with code 0.
        """
        while (code := self._process.poll()) is None:
            for process in alive:
                process.check_alive()
            time.sleep(_LOOKS)
        if code != 0:
            raise ProcessError(f"the {self.name} process ended with code {code}; {self.tail}")

    def interrupt(self) -> None:
        """Ctrl-C, and wait for the process to have finished what it does then.

        Raises:
            ProcessError: it did not end, or not well.
        """
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(ENDS)
        except subprocess.TimeoutExpired:
            raise ProcessError(
                f"the {self.name} process did not end within {ENDS:g} s of Ctrl-C; {self.tail}"
            ) from None
        if code not in (0, -signal.SIGINT):
            raise ProcessError(f"the {self.name} process ended with code {code}; {self.tail}")

    def end(self) -> None:
        """Leave nothing running, however it takes."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_ENDS_AT_LAST)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
