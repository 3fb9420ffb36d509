import math

import pytest
import torch
from torch import Tensor

from tsdyn.maths.half_bridge import along, euler, fit, half_bridges, mean, reversed_drift

STEP, SIGMA = 0.1, 0.5


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_the_drift_is_that_of_an_explicit_inverse() -> None:
    x, t, v = normal(200, 3), torch.rand(200, generator=seeded(1)).double(), normal(200, 3, seed=2)
    process = fit(x, t, v, SIGMA, STEP)
    at, now = normal(11, 3, seed=3), torch.tensor(0.4, dtype=torch.float64)
    z = torch.cat([x, t[:, None]], 1)
    q = torch.cat([at, now.expand(11, 1)], 1)
    far = (z[:, None] - z).norm(dim=-1)
    K = torch.exp(-far) / STEP + (SIGMA**2 / STEP + 1e-6) * torch.eye(200)
    want = torch.exp(-(q[:, None] - z).norm(dim=-1)) / STEP @ (K.inverse() @ v)
    assert (
        mean(process, at, now) - want
    ).abs().max() < 1e-6  # distances of n points by one product round to 1e-8


def test_paths_without_noise_are_those_of_euler() -> None:
    t, paths = euler(lambda x, _: -x, normal(3, 2), 1.0, 0.25, 0.0)
    torch.testing.assert_close(paths[:, -1], paths[:, 0] * 0.75**4)
    torch.testing.assert_close(t, torch.linspace(0, 1, 5).double())
    assert len(euler(lambda x, _: x, normal(1, 1), 1.0, 0.3, 0.0)[0]) == 5  # rounded up


def test_reversed_drift_of_straight_paths_runs_back() -> None:
    """Enough rows, and the regression finds the velocity -1 of reversed paths that go forward with 1."""
    t = torch.linspace(0, 1, 11).double()
    x = torch.linspace(-1, 1, 30).double()[:, None, None] + t[:, None]
    back = reversed_drift(t, x, sigma=0.05)
    found = mean(back, torch.tensor([[0.5]]).double(), torch.tensor(0.5).double())
    assert abs(float(found) + 1) < 0.05


@pytest.mark.parametrize("iterations", [4])
def test_bridge_between_two_gaussians_arrives(iterations: int) -> None:
    """Marginals at both ends, of paths under the drifts that were fitted: means within the standard error and
    what a regression of 100 paths of 20 steps leaves."""
    n = 100
    x, y = 0.2 * normal(n, 1) - 1, 0.4 * normal(n, 1, seed=1) + 1
    found = half_bridges(
        lambda z, _: 0 * z,
        x,
        y,
        1.0,
        step=0.05,
        sigma=1.0,
        iterations=iterations,
        generator=seeded(2),
    )
    for drift, start, end in ((found.forward, x, y), (found.backward, y, x)):
        _, paths = euler(along(drift), start.repeat(20, 1), 1.0, 0.05, 1.0, seeded(3))
        arrived = paths[:, -1]
        assert abs(float(arrived.mean() - end.mean())) < 3 * float(end.std()) / math.sqrt(n) + 0.1
        assert abs(float(arrived.std() - end.std())) < 0.15
