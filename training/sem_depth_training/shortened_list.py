"""Names in an error, the first of many."""

from collections.abc import Iterable


def shortened_list(names: Iterable[str], limit: int = 8) -> str:
    """The first `limit` names and how many there are more; "none" where there is none."""
    names = list(names)
    listed = ", ".join(names[:limit]) or "none"
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
