"""The training configuration: YAML, validated, unknown keys refused by name."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sem_depth_training.data.augmentation import AugmentationConfig
from sem_depth_training.data.sources import Source
from sem_depth_training.losses import LossWeights
from sem_depth_training.models.paper import SEECODER_SIZE
from sem_depth_training.models.paper_semantics import Conditioning
from sem_depth_training.models.presets import CompactConditioning


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the file and each key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


_Config = TypeVar("_Config", bound=_Strict)
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class ValidationConfig(_Strict):
    """Frames to watch during training, every so many steps. Nothing is chosen by them."""

    index: Path
    split: str = "val"
    every: Positive = 1000


class TeacherConfig(_Strict):
    """A trained network of any preset whose depth this one learns to repeat: a checkpoint, or released weights.

    With `mirrored` it is the mean with what the teacher says of the mirrored image, which is more accurate: one pass
    learns to answer as two would.
    """

    checkpoint: Path
    mirrored: bool = False


class AutoencoderConfig(_Strict):
    """How the latent encoder is trained before it is frozen."""

    steps: Positive = 1500
    batch_size: Positive = 8
    learning_rate: Rate = 2e-3


class PaperConfig(_Strict):
    """The paper-size network: where its public weights are (`fetch-weights` prints the paths), and its settings.

    `stable_diffusion` is a diffusers folder or a single file, `seecoder` a released file, `clip` a transformers folder.
    `prompts` describe the scenes of text conditioning. `shrunken` makes every part small, to try things out.
    """

    stable_diffusion: Path
    seecoder: Path | None = None
    clip: Path | None = None
    prompts: Annotated[list[str], Field(min_length=1)] = ["a photo of a street", "a photo of a road outside town"]
    seecoder_size: tuple[Positive, Positive] = SEECODER_SIZE
    timestep: Annotated[int, Field(ge=0, le=999)] = 1
    gradient_checkpointing: bool = True
    shrunken: bool = False


class BundleConfig(_Strict):
    """What `export` writes about the trained network; the rest of the manifest is measured."""

    name: str
    description: str
    weights_licence: str
    inputs: Annotated[list[tuple[Positive, Positive]], Field(min_length=1)] = [(192, 640), (320, 480)]
    depth_range: tuple[float, float] = (0.5, 80.0)
    precision: Literal["float32", "float16"] = "float32"

    @field_validator("depth_range")
    @classmethod
    def _ascending(cls, depth_range: tuple[float, float]) -> tuple[float, float]:
        if not 0 < depth_range[0] < depth_range[1]:
            raise ValueError("expected two metres, the nearer first")
        return depth_range


class FitConfig(_Strict):
    """One training run.

    `initial` is a checkpoint of the same preset and conditioning: this run starts from its averaged weights, the frozen
    latent encoder included, with a fresh optimizer and schedule. Of several it starts from the mean.
    """

    preset: Literal["compact", "paper"] = "compact"
    conditioning: Conditioning = "seecoder"
    paper: PaperConfig | None = None
    initial: list[Path] = []
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Positive
    batch_size: Positive = 8
    accumulate: Positive = 1
    sizes: Annotated[list[tuple[Positive, Positive]], Field(min_length=1)] = [(192, 640), (320, 480)]
    max_depth: float = Field(100.0, gt=0)
    learning_rate: Rate = 6e-4
    backbone_learning_rate: Rate = 1.5e-4
    frozen_backbone_blocks: Annotated[int, Field(ge=0, le=16)] = 3
    stochastic_depth: float = Field(0.0, ge=0, lt=1)  # of the compact backbone's blocks: 0 at the first, rising to this
    frozen_statistics: bool = False  # batch norms keep theirs: what is trained is what the robot runs
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    gradient_norm: float = Field(1.0, gt=0)
    ema_decay: Rate = 0.998
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    workers: Annotated[int, Field(ge=0)] = 1
    memory: float = Field(8.0, ge=0)  # GiB of decoded frames that each process keeps; the rest is read when drawn
    log_every: Positive = 20
    checkpoint_every: Positive = 200
    pictures_every: Annotated[int, Field(ge=0)] = 500  # steps; 0 draws none
    gradient_checkpointing: bool = False  # of the compact network's UNet: less memory, a third more time
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    losses: LossWeights = LossWeights()
    teacher: TeacherConfig | None = None
    data: Annotated[list[Source], Field(min_length=1)]
    validation: ValidationConfig | None = None
    bundle: BundleConfig

    @field_validator("initial", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, initial: object) -> object:
        return initial if isinstance(initial, list) else [] if initial is None else [initial]

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_no(cls, precision: object) -> object:
        return "no" if precision is False else precision  # which YAML makes of an unquoted no

    @field_validator("data")
    @classmethod
    def _names_differ(cls, data: list[Source]) -> list[Source]:
        names = [source.name for source in data]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are named {', '.join(twice)}; give each its own name")
        return data

    @model_validator(mode="after")
    def _preset_complete(self) -> "FitConfig":
        if (self.preset == "paper") != (self.paper is not None):
            raise ValueError("preset paper needs the section paper, and only it has one")
        if self.preset == "paper":
            for key in ("frozen_backbone_blocks", "stochastic_depth", "frozen_statistics", "gradient_checkpointing"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is of preset compact alone; leave it out")
        if self.preset == "compact" and self.conditioning not in get_args(CompactConditioning):
            raise ValueError(
                f"conditioning {self.conditioning}: the compact preset has {', '.join(get_args(CompactConditioning))}"
            )
        return self

    @model_validator(mode="after")
    def _sizes_divisible(self) -> "FitConfig":
        for height, width in [*self.sizes, *self.bundle.inputs]:
            if height % 32 or width % 32:
                raise ValueError(f"size {height}x{width} is not divisible by 32")
        return self


class SourcesConfig(_Strict):
    """Data alone: what `FitConfig` has under the same key."""

    data: Annotated[list[Source], Field(min_length=1)]


def read_config(path: Path) -> FitConfig:
    """Read and validate a YAML configuration. Raises ConfigError naming the file and every wrong key."""
    return _read(path, FitConfig)


def read_source_config(path: Path) -> SourcesConfig:
    """Read and validate a YAML file with the section `data` alone. Raises ConfigError as `read_config` does."""
    return _read(path, SourcesConfig)


def _read(path: Path, model: type[_Config]) -> _Config:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason}); expected YAML") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: expected keys and values at the top")
    try:
        return model.model_validate(_expand(fields, path))
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc'])) or 'configuration'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ConfigError(f"{path}:\n{problems}") from error


def _expand(value: object, path: Path) -> object:
    if isinstance(value, dict):
        return {key: _expand(part, path) for key, part in value.items()}
    if isinstance(value, list):
        return [_expand(part, path) for part in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"{path}: {value!r} needs the environment variable {name}, which is not set")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", variable, value)
