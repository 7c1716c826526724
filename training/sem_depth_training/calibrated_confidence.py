"""Confidence made to hold on frames that were not trained on.

A network is nearly right on what it was trained on and learns to say so; elsewhere it then claims too much. As with
temperature scaling (Guo et al., arXiv 1706.04599), one number fitted on other frames mends the claim, and what is more
and what is less certain stays so.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from sem_depth_node.metrics import evaluation_mask
from sem_depth_node.validity import CONFIDENCE_FACTOR
from sem_depth_training.checkpoint import TrainingError
from sem_depth_training.data.frames import Frame
from sem_depth_training.evaluate import network_predictor, nothing_to_compare
from sem_depth_training.models.depth_decoder import DepthDecoder
from sem_depth_training.models.depth_network import DepthNetwork

LARGEST_SHIFT = 8.0
"""Of the head's logit, whose sigmoid spans the scales: beyond it every scale is one end of the range."""


def calibrate_confidence(
    network: DepthNetwork, frames: Sequence[Frame], size: tuple[int, int], console: Console
) -> None:
    """Shift the bias of the network's scale, in place, so that mean confidence is the share of depth within 10 %.

    Args:
        network: whose decoder's head is shifted.
        frames: with measured depth, none of them trained on; the mean is over all their pixels, of any row.
        size: input size, (height, width).
        console: is told of the progress, and of mean confidence before and after.

    Raises:
        TrainingError: nothing is measured, or so little or so much of the depth is within 10 % that no scale of the
            network states it.
    """
    predict = network_predictor(network, size)
    stated, right = [], []
    for frame in track(frames, "calibrating confidence", console=console):
        truth = frame.read_depth()
        prediction = predict(frame.read_image(), frame.camera)
        mask = evaluation_mask(truth, crop="none") & np.isfinite(prediction.depth)
        stated.append(prediction.confidence[mask].astype(np.float64))
        right.append(np.abs(np.log(prediction.depth[mask] / truth[mask])) <= math.log(CONFIDENCE_FACTOR))
    if not sum(map(len, stated)):
        raise TrainingError(f"{nothing_to_compare(frames)}, to calibrate confidence by")
    confidence, share = np.concatenate(stated), float(np.concatenate(right).mean())
    decoder = network.decoder
    assert isinstance(decoder, DepthDecoder)
    shift = shift_to_mean(confidence, share, decoder.log_scale_range)
    assert decoder.head.bias is not None
    decoder.head.bias.data[1] += shift
    console.print(
        f"confidence over {len(frames)} frames: {share:.1%} of the pixels are right within 10 %, "
        f"{confidence.mean():.1%} were stated; the logit of the scale is shifted by {shift:+.3f}"
    )


def shift_to_mean(confidence: NDArray[np.float64], mean: float, log_scale_range: tuple[float, float]) -> float:
    """What to add to the logits of the scale, log b = low + (high - low) * sigmoid(logit), so that their confidence,
    1 - exp(-log(1.1) / b), has this mean.

    Raises:
        TrainingError: a shift of up to `LARGEST_SHIFT` does not reach it.
    """
    low, high = log_scale_range
    eps = 1e-6
    log_scale = np.log(-math.log(CONFIDENCE_FACTOR) / np.log1p(-np.clip(confidence, eps, 1 - eps)))
    place = np.clip((log_scale - low) / (high - low), eps, 1 - eps)
    logit = np.log(place / (1 - place))

    def mean_after(shift: float) -> float:
        scale = np.exp(low + (high - low) / (1 + np.exp(-(logit + shift))))
        return float(np.mean(-np.expm1(-math.log(CONFIDENCE_FACTOR) / scale)))

    below, above = -LARGEST_SHIFT, LARGEST_SHIFT  # confidence falls as the scale grows
    if not mean_after(above) <= mean <= mean_after(below):
        raise TrainingError(
            f"confidence cannot be calibrated: depth is within 10 % at {mean:.1%} of the pixels, "
            f"and scales within {low}..{high} state {mean_after(above):.1%} to {mean_after(below):.1%}"
        )
    for _ in range(40):
        middle = (below + above) / 2
        below, above = (middle, above) if mean_after(middle) > mean else (below, middle)
    return (below + above) / 2
