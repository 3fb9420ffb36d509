"""What a network that reads rates off paths is trained on: problems, their paths and what made them."""

from typing import NamedTuple

from torch import Tensor


class Problems(NamedTuple):
    """Numbers of problems: how many there are in an epoch is all that they say."""

    number: Tensor  # (N,)


class JumpData(NamedTuple):
    """Labels of K paths of each of M chains."""

    t: Tensor  # (M, K, L)
    state: Tensor  # (M, K, L)
    mask: Tensor  # (M, K, L)
    states: int


class JumpTargets(NamedTuple):
    """What made them."""

    rates: Tensor  # (M, n, n)
    initial: Tensor  # (M, n)
