"""The published equations, written out as they stand in the code of the paper, against ours folded."""

import math

import pytest
import torch
from torch import Tensor

from tsdyn.maths.grid import grid
from tsdyn.maths.steps import Noise
from tsdyn.models.fields import PublishedField, field, follow

C, H, B, N = 3, 5, 4, 2
KINDS = ["langevin", "linear_noise", "geometric", "neural", "ode"]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def published(f: PublishedField, t: float, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Drift and diffusion at one time, one layer after the other, nothing folded."""
    tau = torch.tensor([math.sin(t), math.cos(t)]).expand(len(z), 2)
    u = f.enter(torch.cat([tau, z], -1) if f.timed else z)
    if f.driven:
        u = f.join(torch.cat([u, f.observe(x)], -1))
    for layer in f.drift:
        u = layer(u)
    if f.kind == "geometric":
        u = u * (torch.tanh(z) if f.gate == "tanh" else 1 - torch.sigmoid(z))
    if f.kind == "ode":
        return torch.tanh(u), torch.zeros_like(z)
    seen = torch.cat([tau, z], -1) if f.kind == "neural" else tau
    noise = f.volatility(seen).relu()
    if f.timed:
        noise = noise * z
    return torch.tanh(u), torch.tanh(torch.sigmoid(f.theta) * noise)


@pytest.mark.parametrize("gate", ["tanh", "one_minus_sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_published_equation(kind, gate):
    f = PublishedField(C, H, kind, depth=3, gate=gate)
    z, x, dw, h = torch.randn(B, H), torch.randn(N, B, C), torch.randn(N, B, H), 0.7
    t = torch.tensor([0.0, h]).view(N, 1, 1)
    step = f.step()
    u = f.controls(x, t.expand(N, B, 1))
    prepared = step.prepare(t, torch.full((N, 1, 1), h), Noise(dw, None), *u)
    for k in range(N):
        drift, diffusion = published(f, float(t[k]), z, x[k])
        after = step.advance(t[k], z, tuple(c[k] for c in u), *(p[k] for p in prepared))
        torch.testing.assert_close(after, z + drift * h + diffusion * dw[k], rtol=0, atol=1e-12)
        z = after


def test_the_published_geometric_kind_keeps_neither_zero_nor_sign():
    """f(0) = 0 with the gate tanh z, and does not vanish with the gate 1 - sigmoid z."""
    zero, x = torch.zeros(B, H), torch.randn(B, C)
    kept, _ = published(PublishedField(C, H, "geometric"), 0.0, zero, x)
    lost, _ = published(PublishedField(C, H, "geometric", gate="one_minus_sigmoid"), 0.0, zero, x)
    assert not kept.any() and lost.abs().min() > 0


@pytest.mark.parametrize("mode", ["stable", "paper", "repo"])
@pytest.mark.parametrize("kind", KINDS)
def test_n_paths_follow_the_control_of_their_own_series(kind, mode):
    """A series gives the same paths whatever stands beside it; without noise all its n paths agree."""
    f = field(kind, mode, C, H)
    for name, p in f.named_parameters():
        if name.startswith(("volatility", "diffusion")):
            p.data.mul_(0.0)
            if name.endswith("bias"):
                p.data.fill_(-60.0)  # sigma at its lower bound, .001
    t = torch.tensor([[0.0, 1.0, 2.5], [0.0, 0.5, 0.7]])
    steps, begin, x = grid(t[:, 1:], t0=t[:, 0]), t[:, 0], torch.randn(2, 2, C)
    z0 = f.start(torch.randn(2, H))
    z = follow(f, z0, x, steps, begin, 3)
    assert z.shape == (3, 2, 2, H)
    one = grid(t[1:, 1:], t0=t[1:, 0])
    alone = follow(f, z0[1:], x[:, 1:], one, begin[1:], 1)
    noise = 0.0 if mode == "repo" or kind == "ode" else 0.05  # 10 standard deviations of .005
    torch.testing.assert_close(z[:, 1:], alone.expand(3, -1, -1, -1), rtol=0, atol=1e-9 + noise)
