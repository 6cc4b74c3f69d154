"""The arithmetic of single techniques and optimizers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smt.training.optimizers.cadam import CAdam
from smt.training.optimizers.shampoo import Shampoo, inverse_fourth_root
from smt.training.techniques.calibration import fit, fit_all
from smt.training.techniques.label_smoothing import LabelSmoothing
from smt.training.techniques.lr_schedule import LrSchedule
from smt.training.techniques.pairwise_loss import PairwiseLoss
from smt.training.techniques.pcgrad import project


def test_projected_gradients_no_longer_contradict() -> None:
    torch.manual_seed(1)
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    first, second = project([one, two])
    torch.testing.assert_close(first, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(second, torch.tensor([0.0, 1.0]))
    agreeing = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    assert all(torch.equal(a, b) for a, b in zip(project(agreeing), agreeing, strict=True))


def test_platt_scaling_finds_what_was_done_to_the_logits() -> None:
    random = np.random.default_rng(1)
    true = random.normal(0, 2, 200_000)
    labels = (random.random(len(true)) < 1 / (1 + np.exp(-true))).astype(np.float64)
    slope, offset = fit(labels, (true + 0.7) / 0.5)
    assert slope == pytest.approx(0.5, abs=0.02)
    assert offset == pytest.approx(-0.7, abs=0.03)


@pytest.mark.parametrize(
    ("labels", "logits"),
    [([], []), ([1.0, 1.0], [0.3, 0.5]), ([0.0, 1.0], [2.0, 2.0]), ([0.0, 0.0, 1.0, 1.0], [3.0, 2.0, 1.0, 0.0])],
)
def test_what_cannot_be_calibrated_is_left_alone(labels: list[float], logits: list[float]) -> None:
    assert fit(np.array(labels), np.array(logits)) == (1.0, 0.0)


def test_calibration_is_of_the_labelled_rows_of_all_processes() -> None:
    random = np.random.default_rng(2)
    probabilities = random.uniform(0.05, 0.95, (4000, 1)).astype(np.float32)
    labels = (random.random((4000, 1)) < probabilities**2).astype(np.float32)
    holes = np.concatenate([labels, np.full((50, 1), np.nan, np.float32)])
    padded = np.concatenate([probabilities, np.full((50, 1), 0.99, np.float32)])
    whole = fit_all([(holes, padded)])
    assert whole == fit_all([(holes[:700], padded[:700]), (holes[700:], padded[700:])])
    assert whole == fit_all([(labels, probabilities)])
    assert whole[0] != (1.0, 0.0)


def test_smoothing_keeps_the_label_rate() -> None:
    hook = LabelSmoothing(epsilon=0.1).hook()
    targets, labelled = torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.tensor([[True], [True], [True], [False]])
    smooth = hook.targets(targets, labelled, SimpleNamespace())  # type: ignore[arg-type]
    assert smooth[:3].mean() == pytest.approx(1 / 3)
    assert smooth[0] == pytest.approx(0.9 + 0.1 / 3)


def test_ranking_loss_falls_with_the_order_and_needs_both_labels() -> None:
    hook = PairwiseLoss(weight=1.0).hook()
    labels = torch.tensor([[1.0], [0.0], [float("nan")], [0.0]])
    none = torch.zeros(1)
    right = hook.losses(none, torch.tensor([[5.0], [-5.0], [9.0], [-5.0]]), labels)
    wrong = hook.losses(none, torch.tensor([[-5.0], [5.0], [9.0], [5.0]]), labels)
    assert right.item() == pytest.approx(np.log1p(np.exp(-10.0)), rel=1e-3)
    assert wrong.item() == pytest.approx(10.0, abs=1e-3)
    assert hook.losses(none, torch.zeros(4, 1), torch.zeros(4, 1)).item() == 0


def test_warm_up_rises_and_linear_decay_falls() -> None:
    hook = LrSchedule(warmup=0.1, decay="linear").hook()
    shares = [hook.lr_share(1.0, step, 100) for step in range(101)]
    assert shares[0] == pytest.approx(1 / 11)
    assert shares[:10] == sorted(shares[:10])
    assert shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[100] == pytest.approx(0.02)


def test_cadam_moves_only_where_momentum_and_gradient_agree() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = CAdam([{"params": [weight]}], lr=0.1)
    weight.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.1, -0.1]), rtol=1e-4, atol=1e-6)
    weight.grad = torch.tensor([1.0, -0.1])  # the second momentum is still positive
    before = weight.detach().clone()
    optimizer.step()
    assert weight[0] < before[0]
    assert weight[1] == before[1]


def test_inverse_fourth_root() -> None:
    torch.manual_seed(1)
    factor = torch.randn(3, 5, 5, dtype=torch.float64)
    matrix = factor @ factor.mT + 0.1 * torch.eye(5)
    root = inverse_fourth_root(matrix, epsilon=1e-12)
    torch.testing.assert_close(
        torch.linalg.matrix_power(root, 4) @ matrix, torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    )


def test_shampoo_steps_as_far_as_adam_and_gets_to_the_minimum() -> None:
    torch.manual_seed(2)
    target, scale = torch.randn(6, 4), torch.logspace(0, -1.5, 6).unsqueeze(1)
    ends = []
    for kind in (Shampoo, torch.optim.Adam):
        weight = torch.nn.Parameter(torch.zeros(6, 4))
        optimizer = kind([{"params": [weight]}], lr=0.02)
        lengths = []
        for _ in range(300):
            before = weight.detach().clone()
            loss = (scale * (weight - target)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lengths.append((weight.detach() - before).norm().item())
        ends.append((loss.item(), lengths[0]))
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)
    assert ends[0][0] < 1e-2
