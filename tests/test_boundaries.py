"""Who may import whom: no torch on the robot, ROS only in `ros/`, training on top of the node and never under it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NODE = Path(__file__).parents[1] / "ros2_ws" / "src" / "sem_depth_node" / "sem_depth_node"
TRAINING_ONLY = {"torch", "diffusers", "transformers", "accelerate", "sem_depth_training"}


def imports_of(file: Path) -> Iterator[str]:
    """Top-level names of every module that `file` imports, at its top or inside a function."""
    for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (name.name.split(".")[0] for name in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module.split(".")[0]


def test_nothing_on_the_robot_imports_the_training_stack() -> None:
    guilty = {str(file): found for file in NODE.rglob("*.py") if (found := TRAINING_ONLY & set(imports_of(file)))}
    assert not guilty


def test_only_the_ros_folder_imports_rclpy() -> None:
    # Commands of the command line start ROS inside the function that needs it.
    allowed = [NODE / "ros", NODE / "cli.py"]
    files = [file for file in NODE.rglob("*.py") if not any(file.is_relative_to(place) for place in allowed)]
    assert len(files) > 10
    assert not [str(file) for file in files if "rclpy" in imports_of(file)]


@pytest.mark.parametrize("module", ["sem_depth_node.ros.node", "sem_depth_node.cli", "sem_depth_node.estimator"])
def test_what_runs_on_the_robot_loads_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(sorted({TRAINING_ONLY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_without_ros_the_command_line_and_the_estimator_still_load() -> None:
    program = (
        "import sys; sys.modules['rclpy'] = None\n"
        "import sem_depth_node.cli, sem_depth_node.estimator, sem_depth_node.pointcloud, sem_depth_node.bags.reader"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
