"""Input that one frame cannot be made from, while the next one may well be."""

from __future__ import annotations

from dataclasses import dataclass, field


class BadInput(Exception):
    """A message that cannot be used.

    Attributes:
        fault: the kind in a few fixed words with underscores, for counting and for throttling what is said of it.
    """

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass
class BadInputs:
    """Messages that could not be used: how many of each fault, with the first one's reason."""

    by_fault: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, problem: BadInput) -> None:
        """Count one."""
        count, reason = self.by_fault.get(problem.fault, (0, str(problem)))
        self.by_fault[problem.fault] = count + 1, reason

    def in_words(self) -> list[str]:
        """A line for each fault."""
        return [f"{count} messages: {reason}" for count, reason in self.by_fault.values()]
