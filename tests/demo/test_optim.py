"""Muon, and the learning rate's course."""
from __future__ import annotations

import pytest
import torch

from model import Detector
from optim import HOLD, Muon, make_optimisers, orthogonalise, rate
from ymir_exc.integrations.torchrun import Budget


@pytest.mark.parametrize("shape", [(16, 144), (64, 64), (96, 24)])
def test_singular_values_come_close_to_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.1, 10, shape[1]))
    values = torch.linalg.svdvals(orthogonalise(matrix, 5))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_directions_are_kept():
    torch.manual_seed(0)
    matrix = torch.randn(8, 40)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonalise(matrix, 5).flatten(), (u @ v).flatten(), 0) > 0.98


def test_a_zero_gradient_changes_nothing():
    weight = torch.nn.Parameter(torch.ones(4, 3, 3, 3))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=1.0).step()
    assert torch.equal(weight, torch.ones_like(weight))


def test_muon_minimises():
    torch.manual_seed(0)
    weight, goal = torch.nn.Parameter(torch.zeros(8, 4, 3, 3)), torch.randn(8, 4, 3, 3)
    optimiser = Muon([weight], lr=0.2)
    for step in range(100):
        optimiser.param_groups[0]["lr"] = 0.2 * (1 - step / 100)
        optimiser.zero_grad()
        (weight - goal).pow(2).sum().backward()
        optimiser.step()
    assert (weight - goal).norm() < 0.2 * goal.norm()


def test_every_weight_has_one_optimiser():
    model = Detector(3)
    given = [id(weight) for optimiser in make_optimisers(model, 0.1) for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(given) == sorted(id(weight) for weight in model.parameters())


def test_the_rate_by_steps():
    budget = Budget(steps=100)
    rates = []
    for done in range(101):
        if done in (0, 20, int(100 * HOLD), 75, 100):
            rates.append(rate(budget))
        budget.advance()
    assert rates == pytest.approx([0.1, 1, 1, 0.5, 0])
