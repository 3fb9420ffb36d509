"""The driver of latent paths: fractional Brownian motion of a fixed index, or of one that is learned."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..maths.fractional import MarkovApproximation
from ..maths.fractional_noise import motion
from .fractional_prior import LEAST, MOST


class FractionalMotion(nn.Module):
    """B of Var B(1) = 1 and one Hurst index, beginning with the path that it drives, in its Markov approximation.

    Args:
        hurst: the index, or where it starts.
        index: "fixed" or "learned"; 1/2 fixed is Brownian motion, exactly.
        horizon: longest time from the start of a path, in units of t.
        step: shortest time over which increments must be right, in units of t.
        speeds: processes of the approximation.

    Raises:
        ConfigError: X01 for numbers out of range.
    """

    def __init__(
        self,
        hurst: float,
        index: Literal["fixed", "learned"],
        horizon: float,
        step: float,
        speeds: int = 7,
    ):
        super().__init__()
        if not LEAST < hurst < MOST or not 0 < step <= horizon < math.inf or speeds < 2:
            raise ConfigError(
                "X01",
                f"a fractional motion got hurst={hurst}, horizon={horizon}, step={step}, speeds={speeds}",
                f"an index in ({LEAST}, {MOST}), 0 < step <= horizon, and two speeds at least",
                "Times are in the unit that the model sees, inside `Scaled` the median gap",
            )
        self.fixed, self.horizon, self.step, self.speeds = hurst, horizon, step, speeds
        raw = torch.tensor(math.log((hurst - LEAST) / (MOST - hurst)))
        self.raw = nn.Parameter(raw) if index == "learned" else None

    def hurst(self) -> Tensor | float:
        """H: a tensor () where it is learned."""
        if self.raw is None:
            return self.fixed
        return LEAST + (MOST - LEAST) * self.raw.double().sigmoid()

    def forward(self) -> MarkovApproximation:
        return motion(self.hurst(), self.horizon, self.step, speeds=self.speeds)
