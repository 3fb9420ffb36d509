"""Oracles: the same times as rows of the chain without observation, and a dense Gaussian process."""

import pytest
import torch

from tests.maths.chains import covariance32, irregular, matern32, step32
from tsdyn.maths.interpolation import interpolate
from tsdyn.maths.kalman import LinearGaussian, Sites, messages, smoothed
from tsdyn.maths.observations import observe


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def step(start, end):
    return step32(end - start, torch.tensor(0.7), torch.tensor(1.3))


def problem(*batch: int):
    N = 60
    t = irregular(*batch, N)
    t[..., 20] = t[..., 19]
    y, mask = torch.sin(t), torch.rand(*batch, N) < 0.7
    chain = matern32(t, 0.7, 1.3)
    return t, y, mask, chain, seen(y, mask)


def seen(y, mask) -> Sites:
    return observe(torch.eye(2)[:1], torch.tensor(0.01), y[..., None], mask[..., None])


def around(t, count: int = 80):
    """Times before, between, at and behind those of the rows, in any order."""
    first, last = t[..., :1], t[..., -1:]
    inside = first + (last - first) * torch.rand(*t.shape[:-1], count)
    outside = [first - 0.3, first - 30, last + 0.2, last + 30]
    at = torch.cat([inside, *outside, t], -1)
    return at[..., torch.randperm(at.shape[-1])]


def test_off_the_chain_is_a_row_without_observation():
    t, y, mask, chain, sites = problem()
    at = around(t)
    found = interpolate(messages(chain, sites), t, at, step)
    every, order = torch.cat([t, at]).sort(stable=True)
    all_y = torch.cat([y, torch.zeros_like(at)])[order]
    all_seen = torch.cat([mask, torch.zeros_like(at) > 0])[order]
    after = smoothed(matern32(every, 0.7, 1.3), seen(all_y, all_seen))
    place = torch.argsort(order)[len(t) :]
    torch.testing.assert_close(found.mean, after.mean[place], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.cov, after.cov[place], rtol=1e-12, atol=1e-12)


def test_a_gaussian_process_between_and_outside():
    t, y, mask, chain, sites = problem()
    at = around(t)
    found = interpolate(messages(chain, sites), t, at, step)
    K = covariance32(t[mask], t[mask], 0.7, 1.3) + 0.01 * torch.eye(int(mask.sum()))
    gain = torch.linalg.solve(K, covariance32(t[mask], at, 0.7, 1.3)).mT
    after = covariance32(at, at, 0.7, 1.3) - gain @ covariance32(t[mask], at, 0.7, 1.3)
    torch.testing.assert_close(found.mean[:, 0], gain @ y[mask], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.cov[:, 0, 0], after.diagonal(), rtol=1e-11, atol=1e-11)
    assert (found.cov.diagonal(dim1=-2, dim2=-1) >= 0).all()


def test_far_away_is_the_prior():
    t, _, _, chain, sites = problem()
    found = interpolate(messages(chain, sites), t, torch.stack([t[0] - 50, t[-1] + 50]), step)
    torch.testing.assert_close(found.mean, torch.zeros(2, 2))
    torch.testing.assert_close(found.cov, chain.P0.expand(2, 2, 2))


def test_at_the_rows_it_is_the_smoother():
    t, _, _, chain, sites = problem()
    found, after = interpolate(messages(chain, sites), t, t, step), smoothed(chain, sites)
    torch.testing.assert_close(found.mean, after.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.cov, after.cov, rtol=1e-12, atol=1e-12)


def test_no_variance_is_negative_next_to_sharp_observations():
    t = irregular(300)
    sites = observe(torch.eye(2)[:1], torch.tensor(1e-12), torch.sin(t)[:, None])
    found = interpolate(messages(matern32(t, 0.7, 1.3), sites), t, around(t, 1000), step)
    assert (found.cov.diagonal(dim1=-2, dim2=-1) >= 0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_series_of_their_own(shared):
    """Each series with its clock, or one clock with data of each; queries of each."""
    t, y, mask, chain, sites = problem(3)
    if shared:
        t, mask = t[0], mask[0]
        chain, sites = matern32(t, 0.7, 1.3), seen(y, mask)
    at = around(t.expand(3, -1))
    found = interpolate(messages(chain, sites), t, at, step)
    assert found.cov.shape == (*at.shape, 2, 2)
    for i in range(3):
        clock, hole = (t, mask) if shared else (t[i], mask[i])
        known = messages(matern32(clock, 0.7, 1.3), seen(y[i], hole))
        alone = interpolate(known, clock, at[i], step)
        torch.testing.assert_close(found.mean[i], alone.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.cov[i], alone.cov, rtol=1e-12, atol=1e-12)


def test_a_process_that_drifts_from_its_start():
    """dx = 2 dt + dW from x(-1) ~ N(3, 0.5): neither stationary nor of mean zero."""
    law = lambda at: ((3 + 2 * (at + 1))[..., None], (0.5 + at + 1)[..., None, None])
    move = lambda a, b: (torch.ones_like(a)[..., None, None], (b - a)[..., None, None])
    drift = lambda a, b: 2 * (b - a)[..., None]

    def chain(t):
        before = torch.cat([t[:1], t[:-1]])
        m0, P0 = law(t[:1])
        return LinearGaussian(*move(before, t), P0[0], m0[0], drift(before, t))

    def look(y, mask):
        return observe(torch.ones(1, 1), torch.tensor(0.1), y[:, None], mask[:, None])

    t, at = irregular(20), torch.tensor([-0.9, -0.3, 0.5, 0.9, 7.0])
    y = 5 + 2 * t
    found = interpolate(messages(chain(t), look(y, torch.ones(20) > 0)), t, at, move, law, drift)
    every, order = torch.cat([t, at]).sort(stable=True)
    sites = look(torch.cat([y, torch.zeros(5)])[order], (torch.arange(25) < 20)[order])
    after, place = smoothed(chain(every), sites), torch.argsort(order)[20:]
    torch.testing.assert_close(found.mean, after.mean[place], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.cov, after.cov[place], rtol=1e-12, atol=1e-12)


def test_gradients():
    t = irregular(8)
    y, mask, at = torch.sin(t), torch.rand(8) < 0.7, around(t, 3)

    def read(lengthscale, variance, noise):
        chain = matern32(t, lengthscale, variance)
        sites = observe(torch.eye(2)[:1], noise, y[:, None], mask[:, None])
        move = lambda a, b: step32(b - a, lengthscale, variance)
        return tuple(interpolate(messages(chain, sites), t, at, move))

    theta = [torch.tensor(v, requires_grad=True) for v in (0.7, 1.3, 0.1)]
    assert torch.autograd.gradcheck(read, theta)
