"""The model bundle: a folder with ONNX graphs and a manifest, the one contract between training and robot.

Each graph takes `image`, uint8 [1, H, W, 3] RGB, and returns `depth`, float32 [1, H, W] canonical metres along Z, and
`log_scale`, float32 [1, H, W], the logarithm of the Laplacian scale of the log-depth residual. Normalisation is inside
the graph. Metric depth = depth * f / canonical_focal_length, f being the camera's focal length in pixels after
resizing to the graph's input (the canonical camera of Metric3D, arXiv 2307.10984).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


class BundleError(Exception):
    """A bundle that cannot be used; the message names the file, the field and what was expected."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GraphInput(_Strict):
    """One input size and the ONNX file that takes it."""

    onnx: str
    height: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]


class TrainingData(_Strict):
    """A data set the weights come from, and its licence."""

    name: str
    licence: str


class ReportedMetrics(_Strict):
    """Measured accuracy, with what was measured and how."""

    dataset: str
    protocol: str
    values: dict[str, float]


class Manifest(_Strict):
    """The contents of manifest.json."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    description: str
    inputs: Annotated[tuple[GraphInput, ...], Field(min_length=1)]
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    canonical_focal_length: PositiveFloat
    depth_range: tuple[PositiveFloat, PositiveFloat]
    precision: Literal["float32", "float16", "int8"]
    training_data: tuple[TrainingData, ...]
    weights_licence: str
    metrics: tuple[ReportedMetrics, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        low, high = self.depth_range
        if low >= high:
            raise ValueError(f"depth_range is [{low}, {high}], expected minimum below maximum")
        for graph in self.inputs:
            if graph.onnx not in self.files:
                raise ValueError(f"inputs name {graph.onnx!r}, which has no entry in files")
        for name in self.files:
            if Path(name).name != name or name == MANIFEST_NAME:
                raise ValueError(f"files name {name!r}, expected a plain file name beside {MANIFEST_NAME}")
        return self


@dataclass(frozen=True)
class BundleInput:
    """One input size of a loaded bundle: `path` is the ONNX file for images of `height` x `width`."""

    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class ModelBundle:
    """A bundle whose every file has been checked against its manifest. Make one with `ModelBundle.load`."""

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: str | Path) -> ModelBundle:
        """Read and check the bundle in `folder`.

        Raises:
            BundleError: the folder, the manifest or a file is missing, the manifest has an unknown schema version, a
                missing, unknown or ill-typed field, or a file's sha256 is not the manifest's.
        """
        folder = Path(folder).expanduser()
        path = folder / MANIFEST_NAME
        manifest = _read_manifest(path)
        for name, expected in sorted(manifest.files.items()):
            file = folder / name
            if not file.is_file():
                raise BundleError(f"{file}: missing, but field 'files' of {path} lists it; copy the whole bundle again")
            found = sha256_of(file)
            if found != expected:
                raise BundleError(
                    f"{file}: sha256 is {found}, but field 'files' of {path} says {expected}; "
                    "the file was changed or not copied whole"
                )
        return cls(folder, manifest)

    @property
    def inputs(self) -> tuple[BundleInput, ...]:
        """Every input size the bundle offers."""
        return tuple(BundleInput(self.folder / g.onnx, g.height, g.width) for g in self.manifest.inputs)

    @property
    def digest(self) -> str:
        """sha256 over what decides the network's output: the files and the contract, not the words about them."""
        contract = self.manifest.model_dump(
            mode="json", include={"schema_version", "inputs", "files", "canonical_focal_length", "precision"}
        )
        return hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()

    def nearest_input(self, aspect: float) -> BundleInput:
        """The input whose width / height is nearest to `aspect` by ratio."""
        return min(self.inputs, key=lambda size: abs(math.log(size.width / size.height / aspect)))


def write_bundle(folder: str | Path, files: Iterable[Path], manifest: Mapping[str, object]) -> ModelBundle:
    """Write a bundle: `files` are copied in, hashed, and listed in the manifest's `files`.

    The folder appears whole or not at all. An existing folder must be a bundle; it is replaced.

    Args:
        folder: where the bundle goes.
        files: the ONNX files and their external data; names must be distinct.
        manifest: the fields of `Manifest` except `files` and `schema_version`.

    Raises:
        BundleError: a field is missing or wrong, a file is missing, or `folder` exists and holds something else.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise BundleError(f"{folder}: exists and is not a bundle (no {MANIFEST_NAME}); choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        hashes = {}
        for file in files:
            if not file.is_file():
                raise BundleError(f"{file}: missing, cannot be put into bundle {folder}")
            shutil.copyfile(file, staging / file.name)
            hashes[file.name] = sha256_of(staging / file.name)
        checked = _validate({**manifest, "files": hashes, "schema_version": SCHEMA_VERSION}, folder / MANIFEST_NAME)
        (staging / MANIFEST_NAME).write_text(checked.model_dump_json(indent=2) + "\n")
        staging.chmod(0o755)
        _replace_folder(staging, folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(staging)
    return ModelBundle.load(folder)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _replace_folder(staging: Path, folder: Path) -> None:
    """Put `staging` where `folder` is, keeping files of the old folder that no bundle owns (a model card, say)."""
    if folder.exists():
        old = _read_manifest(folder / MANIFEST_NAME) if (folder / MANIFEST_NAME).is_file() else None
        owned = {MANIFEST_NAME, *(old.files if old else ())}
        for file in folder.iterdir():
            if file.name not in owned and not (staging / file.name).exists():
                file.rename(staging / file.name)
        shutil.rmtree(folder)
    staging.replace(folder)


def _read_manifest(path: Path) -> Manifest:
    if not path.parent.is_dir():
        raise BundleError(f"{path.parent}: no such folder, expected a model bundle (a folder with {MANIFEST_NAME})")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: missing, expected a model bundle's manifest") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BundleError(f"{path}: holds a {type(fields).__name__}, expected a JSON object")
    return _validate(fields, path)


def _validate(fields: Mapping[str, object], path: Path) -> Manifest:
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: field 'schema_version' is {version!r}, this package reads {SCHEMA_VERSION}; "
            "export the bundle again or install the matching sem_depth_node"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"field '{'.'.join(map(str, problem['loc'])) or 'manifest'}': {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise BundleError(f"{path}: {problems}") from error
