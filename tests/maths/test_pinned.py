import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from tsdyn.maths.pinned import draw, pinned, scale

KNOTS = torch.tensor([1.0, 1.5, 3.0, 4.0, 4.2], dtype=torch.float64)


def test_the_mean_is_the_natural_cubic_spline() -> None:
    x = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.4], dtype=torch.float64)
    t = torch.linspace(1.0, 4.2, 33, dtype=torch.float64)
    want = CubicSpline(KNOTS.numpy(), x.numpy(), bc_type="natural")(t.numpy())
    np.testing.assert_allclose((pinned(KNOTS, t).weights @ x).numpy(), want, atol=1e-11)


def test_the_variance_of_one_gap_is_known() -> None:
    """Between two pins and with a free slope at both: q u² v² / (3 (u + v))."""
    knots = torch.tensor([0.0, 2.0], dtype=torch.float64)
    t = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    found = pinned(knots, t).cov.diagonal()
    u, v = t, 2 - t
    torch.testing.assert_close(found, u**2 * v**2 / (3 * (u + v)), atol=1e-12, rtol=0)


def test_draws_have_the_law_and_a_continuous_velocity() -> None:
    x = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.4], dtype=torch.float64)
    h = 1e-3
    t = torch.tensor([2.0, 3.0 - h, 3.0, 3.0 + h], dtype=torch.float64)
    law = pinned(KNOTS, t)
    n = 20_000
    q = torch.tensor(0.7).double()
    paths = draw(law, x.expand(n, -1)[..., None], q, torch.Generator().manual_seed(0))[..., 0]
    var = float(q * law.cov[0, 0])
    assert abs(float(paths[:, 0].var()) - var) < 4 * var * math.sqrt(2 / n)
    assert (paths[:, 2] - 2.0).abs().max() < 1e-5  # at the knot, to the root of rounding
    turn = (paths[:, 3] - 2 * paths[:, 2] + paths[:, 1]) / h  # change of velocity
    assert (
        float(turn.abs().max()) < 0.5 and float((paths[:, 3] - paths[:, 2]).abs().mean()) > 0.2 * h
    )


def test_the_scale_is_found() -> None:
    q, n = 0.3, 4000
    g = torch.Generator().manual_seed(1)
    knots = torch.linspace(0, 3, 7, dtype=torch.float64)
    dt = 0.5
    state = torch.zeros(n, 2, dtype=torch.float64)
    block = torch.tensor([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]], dtype=torch.float64)
    root, points = torch.linalg.cholesky(q * block), [state[:, 0]]
    for _ in range(6):
        kick = torch.randn(n, 2, generator=g, dtype=torch.float64) @ root.mT
        state = torch.stack([state[:, 0] + dt * state[:, 1], state[:, 1]], 1) + kick
        points.append(state[:, 0])
    x = torch.stack(points, 1)[..., None]
    assert abs(float(scale(pinned(knots, knots), x)) / q - 1) < 4 * math.sqrt(2 / (5 * n))


@pytest.mark.parametrize("count", [2, 3])
def test_few_pins_suffice(count: int) -> None:
    knots = KNOTS[:count]
    law = pinned(knots, knots)
    line = 2 * knots - 1
    torch.testing.assert_close(law.weights @ line, line)
    assert scale(law, line[None, :, None]).abs() < 1e-10
