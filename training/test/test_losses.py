"""The losses do what their names promise."""

import math

import pytest
import torch

from sem_depth_training.losses import (
    LossWeights,
    Target,
    distillation_loss,
    loss_terms,
    photometric_loss,
    total_loss,
)


def make_target(log_depth: torch.Tensor, dense: bool = True) -> Target:
    images = log_depth.shape[0]
    return Target(
        log_depth=log_depth,
        valid=torch.ones_like(log_depth, dtype=torch.bool),
        sky=torch.zeros_like(log_depth, dtype=torch.bool),
        dense=torch.full((images,), dense),
        far=torch.full((images,), math.log(120.0)),
    )


@pytest.fixture
def truth() -> torch.Tensor:
    return torch.rand(2, 16, 24, generator=torch.Generator().manual_seed(0)) * 3


def test_a_perfect_prediction_costs_nothing_but_the_scale(truth: torch.Tensor) -> None:
    terms = loss_terms(truth, torch.zeros_like(truth), make_target(truth))
    assert terms["l1"] == terms["gradient"] == 0
    assert terms["silog"].item() == pytest.approx(1e-3, abs=1e-6)  # the square root's epsilon
    assert terms["laplacian"].item() == pytest.approx(math.log(2))


def test_silog_forgives_most_of_a_common_factor_and_l1_none_of_it(truth: torch.Tensor) -> None:
    factor = math.log(1.5)
    terms = loss_terms(truth + factor, torch.zeros_like(truth), make_target(truth))
    assert terms["l1"].item() == pytest.approx(factor, rel=1e-4)
    assert terms["silog"].item() == pytest.approx(factor * math.sqrt(0.15), rel=1e-3)
    assert terms["gradient"].item() == pytest.approx(0, abs=1e-6)


def test_the_likelihood_is_best_at_the_true_scale_and_leaves_depth_alone(truth: torch.Tensor) -> None:
    prediction = (truth + 0.3).requires_grad_()
    costs = {
        scale: loss_terms(prediction, torch.full_like(truth, math.log(scale)), make_target(truth))["laplacian"]
        for scale in (0.15, 0.3, 0.6)
    }
    assert min(costs, key=lambda scale: costs[scale].item()) == 0.3
    log_scale = torch.full_like(truth, math.log(0.5)).requires_grad_()
    loss_terms(prediction, log_scale, make_target(truth))["laplacian"].backward()
    assert log_scale.grad is not None
    assert log_scale.grad.abs().sum() > 0
    assert prediction.grad is None or prediction.grad.abs().sum() == 0


def test_near_sky_is_pushed_away_and_far_sky_is_not(truth: torch.Tensor) -> None:
    target = make_target(truth)
    target.sky[:, :4] = True
    target.valid[:, :4] = False
    for depth, pushed in ((10.0, True), (150.0, False)):
        prediction = truth.clone()
        prediction[:, :4] = math.log(depth)
        prediction.requires_grad_()
        loss_terms(prediction, torch.zeros_like(truth), target)["sky"].backward()
        assert prediction.grad is not None
        assert bool((prediction.grad[:, :4] < 0).all()) == pushed
        assert (prediction.grad[:, 4:] == 0).all()


def test_unseen_tops_of_sparse_images_lose_their_certainty(truth: torch.Tensor) -> None:
    target = make_target(truth, dense=False)
    target.valid[:, :6] = False
    certain = torch.full_like(truth, -3.0).requires_grad_()
    loss_terms(truth, certain, target)["unseen"].backward()
    assert certain.grad is not None
    assert (certain.grad[:, :6] < 0).all()
    assert (certain.grad[:, 6:] == 0).all()


def test_images_without_any_depth_give_a_finite_loss(truth: torch.Tensor) -> None:
    target = make_target(truth)
    target.valid[:] = False
    prediction = truth.clone().requires_grad_()
    loss = total_loss(loss_terms(prediction, torch.zeros_like(truth), target), LossWeights())
    loss.backward()
    assert torch.isfinite(loss)
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_depth_goes_on_upward_where_nothing_was_measured(truth: torch.Tensor) -> None:
    target = make_target(truth, dense=False)
    target.valid[:, :6] = False
    prediction = truth.clone()
    prediction[:, :6] = truth[:, 6:7] - 1  # a near strip at the top
    prediction.requires_grad_()
    loss_terms(prediction, torch.zeros_like(truth), target)["upward"].backward()
    assert prediction.grad is not None
    assert (prediction.grad[:, 5] < 0).all()
    assert (prediction.grad[:, 6:] == 0).all()


def stereo_pair(shift: float, depth: float) -> torch.Tensor:
    """[1, 2, H, W, 3]: a pattern, and what a partner sees of it when all of it is at one depth."""
    columns = torch.arange(64, dtype=torch.float32)
    rows = torch.arange(16, dtype=torch.float32)[:, None]

    def pattern(u: torch.Tensor) -> torch.Tensor:
        return 127 + 60 * torch.sin(0.5 * u + 0.2 * rows) + 50 * torch.cos(0.23 * u - 0.4 * rows)

    images = torch.stack([pattern(columns), pattern(columns - shift / depth)])
    return images.round().to(torch.uint8)[None, ..., None].expand(-1, -1, -1, -1, 3)


@pytest.mark.parametrize("shift", [-60.0, 60.0])
def test_the_photometric_loss_is_least_at_the_true_depth(shift: float) -> None:
    pair = stereo_pair(shift, depth=12.0)
    ratio = torch.tensor([0.8])
    losses = {}
    for metres in (6.0, 9.0, 12.0, 15.0, 24.0):
        log_depth = torch.full((1, 16, 64), math.log(metres / 0.8))
        losses[metres] = photometric_loss(log_depth, ratio, pair, torch.tensor([shift])).item()
    assert min(losses, key=losses.__getitem__) == 12.0
    assert losses[12.0] < 0.1 * losses[6.0]


def test_a_frame_without_partner_has_no_photometric_loss() -> None:
    log_depth = torch.zeros(1, 16, 64, requires_grad=True)
    loss = photometric_loss(log_depth, torch.ones(1), stereo_pair(60.0, 12.0), torch.zeros(1))
    loss.backward()
    assert loss.item() == 0
    assert log_depth.grad is not None
    assert not log_depth.grad.any()


def test_distillation_measures_the_distance_to_the_teacher(truth: torch.Tensor) -> None:
    assert distillation_loss(truth, truth + 0.25).item() == pytest.approx(0.25)
