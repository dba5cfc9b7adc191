"""Muon for weight matrices and kernels, AdamW for everything else, and the learning rate's course.

Muon (Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that every direction of the
matrix learns at the same pace. From scratch and with few images that takes a fraction of the steps that AdamW takes.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ymir_exc.integrations.torchrun import Budget

HOLD = 0.5    # fraction of the training at the full learning rate; then it falls linearly to zero
WARM_UP_STEPS = 10


def orthogonalise(matrix: Tensor, steps: int = 3) -> Tensor:
    """Nearly the nearest orthogonal matrix: Newton-Schulz steps bring the singular values of `(m, n)` towards 1.

    Five would bring nearly all into 0.7 to 1.2; three train as well. Each multiplies by a polynomial of x x^T. Such polynomials commute, so
    they are worked out on the small square alone.
    """
    x = (matrix.T if matrix.shape[0] > matrix.shape[1] else matrix) / (matrix.norm() + 1e-7)
    gram, product = x @ x.T, None
    for left in reversed(range(steps)):
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor if left else gram
    made: Tensor = x if product is None else product @ x
    return made.T if matrix.shape[0] > matrix.shape[1] else made


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised as a matrix of `(out, in * kernel area)`."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.85) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:    # type: ignore[override]    # noqa: ARG002 - the base class's signature
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight)).lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"]).flatten(1)
                scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                weight.add_(orthogonalise(ahead).view_as(weight), alpha=-group["lr"] * scale)


def make_optimisers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for all that turns features into features; AdamW at a tenth of the rate for the last layers, biases and normalisation."""
    inner = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "_last" not in name]
    rest = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or "_last" in name]
    return [Muon(inner, learning_rate), torch.optim.AdamW(rest, learning_rate / 10, betas=(0.9, 0.99), weight_decay=0.0,
                                                           fused=True)]


def rate(budget: Budget) -> float:
    """What the learning rates are multiplied with, 0..1."""
    return min(1.0, (1 - budget.used) / (1 - HOLD), (budget.step + 1) / WARM_UP_STEPS)
