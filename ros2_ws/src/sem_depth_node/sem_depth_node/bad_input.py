"""Input that one frame cannot be made from, while the next one may well be."""


class BadInput(Exception):
    """A message that cannot be used.

    Attributes:
        fault: the kind in a few fixed words with underscores, for counting and for throttling what is said of it.
    """

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault
