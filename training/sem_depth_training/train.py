"""The training loop: `fit` runs a configuration to its end, resumes exactly, and loses nothing on Ctrl-C."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sem_depth_node.metrics import mean_metrics
from sem_depth_training.averaging import WeightAverage
from sem_depth_training.checkpoint import (
    CHECKPOINT,
    TrainingError,
    load_weights,
    network_of,
    read_checkpoint,
    read_mean,
    require_same_network,
    restoring,
    write_state,
)
from sem_depth_training.config import FitConfig
from sem_depth_training.data.batches import Batch, BatchesByStep, Mixture, WeightedFrames, batch_loader
from sem_depth_training.data.frames import DataError, Frame, read_index
from sem_depth_training.data.sources import read_sources
from sem_depth_training.evaluate import frame_metrics, network_predictor
from sem_depth_training.latent_training import train_latent_encoder
from sem_depth_training.losses import Target, distillation_loss, loss_terms, photometric_loss, total_loss
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.presets import CANONICAL_RANGE
from sem_depth_training.networks import is_pretrained, network_for, pretraining
from sem_depth_training.sample_pictures import sample_pictures
from sem_depth_training.stop_request import StopRequest, on_any_process

LATENT_ENCODER = "latent_encoder.pt"
_SKY_DISTANCE = 120.0  # metres; safely beyond what a robot is told of
_PATIENCE = timedelta(hours=12)  # of processes that wait for another to prepare data or to train the latent encoder

Outputs = tuple[Tensor, Tensor]
"""Log canonical depth and log of the Laplacian scale of its error, [B, H, W] each."""


def fit(config: FitConfig, output: Path, console: Console | None = None) -> Path:
    """Train to `config.steps`, resuming from the checkpoint in `output` where there is one; returns the checkpoint.

    The checkpoint is written every `checkpoint_every` steps, at the end, when SIGINT or SIGTERM asks to stop, and
    before an error ends the run. Processes on several machines must see the same `output`.
    Raises DataError, or TrainingError for a foreign checkpoint, a loss that is not finite, a full disk or a GPU whose
    memory does not suffice.
    """
    console = console or Console(soft_wrap=True)
    _make_folder(output)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if not accelerator.is_main_process:
        console = Console(quiet=True)
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("precision: fp16 needs a GPU; take bf16 or 'no'")
    if remark := precision_remark(config.precision, accelerator.device.type):
        console.print(remark)
    set_seed(config.seed)
    with accelerator.main_process_first():  # sources that are prepared once are found prepared by the others
        sources = read_sources(config.data)
    watched = read_index(config.validation.index, config.validation.split) if config.validation else []
    training_data = {
        source.name: "; ".join(sorted({frame.licence for frame in frames}))
        for source, frames in zip(config.data, sources, strict=True)
    }
    if config.losses.photometric and not any(frame.partner for frames in sources for frame in frames):
        raise TrainingError("losses.photometric: no source has stereo pairs; give one its `baseline`, or set this to 0")
    checkpoint = output / CHECKPOINT
    state = initial = None
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        require_same_network(state, config, checkpoint, "choose another output folder")
        if "optimizer" not in state:
            raise TrainingError(f"{checkpoint}: released weights cannot be resumed; name them as `initial` instead")
    elif config.initial:
        initial = read_mean(config.initial)
        require_same_network(initial, config, config.initial[0], "choose another `initial` or change the configuration")
    teacher = None
    if config.teacher is not None:
        teacher_state = read_checkpoint(config.teacher.checkpoint)
        teacher, teacher_config = network_of(teacher_state, config.teacher.checkpoint)
        teacher = teacher.requires_grad_(False).to(accelerator.device)
        training_data = _data_of(teacher_state, pretraining(teacher_config)) | training_data
    mixture = Mixture(
        [
            WeightedFrames(frames, source.weight, source.mix)
            for source, frames in zip(config.data, sources, strict=True)
        ],
        config.max_depth,
        config.memory * 2**30,
        partners=config.losses.photometric > 0,
    )
    batches = BatchesByStep(
        mixture, config.sizes, config.batch_size, config.augmentation, config.seed, accelerator.process_index
    )
    network = network_for(config, for_training=True, pretrained=state is None and initial is None)
    with StopRequest() as stop:
        if state is not None:
            load_weights(network, state["network"], checkpoint)
        elif initial is not None:
            load_weights(network, initial["average"], config.initial[0])
            training_data = _data_of(initial) | training_data
            given = " and ".join(map(str, config.initial))
            console.print(f"starting from the weights of {given}, trained for {initial['step']} steps")
        elif config.preset == "compact":  # at paper size the latent encoder is Stable Diffusion's
            frozen = output / LATENT_ENCODER
            if accelerator.is_main_process and not frozen.exists():
                train_latent_encoder(config, mixture, frozen, accelerator.device, console, stop)
            accelerator.wait_for_everyone()
            if on_any_process(accelerator, not frozen.exists()):
                return checkpoint
            with restoring(frozen):
                network.latent_encoder.load_state_dict(torch.load(frozen, map_location="cpu", weights_only=True))
        optimizer = torch.optim.AdamW(_parameter_groups(network, config), weight_decay=config.weight_decay)
        model, optimizer = accelerator.prepare(network, optimizer)
        average = WeightAverage(network, config.ema_decay)
        step = 0
        if state is not None:
            _resume_optimizer(optimizer, state["optimizer"], checkpoint)
            if accelerator.scaler is not None and "scaler" in state:
                accelerator.scaler.load_state_dict(state["scaler"])
            average.load(state["average"])
            step = int(state["step"])
            training_data = _data_of(state) | training_data
            console.print(f"resuming {checkpoint} at step {step}")
        schedule = _schedule(config)
        progress = _Progress(config, output, accelerator, console, step)

        def save() -> None:
            _save(checkpoint, config, training_data, network, optimizer, average, accelerator, step)

        def require_finite(what: str, value: float) -> None:
            """Raises in all processes where it is not finite in one; `batch` and `terms` are the loop's."""
            finite = math.isfinite(value)
            if on_any_process(accelerator, not finite):
                if accelerator.is_main_process and _finite(network):
                    save()
                accelerator.wait_for_everyone()
                raise _not_finite(what, output, batch, terms, step, accelerator.process_index, here=not finite)

        model.train()
        if config.frozen_statistics:
            _keep_statistics(network)
        first = step * config.accumulate
        loader = batch_loader(batches, first, config.steps * config.accumulate, config.workers)
        try:
            for number, batch in enumerate(loader, first):
                # Dropout and jitter are the batch's own, on every device, so a resumed run needs no random state.
                torch.manual_seed(_seed_of(config.seed, accelerator.process_index, number))
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * schedule(step)
                with accelerator.accumulate(model):
                    batch = batch.to(accelerator.device)
                    outputs = _predict(model, batch)
                    terms = _terms(outputs, batch, network.canonical_focal_length)
                    if teacher is not None and config.teacher is not None:
                        with torch.no_grad(), accelerator.autocast():
                            taught = taught_depth(teacher, batch.image, config.teacher.mirrored)
                        taught += math.log(network.canonical_focal_length)
                        terms["distillation"] = distillation_loss(outputs[0], taught)
                    loss = total_loss(terms, config.losses)
                    require_finite("loss", loss.item())
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(model.parameters(), config.gradient_norm)
                        if accelerator.scaler is None and norm is not None:  # a scaler leaves such a step out
                            require_finite("gradient", float(norm))
                    optimizer.step()
                    optimizer.zero_grad()
                progress.add({**terms, "loss": loss})
                if not accelerator.sync_gradients:
                    continue
                step += 1
                average.update(network, step)
                progress.show(step, batch, outputs, network.canonical_focal_length)
                stopping = stop.requested_anywhere(accelerator)
                if accelerator.is_main_process and (step % config.checkpoint_every == 0 or stopping):
                    save()
                if stopping:
                    accelerator.print(f"stopped at step {step}; run the same command again to go on")
                    break
                if config.validation and step % config.validation.every == 0:
                    progress.validate(step, network, average, watched)
            else:
                if accelerator.is_main_process:
                    save()
        except torch.OutOfMemoryError as error:
            save()  # by whichever process it happens to: their weights are the same
            raise _out_of_memory(config, batch, step, checkpoint) from error
        except DataError:
            save()
            raise
    progress.close()
    return checkpoint


def precision_remark(precision: str, device: str) -> str | None:
    """What is to be said of a precision on a type of device: bf16 on a processor that only emulates it.

    Of processors other than x86 it is not known, and nothing is said.
    """
    if (precision, device) == ("bf16", "cpu") and torch.cpu.get_capabilities().get("avx512_bf16") is False:
        return "precision: this processor has no instructions for bf16; 'no' is several times faster here"
    return None


class _Progress:
    """What is told of a run, by its main process: lines on the console, and curves and pictures in TensorBoard."""

    def __init__(self, config: FitConfig, output: Path, accelerator: Accelerator, console: Console, done: int) -> None:
        self._config, self._console = config, console
        self._processes = accelerator.num_processes
        self._folder = output / "tensorboard"
        with _logs_to(self._folder):
            # What a killed run wrote of steps that are done again goes.
            purge = done + 1 if done else None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge) if accelerator.is_main_process else None
        self._started, self._done = time.monotonic(), 0
        self._sums: dict[str, float] = {}
        self._added = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        self._added += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()

    def show(self, step: int, batch: Batch, outputs: Outputs, canonical: float) -> None:
        config = self._config
        self._done += 1
        if self._writer is not None and config.pictures_every and step % config.pictures_every == 0:
            with _logs_to(self._folder):
                self._writer.add_image("samples", sample_pictures(batch, *outputs, canonical), step)
        if step % config.log_every:
            return
        if self._writer is not None:
            seconds = (time.monotonic() - self._started) / self._done
            # Of what was added: after a resume that is less than `log_every` steps.
            means = {name: value / self._added for name, value in self._sums.items()}
            for name, mean in means.items():
                with _logs_to(self._folder):
                    self._writer.add_scalar(f"train/{name}", mean, step)
            left = timedelta(seconds=round(seconds * (config.steps - step)))
            rate = config.batch_size * config.accumulate * self._processes / seconds
            shown = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            line = f"step {step}/{config.steps} {shown} | {rate:.1f} samples/s, {left} left"
            self._console.print(line, highlight=False)
            with _logs_to(self._folder):
                self._writer.flush()
        self._sums.clear()
        self._added = 0

    def validate(self, step: int, network: DepthNetwork, average: WeightAverage, frames: list[Frame]) -> None:
        if self._writer is None or self._config.validation is None:
            return
        averaged = network_for(self._config).to(next(network.parameters()).device)
        averaged.load_state_dict(average.state)
        values = mean_metrics(frame_metrics(network_predictor(averaged.eval(), self._config.sizes[0]), frames))
        with _logs_to(self._folder):
            for name, mean in values.items():
                self._writer.add_scalar(f"val/{name}", mean, step)
        self._console.print(
            f"step {step} averaged weights on {self._config.validation.split}: "
            f"AbsRel {values['abs_rel']:.4f} RMSE {values['rmse']:.3f} delta1 {values['delta1']:.4f}"
        )

    def close(self) -> None:
        if self._writer is not None:
            with _logs_to(self._folder):
                self._writer.close()


@contextmanager
def _logs_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder}: logs cannot be written ({error.strerror}); free space, run the same command again; the last "
            "good checkpoint is kept"
        ) from error


def _predict(model: Callable[[Tensor], Outputs], batch: Batch) -> Outputs:
    depth, log_scale = model(batch.image)
    return torch.log(depth.float()), log_scale.float()


def taught_depth(teacher: DepthNetwork, image: Tensor, mirrored: bool) -> Tensor:
    """What a teacher says of an image, uint8 RGB [B, H, W, 3]: log of depth / focal length [B, H, W].

    Where `mirrored`, the mean with what it says of the mirrored image.
    """
    log_depth = teacher.predict(image)[0].float()
    if mirrored:
        log_depth = (log_depth + teacher.predict(image.flip(2))[0].float().flip(2)) / 2
    return log_depth - math.log(teacher.canonical_focal_length)


def _terms(outputs: Outputs, batch: Batch, canonical: float) -> dict[str, Tensor]:
    log_depth, log_scale = outputs
    to_canonical = torch.log(canonical / batch.focal)
    valid = batch.depth > 0
    log_truth = torch.log(torch.where(valid, batch.depth, 1.0)) + to_canonical[:, None, None]
    far = (math.log(_SKY_DISTANCE) + to_canonical).clamp(max=math.log(0.9 * CANONICAL_RANGE[1]))
    terms = loss_terms(log_depth, log_scale, Target(log_truth, valid, batch.sky, ~batch.sparse, far))
    if len(batch.pair):
        terms["photometric"] = photometric_loss(log_depth, batch.focal / canonical, batch.pair, batch.pair_shift)
    return terms


def _not_finite(
    what: str, output: Path, batch: Batch, terms: dict[str, Tensor], step: int, process: int, here: bool
) -> TrainingError:
    if not here:
        return TrainingError(f"{what} is not finite at step {step} in another process, which says more")
    culprit = output / (f"not_finite_{process}.pt" if process else "not_finite.pt")
    write_state(culprit, batch.state())
    shown = ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items())
    return TrainingError(
        f"{what} is not finite at step {step} ({shown}); the batch is in {culprit}. Look for what is wrong with its "
        "depth, or lower the learning rates"
    )


def _out_of_memory(config: FitConfig, batch: Batch, step: int, checkpoint: Path) -> TrainingError:
    height, width = batch.depth.shape[1:]
    section = "" if config.paper is None else "paper."
    on = config.gradient_checkpointing if config.paper is None else config.paper.gradient_checkpointing
    return TrainingError(
        f"GPU out of memory at step {step} with {config.batch_size} images of {height}x{width}; {checkpoint} keeps "
        f"what was trained. Halve batch_size and double accumulate (now {config.accumulate})"
        + ("" if on else f", or turn on {section}gradient_checkpointing,")
        + " and run the same command again"
    )


def _keep_statistics(network: nn.Module) -> None:
    """Batch norms use and keep the statistics that they have; their scales and offsets still learn."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _finite(network: nn.Module) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be made a folder ({error.strerror}); name another output") from error


def _parameter_groups(network: DepthNetwork, config: FitConfig) -> list[dict[str, Any]]:
    """Backbone and the rest with their own peak rates; no decay on norms, biases and embeddings."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        peak = config.backbone_learning_rate if is_pretrained(config.preset, name) else config.learning_rate
        decays = parameter.ndim > 1 and "embed" not in name and "query" not in name
        groups.setdefault((peak, decays), []).append(parameter)
    return [
        {"params": parameters, "lr": peak, "peak": peak} | ({} if decays else {"weight_decay": 0.0})
        for (peak, decays), parameters in groups.items()
    ]


def _resume_optimizer(optimizer: Any, saved: dict[str, Any], checkpoint: Path) -> None:
    """Load the optimizer's moments; the rates and decays stay those of the configuration, which may have changed."""
    configured = [(group["peak"], group["weight_decay"]) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved)
    except ValueError as error:
        raise TrainingError(
            f"{checkpoint}: its optimizer has other groups of weights than the configuration makes ({error}); set "
            "frozen_backbone_blocks as it was, and learning_rate and backbone_learning_rate apart or equal as they "
            "were, or name the checkpoint as `initial` of a new run"
        ) from error
    for group, (peak, decay) in zip(optimizer.param_groups, configured, strict=True):
        group["peak"], group["weight_decay"] = peak, decay


def _seed_of(seed: int, process: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, process, number)).generate_state(1, np.uint64)[0])


def _schedule(config: FitConfig) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to 1 %, as a factor of the peak rate."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def _save(
    path: Path,
    config: FitConfig,
    training_data: dict[str, str],
    network: nn.Module,
    optimizer: Any,
    average: WeightAverage,
    accelerator: Accelerator,
    step: int,
) -> None:
    state = {
        "config": config.model_dump(mode="json"),
        "training_data": [{"name": name, "licence": licence} for name, licence in training_data.items()],
        "step": step,
        "network": network.state_dict(),
        "average": average.state,
        "optimizer": optimizer.state_dict(),
    }
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    write_state(path, state, accelerator.process_index)


def _data_of(state: dict[str, Any], more: list[dict[str, str]] | None = None) -> dict[str, str]:
    """Licence by name of what the weights of a checkpoint were trained on, earlier stages included."""
    return {data["name"]: data["licence"] for data in [*state["training_data"], *(more or [])]}
