"""The compact network's latent encoder: trained on reconstruction before the network is, then frozen."""

import math
from pathlib import Path

import torch
from rich.console import Console

from sem_depth_training.checkpoint import restoring, write_state
from sem_depth_training.config import FitConfig
from sem_depth_training.data.batches import BatchesByStep, Mixture, batch_loader
from sem_depth_training.models.autoencoder import ImageAutoencoder
from sem_depth_training.stop_request import StopRequest

_SIZE = (128, 256)


def train_latent_encoder(
    config: FitConfig, mixture: Mixture, output: Path, device: torch.device, console: Console, stop: StopRequest
) -> None:
    """Train the image autoencoder (L1 and squared error of the mixture's images) and write its encoder to `output`.

    Where `stop` asks for it, its state goes to a file beside instead, from which the next call goes on. Raises
    TrainingError where a file cannot be written, or that one not be read.
    """
    settings = config.autoencoder
    autoencoder = ImageAutoencoder().to(device)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), settings.learning_rate, weight_decay=1e-4)
    unfinished, start = output.with_name(f"{output.stem}_unfinished.pt"), 0
    if unfinished.exists():
        with restoring(unfinished):
            state = torch.load(unfinished, map_location="cpu", weights_only=True)
            autoencoder.load_state_dict(state["autoencoder"])
            optimizer.load_state_dict(state["optimizer"])
            start = state["step"]
    batches = BatchesByStep(mixture, [_SIZE], settings.batch_size, config.augmentation, config.seed + 1)
    console.print(f"training the image autoencoder, {settings.steps - start} steps")
    for step, batch in enumerate(batch_loader(batches, start, settings.steps, config.workers), start):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        rgb = batch.image.to(device).permute(0, 3, 1, 2).float() / 255
        difference = autoencoder(rgb) - rgb
        loss = difference.abs().mean() + (difference * difference).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            psnr = -10 * math.log10((difference.detach() ** 2).mean().item())
            console.print(f"autoencoder step {step + 1}/{settings.steps} PSNR {psnr:.1f} dB", highlight=False)
        if stop.requested and step + 1 < settings.steps:
            state = {"autoencoder": autoencoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            write_state(unfinished, state)
            console.print(f"stopped at step {step + 1} of the autoencoder; run the same command again to go on")
            return
    write_state(output, autoencoder.encoder.state_dict())
    unfinished.unlink(missing_ok=True)
