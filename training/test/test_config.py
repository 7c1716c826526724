"""A wrong configuration names its file and its keys."""

from pathlib import Path

import pytest
import yaml

from sem_depth_training.config import ConfigError, read_config

VALID = {
    "steps": 4,
    "data": [{"name": "streets", "index": "index.csv"}],
    "bundle": {"name": "tiny", "description": "A test.", "weights_licence": "CC0"},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump({**VALID, **changes}), encoding="utf-8")
    return path


def test_the_shipped_configuration_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEM_DEPTH_DATA", "/data")
    monkeypatch.setenv("SEM_DEPTH_STEREO", "/stereo")
    monkeypatch.setenv("SEM_DEPTH_STREETS", "/streets")
    monkeypatch.setenv("SEM_DEPTH_WOODED", "/wooded")
    monkeypatch.setenv("SEM_DEPTH_JUNCTIONS", "/junctions")
    config = read_config(Path(__file__).parents[1] / "configs" / "compact.yaml")
    assert config.data[0].index == Path("/data/driving/index.csv")


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, learning_rat=1e-3, batch_size="many", losses={"silogg": 1})
    with pytest.raises(ConfigError, match=r"fit\.yaml") as caught:
        read_config(path)
    for key in ("learning_rat", "batch_size", "losses.silogg"):
        assert key in str(caught.value)


def test_a_run_may_start_from_one_run_or_several(tmp_path: Path) -> None:
    for given, expected in (("a.pt", ["a.pt"]), (["a.pt", "b.pt"], ["a.pt", "b.pt"]), (None, [])):
        assert read_config(write(tmp_path, initial=given)).initial == [Path(name) for name in expected]


def test_sizes_must_fit_the_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size 100x200 is not divisible by 32"):
        read_config(write(tmp_path, sizes=[[100, 200]]))


def test_names_seeds_and_ranges_that_would_fail_later_are_refused(tmp_path: Path) -> None:
    source = {"name": "streets", "index": "index.csv"}
    with pytest.raises(ConfigError, match=r"data: .*two sources are named streets"):
        read_config(write(tmp_path, data=[source, source]))
    with pytest.raises(ConfigError, match=r"seed: .*greater than or equal to 0"):
        read_config(write(tmp_path, seed=-1))
    with pytest.raises(ConfigError, match=r"frozen_backbone_blocks: .*greater than or equal to 0"):
        read_config(write(tmp_path, frozen_backbone_blocks=-1))
    bundle = {"name": "b", "description": "", "weights_licence": "", "depth_range": [80, 0.5]}
    with pytest.raises(ConfigError, match=r"bundle\.depth_range: .*nearer first"):
        read_config(write(tmp_path, bundle=bundle))


def test_an_unquoted_no_is_the_precision_no(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, precision=False)).precision == "no"


def test_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEM_DEPTH_NOWHERE", raising=False)
    path = write(tmp_path, data=[{"name": "streets", "index": "${SEM_DEPTH_NOWHERE}/index.csv"}])
    with pytest.raises(ConfigError, match="SEM_DEPTH_NOWHERE, which is not set"):
        read_config(path)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        read_config(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("steps: [1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML"):
        read_config(broken)
    broken.write_bytes("steps: 1".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"broken\.yaml: is not UTF-8 text"):
        read_config(broken)


def test_keys_of_the_compact_preset_are_refused_at_paper_size(tmp_path: Path) -> None:
    paper = {"preset": "paper", "paper": {"stable_diffusion": "sd", "seecoder": "seecoder.safetensors"}}
    for key, value in (
        ("frozen_backbone_blocks", 5),
        ("stochastic_depth", 0.1),
        ("frozen_statistics", True),
        ("gradient_checkpointing", True),
    ):
        with pytest.raises(ConfigError, match=rf"{key} is of preset compact alone"):
            read_config(write(tmp_path, **paper, **{key: value}))
    assert read_config(write(tmp_path, **paper)).paper is not None
