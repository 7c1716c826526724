"""The training configuration: YAML, validated, unknown keys refused by name."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sem_depth_training.data.augmentation import AugmentationConfig
from sem_depth_training.losses import LossWeights
from sem_depth_training.models.presets import CompactConditioning


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the file and each key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class SourceConfig(_Strict):
    """Frames of one index.csv. `${NAME}` in `index` is replaced by the environment variable NAME.

    `name` is what the bundle's manifest calls the data.
    """

    name: str
    index: Path
    split: str = "train"
    weight: float = Field(1.0, gt=0)


class ValidationConfig(_Strict):
    """Frames to watch during training, every so many steps. Nothing is chosen by them."""

    index: Path
    split: str = "val"
    every: Positive = 1000


class AutoencoderConfig(_Strict):
    """How the latent encoder is trained before it is frozen."""

    steps: Positive = 1500
    batch_size: Positive = 8
    learning_rate: Rate = 2e-3


class BundleConfig(_Strict):
    """What `export` writes about the trained network; the rest of the manifest is measured."""

    name: str
    description: str
    weights_licence: str
    inputs: Annotated[list[tuple[Positive, Positive]], Field(min_length=1)] = [(192, 640), (320, 480)]
    depth_range: tuple[float, float] = (0.5, 80.0)


class FitConfig(_Strict):
    """One training run."""

    preset: Literal["compact"] = "compact"
    conditioning: CompactConditioning = "seecoder"
    seed: int = 0
    steps: Positive
    batch_size: Positive = 8
    accumulate: Positive = 1
    sizes: Annotated[list[tuple[Positive, Positive]], Field(min_length=1)] = [(192, 640), (320, 480)]
    max_depth: float = Field(100.0, gt=0)
    learning_rate: Rate = 6e-4
    backbone_learning_rate: Rate = 1.5e-4
    frozen_backbone_blocks: Annotated[int, Field(ge=-1, le=16)] = 3
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    gradient_norm: float = Field(1.0, gt=0)
    ema_decay: Rate = 0.998
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    workers: Annotated[int, Field(ge=0)] = 1
    log_every: Positive = 20
    checkpoint_every: Positive = 200
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    losses: LossWeights = LossWeights()
    data: Annotated[list[SourceConfig], Field(min_length=1)]
    validation: ValidationConfig | None = None
    bundle: BundleConfig

    @model_validator(mode="after")
    def _sizes_divisible(self) -> "FitConfig":
        for height, width in [*self.sizes, *self.bundle.inputs]:
            if height % 32 or width % 32:
                raise ValueError(f"size {height}x{width} is not divisible by 32")
        return self


def read_config(path: Path) -> FitConfig:
    """Read and validate a YAML configuration. Raises ConfigError naming the file and every wrong key."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: expected keys and values at the top")
    try:
        return FitConfig.model_validate(_expand(fields, path))
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
