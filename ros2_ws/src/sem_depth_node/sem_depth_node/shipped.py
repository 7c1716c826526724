"""Where the files are that ship beside the code: models, configuration, the demo bag."""

from pathlib import Path

PACKAGE = "sem_depth_node"


def shipped_folder(name: str, start: Path = Path(__file__)) -> Path:
    """The shipped folder `name` ("models", "config", "demo", ...).

    Found by walking up from the code: in a source checkout it lies beside package.xml, in what colcon or pip installed
    under share/sem_depth_node of the prefix that the code is in.

    Args:
        name: of the folder.
        start: where the walk begins.

    Raises:
        FileNotFoundError: it was not installed.
    """
    for parent in start.resolve().parents:
        for root in (parent, parent / "share" / PACKAGE):
            if (root / "package.xml").is_file() and (root / name).is_dir():
                return root / name
    raise FileNotFoundError(f"folder {name!r} of {PACKAGE} is nowhere above {start}; install the package again")


def default_bundle() -> Path:
    """The model bundle that ships with the package.

    Raises:
        FileNotFoundError: it was not installed.
    """
    return shipped_folder("models") / "compact"
