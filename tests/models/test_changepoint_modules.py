"""Modules at their values are the functions, and a change that is there raises the evidence."""

import pytest
import torch

from tsdyn.batch import Paths
from tsdyn.errors import ConfigError
from tsdyn.maths import matern
from tsdyn.maths.changepoints import reset_at, switch_at
from tsdyn.maths.kernels import gram
from tsdyn.models.changepoints import ResetAt, SwitchAt
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import Constant, Matern

PAIRS = {ResetAt: reset_at, SwitchAt: switch_at}


@pytest.mark.parametrize("module", PAIRS)
def test_a_module_is_its_function_and_learns(module):
    t = torch.linspace(0, 4, 9).double()
    made = module([1.7], [Matern(1.5, 0.5), Matern(1.5, 2.0, 0.3)]).kernel()
    same = PAIRS[module]([1.7], [matern.matern(1.5, 0.5), matern.matern(1.5, 2.0, 0.3)])
    torch.testing.assert_close(gram(made, t, t), gram(same, t, t), rtol=1e-12, atol=1e-12)
    kernel = module([1.7], [Matern(1.5, 0.5), Matern(1.5, 2.0)])
    gram(kernel.kernel(), t, t).square().sum().backward()
    assert all(p.grad.abs() > 0 for p in kernel.parameters())


def test_a_break_in_the_level_is_seen():
    t = torch.linspace(0, 10, 100).double()[None]
    x = torch.where(t < 6, 0.0, 3.0)[..., None] + 0.1 * torch.randn(1, 100, 1).double()
    paths = Paths(t, x, torch.ones_like(x, dtype=torch.bool))
    evidence = [
        float(StateSpaceGP(1, kernel).fit(paths).evidence(paths).detach())
        for kernel in (Constant(), ResetAt([6.0], [Constant(), Constant()]))
    ]
    assert evidence[1] > evidence[0] + 50


def test_kernels_that_do_not_fit_are_refused_at_once():
    with pytest.raises(ConfigError) as raised:
        SwitchAt([1.0], [Matern(1.5), Matern(0.5)])
    assert raised.value.code == "TSD-X01"
