"""Muon: steps along orthogonalised gradients for matrices, AdamW's for everything else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, steepest at zero
MIN_RANK = 16  # smaller matrices (a classifier of seven emotions) are left to AdamW


class Muon(torch.optim.AdamW):
    """AdamW whose larger matrices step by the orthogonal factor of their momentum.

    A convolution counts as the matrix (channels out) x (channels in, kernel). The step is scaled to the root mean
    square of AdamW's, so that both parts share a learning rate, a weight decay and, as momentum, the first of
    ``betas``. After Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with the scale of Liu et al. 2025
    (arXiv 2502.16982); ``torch.optim.Muon`` takes matrices only, and no convolutions.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` as in any optimizer of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not is_matrix(parameter):
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # which AdamW expects of every state that it reads back
                    state["momentum"] = torch.zeros_like(parameter)
                state["step"] += 1
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["betas"][0])
                towards = parameter.grad.lerp(momentum, group["betas"][0]).flatten(1)
                step = orthogonalise(towards).view_as(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step, alpha=-0.2 * group["lr"] * max(towards.shape) ** 0.5)
                parameter.grad = None  # AdamW passes over what has no gradient
        super().step()
        return loss


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight is a matrix of at least 16 rows and columns."""
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) >= MIN_RANK


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return nearly the closest matrix (rows, columns) with singular values of one: they end between 0.7 and 1.2.

    Each step multiplies the matrix from the left by a polynomial of its Gram matrix, which it changes by the same one:
    the steps are taken on Gram matrices alone, never the larger side, and their product meets the matrix at the end.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(steps):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if is_tall else x
