"""Shipped files are found from a checkout and from what was installed."""

from pathlib import Path

import pytest

from sem_depth_node.shipped import shipped_folder


def test_in_a_checkout_they_lie_beside_the_manifest() -> None:
    assert (shipped_folder("config") / "sem_depth.yaml").is_file()


@pytest.mark.parametrize("code", ["lib/python3.11/site-packages", "local/lib/python3.10/dist-packages"])
def test_installed_they_lie_under_share(tmp_path: Path, code: str) -> None:
    module = tmp_path / code / "sem_depth_node" / "shipped.py"
    module.parent.mkdir(parents=True)
    module.touch()
    share = tmp_path / "share" / "sem_depth_node"
    (share / "models").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        shipped_folder("models", module)  # another package's folder, perhaps
    (share / "package.xml").touch()
    assert shipped_folder("models", module) == share / "models"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'models'.*install the package again"):
        shipped_folder("models", tmp_path / "module.py")
