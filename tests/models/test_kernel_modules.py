"""Each module is its function at the values it was given, and passes gradients to all it learns."""

import math

import pytest
import torch
from jsonargparse import ArgumentParser

from tsdyn.errors import ConfigError
from tsdyn.io import load, save
from tsdyn.maths import matern, oscillator, periodic, squared_exponential, trend
from tsdyn.maths.kernels import add, gram, multiply
from tsdyn.models.base import Model
from tsdyn.models.kernels import (
    Constant,
    Coregionalized,
    Cosine,
    IntegratedWiener,
    LearnedKernel,
    Linear,
    Matern,
    Oscillator,
    Periodic,
    Product,
    QuasiPeriodic,
    SquaredExponential,
    Sum,
    Wiener,
)

CASES = {
    "Matern": (Matern(2.5, 0.7, 1.3), matern.matern(2.5, 0.7, 1.3)),
    "SquaredExponential": (
        SquaredExponential(0.7, 1.3, 4),
        squared_exponential.squared_exponential(0.7, 1.3, 4),
    ),
    "Periodic": (Periodic(0.7, 0.9, 1.3), periodic.periodic(0.7, 0.9, 1.3)),
    "QuasiPeriodic": (
        QuasiPeriodic(0.7, 0.9, 3.0, 1.3, 0.5, 5),
        periodic.quasi_periodic(0.7, 0.9, 3.0, 1.3, 0.5, 5),
    ),
    "Cosine": (Cosine(0.9, 1.3), periodic.cosine(2 * math.pi / 0.9, 1.3)),
    "Constant": (Constant(1.3), trend.constant(1.3)),
    "Linear": (Linear(1.3, 0.4), trend.linear(1.3, 0.4)),
    "Wiener": (Wiener(1.3, 0.2, -1.0), trend.wiener(1.3, 0.2, -1.0)),
    "IntegratedWiener": (
        IntegratedWiener(1.3, 0.2, 0.3, -1.0),
        trend.integrated_wiener(1.3, 0.2, 0.3, -1.0),
    ),
    "Oscillator": (
        Oscillator(0.9, 3.0, 1.3),
        oscillator.oscillator(2 * math.pi / 0.9, 3.0, 1.3),
    ),
    "Sum": (
        Sum([Matern(0.5, 0.7), Linear(1.3)]),
        add(matern.matern(0.5, 0.7), trend.linear(1.3)),
    ),
    "Product": (
        Product([Matern(0.5, 0.7), Linear(1.3), Cosine(0.9)]),
        multiply(
            multiply(matern.matern(0.5, 0.7), trend.linear(1.3)),
            periodic.cosine(2 * math.pi / 0.9),
        ),
    ),
}
T = torch.linspace(0, 3, 12, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_modules_are_their_functions(name):
    module, function = CASES[name]
    torch.testing.assert_close(
        gram(module.kernel(), T, T), gram(function, T, T), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_what_is_learned_and_nothing_else(name):
    module = CASES[name][0]
    module.zero_grad()
    weights = torch.randn(12, 12, dtype=torch.float64)
    (gram(module.kernel(), T, T)[..., 0, 0] * weights).sum().backward()
    for parameter in module.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert parameter.grad is None or (parameter.grad.isfinite().all() and parameter.grad.any())
    fixed = [n for n, p in module.named_parameters() if not p.requires_grad]
    assert all("period" in n for n in fixed)


def test_what_is_fixed_is_the_users_choice():
    assert Periodic(fixed=()).log_period.requires_grad
    module = Matern(fixed=["variance"])
    assert module.log_lengthscale.requires_grad and not module.log_variance.requires_grad
    with pytest.raises(ConfigError, match=r"TSD-X01.*lengthscale"):
        Matern(fixed=["lenghtscale"])


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, [1.0, 0.0]])
def test_parameters_are_positive_numbers(value):
    with pytest.raises(ConfigError, match="TSD-X01"):
        Matern(lengthscale=value)


def test_what_has_no_state_is_refused_at_once():
    with pytest.raises(ConfigError, match="TSD-X01"):
        Matern(nu=2.0)
    with pytest.raises(ConfigError, match="TSD-X01"):
        SquaredExponential(order=20)
    for combine in (Sum, Product, lambda kernels: Coregionalized(kernels, 2)):
        with pytest.raises(ConfigError, match=r"TSD-X01.*No kernels"):
            combine([])


def test_a_list_of_values_is_as_many_kernels():
    several = Matern(1.5, [0.3, 0.7], 1.3).kernel()
    for i, lengthscale in enumerate((0.3, 0.7)):
        torch.testing.assert_close(
            gram(several, T.expand(2, -1), T.expand(2, -1))[i],
            gram(Matern(1.5, lengthscale, 1.3).kernel(), T, T),
        )


def test_outputs_of_a_coregionalized_kernel():
    module = Coregionalized([Matern(0.5), Matern(1.5, 2.0)], outputs=3)
    variance = gram(module.kernel(), T, T)[0, 0].diagonal()
    torch.testing.assert_close(variance, torch.ones_like(variance))
    names = {n for n, _ in module.named_parameters()}
    assert names == {
        "mixing",
        *(f"kernels.{i}.log_{p}" for i in (0, 1) for p in ("lengthscale", "variance")),
    }


def test_values_survive_the_state_dict_and_are_not_rounded():
    module = Matern(1.5, 0.7, 1.3)
    other = Matern(1.5)
    other.load_state_dict(module.state_dict())
    assert float(other.value("lengthscale").detach()) == pytest.approx(0.7, rel=1e-15)


def test_made_from_a_configuration():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--kernel", type=LearnedKernel)
    home = "tsdyn.models.kernels"
    config = {
        "class_path": f"{home}.Sum",
        "init_args": {
            "kernels": [
                {"class_path": f"{home}.Matern", "init_args": {"nu": 0.5, "lengthscale": 0.7}},
                {
                    "class_path": f"{home}.Product",
                    "init_args": {
                        "kernels": [
                            {"class_path": f"{home}.Periodic", "init_args": {"period": 0.9}},
                            {"class_path": f"{home}.Linear"},
                        ]
                    },
                },
            ]
        },
    }
    made = parser.instantiate(parser.parse_object({"kernel": config})).kernel
    by_hand = Sum([Matern(0.5, 0.7), Product([Periodic(period=0.9), Linear()])])
    torch.testing.assert_close(gram(made.kernel(), T, T), gram(by_hand.kernel(), T, T))
    assert [type(k).__name__ for k in made.arguments["kernels"]] == ["Matern", "Product"]


class Holder(Model):
    """A model with a kernel among its arguments."""

    def __init__(self, kernel: LearnedKernel):
        super().__init__()
        self.kernel = kernel

    def loss(self, given, want):
        return self.kernel.value("lengthscale")

    def sample(self, given, at, n):
        return at.expand(n, *at.shape)


def test_a_model_with_a_kernel_comes_back_from_disk(tmp_path):
    model = Holder(Matern(2.5, lengthscale=3.0, fixed=["variance"]))
    model.kernel.log_lengthscale.data.add_(0.25)
    save(model, tmp_path / "model.ckpt")
    back = load(tmp_path / "model.ckpt", "cpu")
    assert back.kernel.nu == 2.5 and not back.kernel.log_variance.requires_grad
    torch.testing.assert_close(back.kernel.value("lengthscale"), model.kernel.value("lengthscale"))
