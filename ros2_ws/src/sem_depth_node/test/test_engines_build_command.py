"""`sem-depth build-engine` with the real TensorRT-RTX."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_bundle import write_open_tiny_bundle
from typer.testing import CliRunner

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.cli import app
from sem_depth_node.engines.cache import CACHE_VARIABLE

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX builds engines without a GPU: pip install tensorrt-rtx-cu12"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may touch the user's cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["build-engine", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


def test_every_input_is_built_reported_and_not_built_twice(
    tiny_bundle: ModelBundle, own_cache: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    code, output = run(tiny_bundle.folder, "--compute-capability", "8.9", "--report", report)
    assert code == 0
    engines = json.loads(report.read_text())
    assert [(engine["width"], engine["height"]) for engine in engines] == [(192, 64), (96, 64)]
    for engine in engines:
        assert Path(engine["path"]).parent == own_cache
        assert Path(engine["path"]).stat().st_size > engine["engine_bytes"]
        assert engine["compute_capability"] == "8.9"
        assert engine["layers"]["MATRIX_MULTIPLY"] == {"FLOAT": 2}
        assert engine["seconds"] > 0
        assert engine["peak_host_memory_bytes"] > 0
        assert engine["warnings"] == []
        assert f"built: {engine['path']}" in output
    assert run(tiny_bundle.folder, "--compute-capability", "8.9")[1].count("already built: ") == 2
    assert run(tiny_bundle.folder, "--compute-capability", "8.9", "--force")[1].count("already built: ") == 0


def test_one_engine_serves_every_size_of_a_profile(own_cache: Path, tmp_path: Path) -> None:
    bundle = write_open_tiny_bundle(tmp_path / "bundle")
    report = tmp_path / "report.json"
    options = ("--compute-capability", "8.9", "--size", "96x64", "--size", "384x128", "--report", report)
    code, output = run(bundle.folder, *options)
    assert code == 0
    assert {engine["profile"] for engine in json.loads(report.read_text())} == {"64x32 to 384x128 in steps of 32"}
    assert output.count("already built: ") == 1
    assert len(list(own_cache.glob("tiny-64x192-*.engine"))) == 1
    code, output = run(bundle.folder, "--compute-capability", "8.9", "--size", "416x128")
    assert code == 2
    assert "height 128 and width 416 are outside the profile" in output


def test_one_size_into_a_folder_of_choice(tiny_bundle: ModelBundle, own_cache: Path, tmp_path: Path) -> None:
    options = ("--compute-capability", "12.0", "--size", "96x64", "--cache-dir", tmp_path / "chosen")
    assert run(tiny_bundle.folder, *options)[0] == 0
    assert [path.name.startswith("tiny-64x96") for path in (tmp_path / "chosen").glob("*.engine")] == [True]
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--compute-capability", "8.7"), "not 8.7"),
        (("--compute-capability", "8.9", "--size", "640x480"), "no input of 640x480, it offers 192x64, 96x64"),
        (("--compute-capability", "8.9", "--size", "wide"), "size is 'wide'"),
        (("--compute-capability", "8.9", "--workspace", "0"), "workspace is 0 MiB"),
        (("--library", "openvino"), "'openvino', expected one of tensorrt, tensorrt_rtx"),
        (("--library", "tensorrt"), "tensorrt is not installed"),
    ],
)
def test_what_cannot_be_built_ends_with_code_2_and_the_reason(
    tiny_bundle: ModelBundle, options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    code, output = run(tiny_bundle.folder, *options)
    assert code == 2
    assert words in output
    assert not own_cache.exists()
