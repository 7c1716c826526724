"""The compact network's latent encoder: trained on reconstruction before the network is, then frozen."""

import math
from pathlib import Path

import torch
from rich.console import Console

from sem_depth_training.checkpoint import TrainingError, restoring, write_state
from sem_depth_training.config import FitConfig
from sem_depth_training.data.batches import BatchesByStep, Mixture, batch_loader
from sem_depth_training.data.frames import DataError
from sem_depth_training.models.autoencoder import ImageAutoencoder
from sem_depth_training.stop_request import StopRequest

_SIZE = (128, 256)


def train_latent_encoder(
    config: FitConfig, mixture: Mixture, output: Path, device: torch.device, console: Console, stop: StopRequest
) -> None:
    """Train the image autoencoder (L1 and squared error of the mixture's images) and write its encoder to `output`.

    Where `stop` asks for it, or it cannot go on, its state goes to a file beside instead, from which the next call goes
    on. Raises TrainingError where a file cannot be written, or that one not be read, the loss is not finite or the GPU
    full; DataError where a frame cannot be read.
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
    step = start

    def keep() -> None:
        state = {"autoencoder": autoencoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        write_state(unfinished, state)

    try:
        for batch in batch_loader(batches, start, settings.steps, config.workers):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            rgb = batch.image.to(device).permute(0, 3, 1, 2).float() / 255
            difference = autoencoder(rgb) - rgb
            loss = difference.abs().mean() + (difference * difference).mean()
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"loss of the image autoencoder is not finite at step {step}; lower autoencoder.learning_rate "
                    f"(now {settings.learning_rate:g}) and run the same command again"
                )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 100 == 0:
                psnr = -10 * math.log10((difference.detach() ** 2).mean().item())
                console.print(f"autoencoder step {step}/{settings.steps} PSNR {psnr:.1f} dB", highlight=False)
            if stop.requested and step < settings.steps:
                keep()
                console.print(f"stopped at step {step} of the autoencoder; run the same command again to go on")
                return
    except torch.OutOfMemoryError as error:
        keep()
        raise TrainingError(
            f"GPU out of memory at step {step} of the image autoencoder with {settings.batch_size} images; "
            f"{unfinished} keeps what was trained. Lower autoencoder.batch_size and run the same command again"
        ) from error
    except DataError:
        keep()
        raise
    write_state(output, autoencoder.encoder.state_dict())
    unfinished.unlink(missing_ok=True)
