"""The training loop: `fit` runs a configuration to its end, resumes exactly, and loses nothing on Ctrl-C."""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sem_depth_node.metrics import mean_metrics
from sem_depth_training.averaging import WeightAverage
from sem_depth_training.checkpoint import (
    CHECKPOINT,
    TrainingError,
    load_weights,
    read_checkpoint,
    require_same_network,
    write_state,
)
from sem_depth_training.config import AutoencoderConfig, FitConfig
from sem_depth_training.data.batches import Batch, BatchesByStep, Mixture, batch_loader, load_mixture
from sem_depth_training.data.frames import read_index
from sem_depth_training.evaluate import frame_metrics, network_predictor
from sem_depth_training.losses import Target, loss_terms, total_loss
from sem_depth_training.models.autoencoder import ImageAutoencoder
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.presets import CANONICAL_RANGE
from sem_depth_training.networks import is_pretrained, network_for

AUTOENCODER = "latent_encoder.pt"
_SKY_DISTANCE = 120.0  # metres; safely beyond what a robot is told of


def fit(config: FitConfig, output: Path, console: Console | None = None) -> Path:
    """Train to `config.steps`, resuming from the checkpoint in `output` where there is one; returns the checkpoint.

    The checkpoint is written every `checkpoint_every` steps, at the end, and when SIGINT or SIGTERM asks to stop.
    Raises DataError, or TrainingError for a foreign checkpoint, a loss that is not finite or a full disk.
    """
    console = console or Console(soft_wrap=True)
    output.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=not torch.cuda.is_available(),
    )
    set_seed(config.seed)
    sources = [(read_index(source.index, source.split), source.weight) for source in config.data]
    watched = read_index(config.validation.index, config.validation.split) if config.validation else []
    training_data = {
        source.name: "; ".join(sorted({frame.licence for frame in frames}))
        for source, (frames, _) in zip(config.data, sources, strict=True)
    }
    checkpoint = output / CHECKPOINT
    initial = None
    if config.initial is not None and not checkpoint.exists():
        initial = read_checkpoint(config.initial)
        require_same_network(initial, config, config.initial, "choose another `initial` or change the configuration")
    mixture = load_mixture(sources, config.max_depth)
    batches = BatchesByStep(
        mixture, config.sizes, config.batch_size, config.augmentation, config.seed, accelerator.process_index
    )
    network = network_for(config, pretrained=True)
    if initial is not None:
        assert config.initial is not None
        load_weights(network, initial["average"], config.initial)
        training_data = _data_of(initial) | training_data
    optimizer = torch.optim.AdamW(_parameter_groups(network, config), weight_decay=config.weight_decay)
    average = WeightAverage(network, config.ema_decay)
    step = 0
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        step = _restore(state, checkpoint, config, network, optimizer, average)
        training_data = _data_of(state) | training_data
        console.print(f"resuming {checkpoint} at step {step}")
    elif initial is not None:
        console.print(f"starting from the weights of {config.initial}, trained for {initial['step']} steps")
    elif config.preset == "compact":  # at paper size the latent encoder is Stable Diffusion's
        frozen = output / AUTOENCODER
        with accelerator.main_process_first():  # the others find it made
            if not frozen.exists():
                write_state(frozen, train_autoencoder(config.autoencoder, mixture, config, console).state_dict())
        network.latent_encoder.load_state_dict(torch.load(frozen, weights_only=True))
        average = WeightAverage(network, config.ema_decay)
    schedule = _schedule(config)
    model, optimizer = accelerator.prepare(network, optimizer)
    writer = SummaryWriter(str(output / "tensorboard")) if accelerator.is_main_process else None
    stop = _StopRequest()
    started, done = time.monotonic(), 0
    sums: dict[str, float] = {}

    def save() -> None:
        if accelerator.is_main_process:
            _save(checkpoint, config, training_data, network, optimizer, average, step)

    model.train()
    with stop:
        for batch in batch_loader(batches, step * config.accumulate, config.steps * config.accumulate, config.workers):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step)
            with accelerator.accumulate(model):
                terms = _step_terms(model, send_to_device(batch, accelerator.device), network.canonical_focal_length)
                loss = total_loss(terms, config.losses)
                if not math.isfinite(loss.item()):
                    culprit = output / "not_finite.pt"
                    torch.save(batch.__dict__, culprit)
                    shown = ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items())
                    raise TrainingError(f"loss is not finite at step {step} ({shown}); the batch is in {culprit}")
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.gradient_norm)
                optimizer.step()
                optimizer.zero_grad()
            for name, value in {**terms, "loss": loss}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            if not accelerator.sync_gradients:
                continue
            step, done = step + 1, done + 1
            average.update(network, step)
            if step % config.log_every == 0 and writer is not None:
                seconds = (time.monotonic() - started) / done
                means = {name: value / (config.log_every * config.accumulate) for name, value in sums.items()}
                for name, mean in means.items():
                    writer.add_scalar(f"train/{name}", mean, step)
                left = time.strftime("%H:%M:%S", time.gmtime(seconds * (config.steps - step)))
                rate = config.batch_size * config.accumulate * accelerator.num_processes / seconds
                shown = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
                console.print(
                    f"step {step}/{config.steps} {shown} | {rate:.1f} samples/s, {left} left", highlight=False
                )
            if step % config.log_every == 0:
                sums.clear()
            stopping = stop.requested_anywhere(accelerator)
            if step % config.checkpoint_every == 0 or stopping:
                save()
            if stopping:
                accelerator.print(f"stopped at step {step}; run the same command again to go on")
                break
            if config.validation and writer is not None and step % config.validation.every == 0:
                values = mean_metrics(
                    frame_metrics(network_predictor(_averaged(network, average, config), config.sizes[0]), watched)
                )
                for name, mean in values.items():
                    writer.add_scalar(f"val/{name}", mean, step)
                console.print(
                    f"step {step} averaged weights on {config.validation.split}: "
                    f"AbsRel {values['abs_rel']:.4f} RMSE {values['rmse']:.3f} delta1 {values['delta1']:.4f}"
                )
        else:
            save()
    if writer is not None:
        writer.close()
    return checkpoint


def train_autoencoder(settings: AutoencoderConfig, mixture: Mixture, config: FitConfig, console: Console) -> nn.Module:
    """Train the image autoencoder on reconstruction (L1 and squared error) of the mixture's images; its encoder."""
    autoencoder = ImageAutoencoder()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), settings.learning_rate, weight_decay=1e-4)
    batches = BatchesByStep(mixture, [(128, 256)], settings.batch_size, config.augmentation, config.seed + 1)
    console.print(f"training the image autoencoder, {settings.steps} steps")
    for step, batch in enumerate(batch_loader(batches, 0, settings.steps, config.workers)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        rgb = batch.image.permute(0, 3, 1, 2).float() / 255
        difference = autoencoder(rgb) - rgb
        loss = difference.abs().mean() + (difference * difference).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            psnr = -10 * math.log10((difference.detach() ** 2).mean().item())
            console.print(f"autoencoder step {step + 1}/{settings.steps} PSNR {psnr:.1f} dB", highlight=False)
    return autoencoder.encoder


def _step_terms(model: Callable[[Tensor], tuple[Tensor, Tensor]], batch: Batch, canonical: float) -> dict[str, Tensor]:
    depth, log_scale = model(batch.image)
    to_canonical = torch.log(canonical / batch.focal)
    valid = batch.depth > 0
    log_truth = torch.log(torch.where(valid, batch.depth, 1.0)) + to_canonical[:, None, None]
    far = (math.log(_SKY_DISTANCE) + to_canonical).clamp(max=math.log(0.9 * CANONICAL_RANGE[1]))
    return loss_terms(
        torch.log(depth.float()), log_scale.float(), Target(log_truth, valid, batch.sky, ~batch.sparse, far)
    )


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


def _schedule(config: FitConfig) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to 1 %, as a factor of the peak rate."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def _averaged(network: DepthNetwork, average: WeightAverage, config: FitConfig) -> DepthNetwork:
    copy = network_for(config).to(next(network.parameters()).device)
    copy.load_state_dict(average.state)
    return copy.eval()


def _save(
    path: Path,
    config: FitConfig,
    training_data: dict[str, str],
    network: nn.Module,
    optimizer: Any,
    average: WeightAverage,
    step: int,
) -> None:
    state = {
        "config": config.model_dump(mode="json"),
        "training_data": [{"name": name, "licence": licence} for name, licence in training_data.items()],
        "step": step,
        "network": network.state_dict(),
        "average": average.state,
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    write_state(path, state)


def _data_of(state: dict[str, Any]) -> dict[str, str]:
    """Licence by name of what the weights of a checkpoint were trained on, earlier stages included."""
    return {data["name"]: data["licence"] for data in state["training_data"]}


def _restore(
    state: dict[str, Any],
    path: Path,
    config: FitConfig,
    network: DepthNetwork,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
) -> int:
    require_same_network(state, config, path, "choose another output folder")
    load_weights(network, state["network"], path)
    optimizer.load_state_dict(state["optimizer"])
    average.state = state["average"]
    torch.set_rng_state(state["random"])
    return int(state["step"])


class _StopRequest:
    """Within this context SIGINT and SIGTERM set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested_anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process of the run was asked to stop; all of them get the same answer."""
        flag = torch.tensor(float(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(flag).item() > 0)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
