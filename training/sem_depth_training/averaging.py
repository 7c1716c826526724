"""Averages of a network's weights: over the steps of a run, and over several runs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages every floating-point tensor of `model`'s state; others are copied. The decay warms up with the steps.

    It is on the device that `model` is on when it is made.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.state[name])
                values.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the average `state`, on the device of the network."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


def mean_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several networks' weights, a model soup (Wortsman et al., arXiv 2203.05482).

    It is a good network where they were trained from the same weights. What is no floating-point number is the first's.
    """
    first = states[0]
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
