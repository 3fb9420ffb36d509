"""Oracles: the laws of scipy, and the steps of the ladder."""

import pytest
import scipy.stats
import torch

from tsdyn.maths.draws import choose, exponential, poisson, uniform


def test_laws():
    like = torch.zeros(20_000, dtype=torch.float64)
    assert scipy.stats.kstest(uniform(like), "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(exponential(like), "expon").pvalue > 1e-4
    counts = torch.bincount(poisson(like + 4.0).long(), minlength=20)[:13]
    expected = 20_000 * torch.as_tensor(scipy.stats.poisson(4).pmf(range(13)))
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert scipy.stats.chi2(13).sf(float(chi2)) > 1e-4


def test_choices_follow_the_steps():
    """Weights of any size; a step of zero is never chosen, also at the end."""
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0], [1e-9, 1e-9, 2e-9, 0.0, 0.0]])
    ladder = weights.double().cumsum(-1)
    K = 20_000
    chosen = choose(ladder[:, None].expand(2, K, 5))
    found = torch.nn.functional.one_hot(chosen, 5).double().mean(1)
    p = weights.double() / weights.double().sum(-1, keepdim=True)
    assert ((found - p).abs() <= 5 * (p * (1 - p) / K).sqrt()).all()
    assert (choose(torch.zeros(3, 5)) == 5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_greatest_uniform_chooses_no_empty_step(dtype, monkeypatch):
    """Just below one, times any top, is below the top."""
    greatest = 1 - torch.finfo(dtype).eps / 2
    monkeypatch.setattr(
        "tsdyn.maths.draws.uniform", lambda like, generator: torch.full_like(like, greatest)
    )
    top = torch.rand(10_000, 1, dtype=dtype) * 10
    assert (choose(top * torch.tensor([0.5, 1.0, 1.0], dtype=dtype)) == 1).all()


@pytest.mark.parametrize("draw", [uniform, exponential, lambda x, g: poisson(x + 3, g)])
def test_a_generator_of_the_cpu_gives_the_same_everywhere(draw, device):
    like = torch.zeros(7, 3)
    here, there = (
        draw(like.to(where), torch.Generator().manual_seed(5)) for where in ("cpu", device)
    )
    assert there.device.type == device and torch.equal(here, there.cpu())
