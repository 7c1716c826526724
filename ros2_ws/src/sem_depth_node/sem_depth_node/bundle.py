"""The model bundle: a folder with ONNX graphs and a manifest, the one contract between training and robot.

Each graph takes `image`, uint8 [1, H, W, 3] RGB, and returns `depth`, float32 [1, H, W] canonical metres along Z, and
`log_scale`, float32 [1, H, W], the logarithm of the Laplacian scale of the log-depth residual. Normalisation is inside
the graph. Metric depth = depth * f / canonical_focal_length, f being the camera's focal length in pixels after
resizing to the graph's input (the canonical camera of Metric3D, arXiv 2307.10984).

A graph is made for one size, or, where its manifest entry has a `profile`, for every size within that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
PositiveInt = Annotated[int, Field(gt=0)]
Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""


class ShapeProfile(_Strict):
    """The sizes, (height, width), that a graph with open sizes takes: from `min` to `max`, both sides multiples of
    `multiple`. It is tuned for `opt`."""

    min: Size
    opt: Size
    max: Size
    multiple: PositiveInt

    @model_validator(mode="after")
    def _consistent(self) -> ShapeProfile:
        if not all(low < high for low, high in zip(self.min, self.max, strict=True)):
            raise ValueError(f"min is {self.min} and max {self.max}, expected both sides to grow")
        for size in (self.min, self.max, self.opt):
            if objection := self.objection(*size):
                raise ValueError(objection)
        return self

    def objection(self, height: int, width: int) -> str | None:
        """Why the profile does not hold this size, in words; None if it does."""
        if height % self.multiple or width % self.multiple:
            return f"height {height} and width {width} are not both divisible by {self.multiple}"
        if not all(low <= side <= high for low, side, high in zip(self.min, (height, width), self.max, strict=True)):
            return f"height {height} and width {width} are outside the profile, {self}"
        return None

    def __str__(self) -> str:
        low, high = ("x".join(map(str, size[::-1])) for size in (self.min, self.max))
        return f"{low} to {high} in steps of {self.multiple}"


class GraphInput(_Strict):
    """An ONNX file and the size it takes; where it takes every size within a profile, the size it is tuned for."""

    onnx: str
    height: PositiveInt
    width: PositiveInt
    profile: ShapeProfile | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GraphInput:
        if self.profile is not None and self.profile.opt != (self.height, self.width):
            raise ValueError(f"height and width are {(self.height, self.width)}, expected profile.opt")
        return self


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
    """One input size of a loaded bundle: `path` is the ONNX file for images of `height` x `width`.

    With a `profile`, the file takes other sizes, too.
    """

    path: Path
    height: int
    width: int
    profile: ShapeProfile | None = None


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
        bundle = cls(folder, manifest)
        bundle.check_files()
        return bundle

    def check_files(self) -> None:
        """Raises BundleError where a file is missing or its sha256 is not the manifest's (any more)."""
        path = self.folder / MANIFEST_NAME
        for name, expected in sorted(self.manifest.files.items()):
            file = self.folder / name
            if not file.is_file():
                raise BundleError(f"{file}: missing, but field 'files' of {path} lists it; copy the whole bundle again")
            found = sha256_of(file)
            if found != expected:
                raise BundleError(
                    f"{file}: sha256 is {found}, but field 'files' of {path} says {expected}; "
                    "the file was changed or not copied whole"
                )

    @property
    def inputs(self) -> tuple[BundleInput, ...]:
        """The input sizes of the bundle: of a graph with a profile, the one it is tuned for."""
        return tuple(BundleInput(self.folder / g.onnx, g.height, g.width, g.profile) for g in self.manifest.inputs)

    def input_of_size(self, height: int, width: int) -> BundleInput:
        """The input for images of exactly this size: a graph made for it, else one whose profile holds it.

        Raises:
            BundleError: there is none; the message says what the bundle offers.
        """
        for offered in self.inputs:
            if (offered.height, offered.width) == (height, width):
                return offered
        objections = []
        for offered in self.inputs:
            if offered.profile is not None:
                objection = offered.profile.objection(height, width)
                if objection is None:
                    return replace(offered, height=height, width=width)
                objections.append(objection)
        offers = ", ".join(str(one.profile or f"{one.width}x{one.height}") for one in self.inputs)
        reasons = f" ({'; '.join(objections)})" if objections else ""
        raise BundleError(f"bundle {self.folder} has no input of {width}x{height}{reasons}, it offers {offers}")

    @property
    def digest(self) -> str:
        """sha256 over what decides the network's output: the files and the contract, not the words about them."""
        contract = self.manifest.model_dump(
            mode="json",
            include={"schema_version", "inputs", "files", "canonical_focal_length", "precision"},
            exclude_none=True,
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
        (staging / MANIFEST_NAME).write_text(checked.model_dump_json(indent=2, exclude_none=True) + "\n")
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
