"""A user's own model in a module of the user's own."""

import torch
from torch import Tensor, nn

from tsdyn.batch import Paths
from tsdyn.models.base import Model


class Constant(Model):
    """x = value, always."""

    def __init__(self, dim: int = 1, options: dict[str, list[float]] | None = None):
        super().__init__()
        self.options = options
        self.value = nn.Parameter(torch.randn(dim))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return (want.x - self.value).square()[want.mask].mean()

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        return self.value.expand(n, *at.shape, -1)
