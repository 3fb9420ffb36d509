"""The state of a driven SDE: what it may depend on, and what it is where the equation is known."""

import pytest
import torch
from torch.nn.functional import softplus

from tsdyn.batch import Paths, take
from tsdyn.models import fields
from tsdyn.models.sde_encoder import SDEEncoder

KINDS = ["langevin", "linear_noise", "geometric", "neural", "ode"]


def series(n: int = 4, covariates: int = 0) -> Paths:
    g = torch.Generator().manual_seed(0)
    t = (0.02 + 0.06 * torch.rand(n, 20, generator=g)).cumsum(1)
    mask = torch.rand(n, 20, 2, generator=g) < 0.7
    mask[:, 0] = True
    x = torch.randn(n, 20, 2, generator=g)
    extra = torch.randn(n, 20, covariates, generator=g) if covariates else None
    return Paths(t, x, mask, covariates=extra)


@pytest.fixture
def no_noise(monkeypatch):
    real = fields.increments
    monkeypatch.setattr(fields, "increments", lambda *a: real(*a)._replace(dw=real(*a).dw * 0.0))


@pytest.mark.parametrize("mode", ["stable", "paper", "repo"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_takes_part_and_the_seed_decides(kind, mode):
    given = series(covariates=1)
    encoder = SDEEncoder(2, 8, kind, mode, points=6, draws=3, covariates=1)
    torch.manual_seed(1)
    z = encoder(given)
    assert z.shape == (3, 4, 8)
    torch.manual_seed(1)
    torch.testing.assert_close(encoder(given), z, rtol=0, atol=0)
    (z * torch.randn_like(z)).sum().backward()
    unread = {"field.observe", "field.join", "first"} if kind in ("neural", "ode") else set()
    for name, p in encoder.named_parameters():
        if mode == "repo" and name.rsplit(".", 1)[0] in unread - {"first"}:
            continue
        assert p.grad is not None and p.grad.isfinite().all(), name


@pytest.mark.parametrize("path", ["linear", "hermite", "natural"])
def test_what_was_not_observed_is_never_read_nor_are_empty_rows(path, no_noise):
    given, encoder = series(), SDEEncoder(2, 8, path=path)
    poisoned = given._replace(x=given.x.where(given.mask, torch.nan))
    torch.testing.assert_close(encoder(poisoned), encoder(given))
    middle = (given.t[:, 9:10] + given.t[:, 10:11]) / 2
    t = torch.cat([given.t[:, :10], middle, given.t[:, 10:]], 1)
    empty = torch.zeros(4, 1, 2)
    x = torch.cat([given.x[:, :10], empty + torch.nan, given.x[:, 10:]], 1)
    mask = torch.cat([given.mask[:, :10], empty.bool(), given.mask[:, 10:]], 1)
    torch.testing.assert_close(encoder(Paths(t, x, mask)), encoder(given), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_series_one_by_one(kind, no_noise):
    given = series()._replace(x=series().x.double(), t=series().t.double())
    encoder = SDEEncoder(2, 8, kind).double()
    alone = torch.cat([encoder(take(given, [b])) for b in range(4)], 1)
    torch.testing.assert_close(encoder(given), alone, rtol=0, atol=1e-9)


def test_without_drive_the_state_decays_at_its_rate(no_noise):
    """r = 0: z(t) = z0 exp(-kappa (t - t0)), before it is normalised."""
    given, encoder = series(), SDEEncoder(2, 8, "langevin")
    encoder.norm = torch.nn.Identity()
    for p in encoder.field.drift[-1].parameters():
        p.data.zero_()
    at = given.t[:, [3, 11, 19]]
    kappa = softplus(encoder.field.kappa)
    z0 = torch.tanh(encoder.first(given.x[:, 0]))
    exact = z0[:, None] * torch.exp(-kappa * (at - given.t[:, :1])[..., None])
    torch.testing.assert_close(encoder.along(given, at)[0], exact)


def test_the_state_at_a_time_looks_no_further_than_the_next_observation(no_noise):
    """A linear path leads to the next observation of each channel; later ones are not seen."""
    given, encoder = series(), SDEEncoder(2, 8, detail=2)
    given = given._replace(mask=torch.ones_like(given.mask))
    at = given.t[:, :10]
    later = given._replace(x=torch.where(torch.arange(20)[:, None] > 10, 9.0, given.x))
    torch.testing.assert_close(encoder.along(later, at), encoder.along(given, at))
    near = given._replace(x=torch.where(torch.arange(20)[:, None] == 8, 9.0, given.x))
    assert (encoder.along(near, at) - encoder.along(given, at)).abs().max() > 1e-3
