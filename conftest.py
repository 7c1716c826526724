"""Fixtures that every test folder of the repository shares."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def shared_dir(repository: Path) -> Path:
    """The folder of driving data and reference vectors beside the checkout; tests skip where it is absent."""
    shared = repository.parent / "shared"
    if not (shared / "data" / "driving" / "index.csv").is_file():
        pytest.skip(f"needs the driving data and reference vectors in {shared}, which is not there")
    return shared
