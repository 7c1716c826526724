"""The paper's ablation: the same network conditioned in other ways, each trained with the same budget and seeds."""

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from sem_depth_node.metrics import mean_metrics
from sem_depth_training.checkpoint import TrainingError, network_of, read_checkpoint
from sem_depth_training.config import FitConfig
from sem_depth_training.data.frames import read_index
from sem_depth_training.evaluate import PROTOCOL, frame_metrics, network_predictor
from sem_depth_training.models.presets import CompactConditioning
from sem_depth_training.networks import network_for
from sem_depth_training.train import LATENT_ENCODER, fit
from sem_depth_training.whole_file import write_whole

METRICS = ("abs_rel", "rmse", "delta1")
_METRICS_FILE = "metrics.json"

Scores = dict[str, dict[int, dict[str, float]]]
"""Metrics by conditioning and seed."""


def ablation(
    config: FitConfig,
    output: Path,
    conditionings: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    console: Console,
) -> Scores | None:
    """Train and evaluate each conditioning with each seed, one after the other.

    The runs of a seed share one latent encoder and see the same batches. What `output` holds already is not done again,
    so the same command goes on after a stop. Frames and input size of the evaluation are the configuration's.

    Args:
        config: of the training; conditioning, seed and steps are replaced, and it must not have `initial`.
        output: folder with a folder for each run.
        conditionings: some of `CompactConditioning`.
        seeds: of the runs.
        steps: of each run.
        console: where progress goes.

    Returns:
        The metrics, or None where a signal stopped a run.

    Raises:
        TrainingError: the configuration has no validation frames, or is of another preset; or several processes were
            started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(
            f"an ablation is one process, found WORLD_SIZE={os.environ['WORLD_SIZE']}; start it without torchrun or "
            "accelerate launch"
        )
    if config.preset != "compact" or config.validation is None or config.initial:
        raise TrainingError("an ablation needs a configuration of preset compact, with validation and without initial")
    if unknown := [name for name in conditionings if name not in get_args(CompactConditioning)]:
        expected = ", ".join(get_args(CompactConditioning))
        raise TrainingError(f"conditioning {', '.join(unknown)}: expected some of {expected}")
    frames = read_index(config.validation.index, config.validation.split)
    scores: Scores = {name: {} for name in conditionings}
    for seed in seeds:
        for name in conditionings:
            folder = output / f"{name}_{seed}"
            metrics = folder / _METRICS_FILE
            budget = {"steps": steps, "seed": seed, "conditioning": name, "validation": None}
            if not metrics.is_file():
                console.print(f"{folder}: {steps} steps with {name}, seed {seed}")
                _share_latent_encoder(output, conditionings, seed, folder)
                run = FitConfig.model_validate({**config.model_dump(), **budget})
                checkpoint = fit(run, folder, console)
                if not checkpoint.is_file() or (state := read_checkpoint(checkpoint))["step"] < steps:
                    return None
                predict = network_predictor(network_of(state, checkpoint)[0], config.sizes[0])
                found = {**mean_metrics(frame_metrics(predict, frames)), "steps": steps}
                write_whole(metrics, json.dumps(found, indent=2) + "\n")
            kept = _read_metrics(metrics)
            if kept["steps"] != steps:
                raise TrainingError(
                    f"{metrics}: is of {kept['steps']:g} steps, expected {steps}; choose another output"
                )
            scores[name][seed] = kept
    return scores


def ablation_markdown(scores: Scores, config: FitConfig, steps: int) -> str:
    """The table, with the standard deviation over the seeds, and what it was measured on."""
    assert config.validation is not None
    seeds = sorted(next(iter(scores.values())))
    lines = [
        f"{steps} steps of {config.batch_size} x {config.accumulate} images, seeds {', '.join(map(str, seeds))}; "
        f"{config.validation.split} frames, {PROTOCOL}; mean ± standard deviation over the seeds.",
        "",
        "| conditioning | weights beside the backbone's (thousand) | AbsRel | RMSE (m) | delta1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, by_seed in scores.items():
        cells = [_spread([metrics[metric] for metrics in by_seed.values()]) for metric in METRICS]
        lines.append(f"| {name} | {_own_weights(config, name) / 1e3:.0f} | {' | '.join(cells)} |")
    lines += ["", "| AbsRel of each run | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines.append("| --- |" + " --- |" * len(seeds))
    for name, by_seed in scores.items():
        lines.append(f"| {name} | " + " | ".join(f"{by_seed[seed]['abs_rel']:.4f}" for seed in seeds) + " |")
    if "clip" in scores:
        lines += [
            "",
            "clip is a small CLIP image encoder from random weights; no pretrained one of its size is public.",
        ]
    return "\n".join(lines) + "\n"


def run_ablation(
    config: FitConfig,
    output: Path,
    conditionings: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    markdown: Path,
    console: Console,
) -> None:
    """`ablation`, its table on the console and in the file `markdown`."""
    scores = ablation(config, output, conditionings, seeds, steps, console)
    if scores is None:
        console.print("stopped; run the same command again to go on")
        return
    text = ablation_markdown(scores, config, steps)
    write_whole(markdown, text)
    console.print(text, markup=False, highlight=False)


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        kept = {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
        return {name: kept[name] for name in ("steps", *METRICS)} | kept
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path}: not the result of a run ({error!r}); delete it and run the same command again"
        ) from error


def _share_latent_encoder(output: Path, conditionings: Sequence[str], seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = (output / f"{name}_{seed}" / LATENT_ENCODER for name in conditionings)
    source = next((path for path in made if path.is_file()), None)
    if source is not None and not (folder / LATENT_ENCODER).is_file():
        shutil.copyfile(source, folder / LATENT_ENCODER)


def _own_weights(config: FitConfig, conditioning: str) -> int:
    encoder = network_for(config.model_copy(update={"conditioning": conditioning})).semantic_encoder
    named = encoder.named_parameters()
    return sum(tensor.numel() for name, tensor in named if not name.startswith("backbone."))


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"
