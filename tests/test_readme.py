"""What the README tells a user to type exists."""

import re
from pathlib import Path

import pytest
import typer

from sem_depth_node.cli import app as node_app
from sem_depth_node.ros.outputs import TOPICS
from sem_depth_node.ros.parameters import Parameters
from sem_depth_training.cli import app as training_app


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("program", "app"), [("sem-depth", node_app), ("sem-depth-train", training_app)])
def test_every_command_named_is_one(readme: str, program: str, app: typer.Typer) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(rf"(?:^|`){program} ([a-z-]+)", readme, re.MULTILINE))
    assert named
    assert named <= known


def test_every_link_leads_to_a_file(readme: str, repository: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (repository / link).exists()] == []


def test_every_make_target_named_is_one(readme: str, repository: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=[^a-z]*#|`| BAG)", readme)) <= targets
    assert {"demo", "test"} <= targets


def test_every_output_and_parameter_named_is_one(readme: str) -> None:
    rows = re.findall(r"^\| ((?:`[a-z_/]+`(?:, )?)+) \|", readme, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([a-z_/]+)`", row)}
    known = {*TOPICS, "image", "camera_info", "/diagnostics", "depth/scale_check", *Parameters.__dataclass_fields__}
    assert set(TOPICS) <= names
    assert names <= known
