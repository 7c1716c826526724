"""The bundle loader: what it accepts, and how it names what it does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sem_depth_node.bundle import BundleError, ModelBundle, write_bundle

FIELDS: dict[str, Any] = {
    "name": "two_sizes",
    "description": "",
    "inputs": [
        {"onnx": "wide.onnx", "height": 192, "width": 640},
        {"onnx": "tall.onnx", "height": 320, "width": 480},
    ],
    "canonical_focal_length": 500.0,
    "depth_range": [0.5, 80.0],
    "precision": "float32",
    "training_data": [{"name": "none", "licence": "CC0-1.0"}],
    "weights_licence": "CC0-1.0",
    "metrics": [],
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("wide.onnx", "tall.onnx", "weights.bin")]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.fixture
def folder(tmp_path: Path, files: list[Path]) -> Path:
    write_bundle(tmp_path / "bundle", files, FIELDS)
    return tmp_path / "bundle"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_written_bundle_loads_and_offers_its_sizes(folder: Path) -> None:
    bundle = ModelBundle.load(folder)
    assert [(size.height, size.width) for size in bundle.inputs] == [(192, 640), (320, 480)]
    assert all(size.path.is_file() for size in bundle.inputs)
    assert bundle.nearest_input(1242 / 375).width == 640
    assert bundle.nearest_input(1920 / 1280).width == 480


def test_writing_again_replaces_the_files_and_keeps_the_model_card(folder: Path, files: list[Path]) -> None:
    (folder / "README.md").write_text("card")
    before = ModelBundle.load(folder).digest
    files[0].write_bytes(b"other weights")
    assert write_bundle(folder, files, FIELDS).digest != before
    assert (folder / "README.md").read_text() == "card"
    assert not list(folder.parent.glob(".bundle-*"))


def test_a_failed_write_leaves_the_old_bundle(folder: Path, files: list[Path]) -> None:
    with pytest.raises(BundleError, match="precision"):
        write_bundle(folder, files, {**FIELDS, "precision": "bf3"})
    ModelBundle.load(folder)
    assert not list(folder.parent.glob(".bundle-*"))


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(tmp_path / "photos", files, FIELDS)
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_the_digest_ignores_words_and_follows_the_contract(folder: Path) -> None:
    before = ModelBundle.load(folder).digest
    edit(folder, lambda fields: fields.update(description="other words"))
    assert ModelBundle.load(folder).digest == before
    edit(folder, lambda fields: fields.update(canonical_focal_length=501.0))
    assert ModelBundle.load(folder).digest != before


PROFILE = {"min": [96, 320], "opt": [192, 640], "max": [384, 1280], "multiple": 32}


@pytest.fixture
def open_folder(folder: Path) -> Path:
    edit(folder, lambda fields: fields["inputs"][0].update(profile=PROFILE))
    return folder


def test_a_profile_offers_every_size_in_it_and_a_graph_made_for_a_size_comes_first(open_folder: Path) -> None:
    bundle = ModelBundle.load(open_folder)
    assert [(size.height, size.width) for size in bundle.inputs] == [(192, 640), (320, 480)]
    wide, tall = bundle.inputs
    for size in ((96, 320), (192, 640), (352, 1216), (384, 1280)):
        chosen = bundle.input_of_size(*size)
        assert (chosen.path, chosen.height, chosen.width) == (wide.path, *size)
    assert bundle.input_of_size(320, 480) == tall


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((192, 650), "no input of 650x192 .height 192 and width 650 are not both divisible by 32"),
        ((416, 640), "height 416 and width 640 are outside the profile, 320x96 to 1280x384 in steps of 32"),
        ((64, 640), r"height 64 .* outside .* offers 320x96 to 1280x384 in steps of 32, 480x320"),
    ],
)
def test_a_size_that_no_graph_takes_is_named_with_those_on_offer(
    open_folder: Path, size: tuple[int, int], words: str
) -> None:
    with pytest.raises(BundleError, match=words) as error:
        ModelBundle.load(open_folder).input_of_size(*size)
    assert str(open_folder) in str(error.value)


def test_a_profile_is_part_of_the_contract_and_without_one_nothing_is_written_of_it(
    folder: Path, tmp_path: Path, files: list[Path]
) -> None:
    assert "profile" not in (folder / "manifest.json").read_text()
    before = ModelBundle.load(folder).digest
    inputs = [{**FIELDS["inputs"][0], "profile": PROFILE}, FIELDS["inputs"][1]]
    opened = write_bundle(tmp_path / "open", files, {**FIELDS, "inputs": inputs})
    assert opened.digest != before
    assert opened.manifest.inputs[0].profile is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min": [96, 310]}, "height 96 and width 310 are not both divisible by 32"),
        ({"max": [96, 1280]}, "expected both sides to grow"),
        ({"max": [160, 1280]}, "height 192 and width 640 are outside the profile"),
        ({"opt": [160, 640]}, "expected profile.opt"),
        ({"multiple": 0}, "multiple"),
    ],
)
def test_a_wrong_profile_is_named(open_folder: Path, change: dict[str, object], words: str) -> None:
    edit(open_folder, lambda fields: fields["inputs"][0]["profile"].update(change))
    with pytest.raises(BundleError, match=rf"field 'inputs\.0.*{words}"):
        ModelBundle.load(open_folder)


def _delete(field: str) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.pop(field)


def _set(field: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.__setitem__(field, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_delete("canonical_focal_length"), "canonical_focal_length.*required"),
        (_delete("schema_version"), "schema_version.*None"),
        (_set("schema_version", 7), "schema_version.*7.*reads 1"),
        (_set("canonical_focal_length", "long"), "canonical_focal_length"),
        (_set("canonical_focal_length", 0), "canonical_focal_length"),
        (_set("depth_range", [80.0, 0.5]), "depth_range"),
        (_set("inputs", []), "inputs"),
        (_set("inputs", [{"onnx": "none.onnx", "height": 1, "width": 1}]), "none.onnx"),
        (_set("files", {"../../etc/passwd": "0" * 64}), "inputs name|plain file name"),
        (_set("colour", "blue"), "colour"),
        (_set("precision", "int3"), "precision"),
    ],
)
def test_a_wrong_manifest_names_the_file_and_the_field(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=words) as error:
        ModelBundle.load(folder)
    assert str(folder / "manifest.json") in str(error.value)


def test_a_changed_file_is_found_by_its_hash(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"tampered")
    with pytest.raises(BundleError, match=r"weights\.bin: sha256 is [0-9a-f]{64}, but field 'files'"):
        ModelBundle.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        ModelBundle.load(folder)


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "expected a JSON object")])
def test_an_unreadable_manifest_is_named(folder: Path, text: str, words: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=words):
        ModelBundle.load(folder)


def test_a_missing_folder_and_a_missing_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        ModelBundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        ModelBundle.load(tmp_path)
