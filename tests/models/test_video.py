"""Videos of a moving digit: latent models with Brownian and with fractional noise, against what needs no model."""

import math
import time

import pytest
import torch
from torch.nn.functional import softplus

from tsdyn.batch import take
from tsdyn.data.moving_digits import MovingDigits
from tsdyn.data.tasks import Forecasting
from tsdyn.models.fractional_prior import scale
from tsdyn.models.latent_fractional_sde import LatentFractionalSDE
from tsdyn.models.latent_parts import VideoDecoder, VideoEncoder

SIZE, FRAMES, DT, STEPS = 16, 16, 0.1, 300
PUSHED = {"impulses": 0.4, "hurst": 0.8, "bounce": "mirror", "speed": 0.2}
NOISES = {"brownian": {"index": "fixed"}, "fractional": {"hurst": 0.51}}


def videos(n, seed):
    """Of one digit that fractional noise pushes about."""
    return MovingDigits(n=n, frames=FRAMES, size=SIZE, digits=1, dt=DT, seed=seed, **PUSHED)()


def trained(noise, seed=0):
    torch.manual_seed(seed)
    train, task = videos(512, 100 + seed), Forecasting(steps=5)
    model = LatentFractionalSDE(
        VideoEncoder(SIZE, 4, 16, channels=8),
        VideoDecoder(SIZE, 4, 16, channels=8),
        hidden=32,
        horizon=(FRAMES - 1) * DT,
        step=DT,
        speeds=5,
        draws=1,
        **NOISES[noise],
    )
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.loss(*task(take(train, torch.randint(512, (16,))))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return model.eval()


def static_density(x):
    """log p of each video on average, all pixels N(its own mean frame, one variance): flattered, the mean costs nothing."""
    variance = (x - x.mean(1, keepdim=True)).square().mean()
    return -x[0].numel() / 2 * (math.log(2 * math.pi * float(variance)) + 1)


def prior_mean(prior, x, t):
    """Where Heun's step of length DT goes from x without noise, in an equation without memory."""
    kappa = softplus(prior.kappa)
    fade = torch.exp(-kappa * DT)
    residual = prior.equation().residual
    clock = torch.full((1, 1), t)
    now = residual(clock, x) * (1 - fade) / kappa
    return fade * x + (now + residual(clock + DT, fade * x + now) * (1 - fade) / kappa) / 2


def no_noise(*size, generator=None, **options):
    return torch.zeros(*size, **options)


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_a_video_is_explained_shown_again_and_continued(noise, monkeypatch):
    """300 steps of 16 videos each; judged on 64 others. Some minutes; which noise is better is printed, not asserted."""
    began = time.process_time()
    model, test = trained(noise), videos(64, 999)
    spent = time.process_time() - began
    with torch.no_grad():
        many = torch.stack([model.evidence(test).mean() for _ in range(8)])
        shown = model.sample(test, test.t, 8).mean(0)
    still = test.x.mean(1, keepdim=True)
    error, from_still, from_previous = (
        float((a - b).square().mean())
        for a, b in ((shown, test.x), (still, test.x), (test.x[:, 1:], test.x[:, :-1]))
    )
    static = static_density(test.x)
    print(
        f"\n{noise}: ELBO {many.mean():.0f} nats per video ({static:.0f} of a still one), squared error {error:.5f} "
        f"(mean frame {from_still:.5f}, previous frame {from_previous:.5f}), H {model.hurst().tolist()}, "
        f"pixel noise {scale(model.decoder.log_noise):.3f}, {spent:.0f} s of CPU"
    )
    assert many.mean() - 4 * many.std() / math.sqrt(8) > static + 500
    assert error < 0.8 * min(from_still, from_previous)

    given, want = Forecasting(steps=5)(test)
    blank = test._replace(mask=test.mask & (test.t <= given.t.amax(1, keepdim=True))[..., None])
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch, "randn", no_noise)
        alone, more = model.paths(given, 1)[0], model.paths(blank, 1)[0]
        x = more.x
        torch.testing.assert_close(more.divergence, alone.divergence, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(x[:, :, : given.t.shape[1]], alone.x, rtol=1e-4, atol=1e-4)
        if noise == "brownian":  # with memory the next step depends on more than x
            for k in range(given.t.shape[1] - 1, FRAMES - 1):
                after = prior_mean(model.prior, x[:, :, k], k * DT)
                torch.testing.assert_close(x[:, :, k + 1], after, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        ahead = model.sample(given, want.t, 8).mean(0)
    last = given.x[:, -1:]
    assert (ahead - want.x).square().mean() < 0.9 * (last - want.x).square().mean()
