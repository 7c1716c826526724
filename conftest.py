"""Fixtures that every test folder of the repository shares."""

import signal
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

from sem_depth_node.bundle import ModelBundle


def pytest_configure() -> None:
    """Let interrupts reach the processes that tests start: a script's background job inherits an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A bundle whose network answers in closed form; see tiny_bundle.py."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
