import math

import pytest
import torch
from torch import Tensor

from tsdyn.errors import ConfigError, DataError
from tsdyn.models.reference_fields import Custom, GradientMLP, GradientRFF
from tsdyn.models.reference_genes import BooleanNetwork, Repressilator
from tsdyn.models.references import Affine, LinearVortex, LotkaVolterra, Reference, Zero

FULL = [[1.0] * 3] * 3


def places(D: int, n: int = 400, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 0.2 + 3 * torch.rand(n, D, generator=g, dtype=torch.float64)


def families() -> list[tuple[Reference, int]]:
    def moved(x: Tensor, theta: Tensor) -> Tensor:
        return theta[0] * x - theta[1] * x**3

    return [
        (Zero(), 3),
        (Affine(3), 3),
        (LinearVortex(), 2),
        (LotkaVolterra(), 2),
        (Repressilator(), 3),
        (BooleanNetwork(FULL), 3),
        (GradientRFF(3, features=32), 3),
        (GradientMLP(3, width=16, steps=50), 3),
        (Custom(moved, (0.0, 0.0)), 3),
    ]


FAMILIES = pytest.mark.parametrize("case", families(), ids=lambda c: type(c[0]).__name__)


def fitted(reference: Reference, D: int) -> Reference:
    torch.manual_seed(0)
    x = places(D)
    target = torch.stack([torch.sin(x).sum(-1) - x[:, d] for d in range(D)], -1)
    reference.refit(x, target, torch.ones(len(x), dtype=torch.float64))
    return reference


@FAMILIES
def test_the_first_drift_is_zero(case: tuple[Reference, int]) -> None:
    reference = type(case[0])(**case[0].arguments)
    assert (reference.drift(places(case[1])) == 0).all()


@FAMILIES
def test_jacobians_are_those_of_automatic_differentiation(case: tuple[Reference, int]) -> None:
    reference, D = fitted(*case), case[1]
    x = places(D, 7, seed=1)
    want = torch.func.vmap(torch.func.jacrev(reference.drift))(x)
    torch.testing.assert_close(reference.jacobian(x), want)
    wide = x.view(1, 7, D).expand(2, -1, -1)
    torch.testing.assert_close(reference.drift(wide)[1], reference.drift(x))


@pytest.mark.parametrize(
    "case",
    [
        c for c in families() if not isinstance(c[0], Zero | GradientMLP)
    ],  # fits nothing, or by chance
    ids=lambda c: type(c[0]).__name__,
)
def test_weights_are_repetitions_and_fits_come_nearer(case: tuple[Reference, int]) -> None:
    reference, D = case
    x = places(D, 60)
    target = 1 / (1 + x.roll(1, -1)) - 0.5 * x + 0.1 * torch.cos(2 * x)
    weights = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(1)).double()
    rows = torch.arange(60).repeat_interleave(weights.long())
    known = {"length": 1.0} if isinstance(reference, GradientRFF) else {}
    a, b = (type(reference)(**{**reference.arguments, **known}) for _ in range(2))
    a.refit(x, target, weights)
    b.refit(x[rows], target[rows], torch.ones(len(rows), dtype=torch.float64))
    torch.testing.assert_close(a.drift(x), b.drift(x), rtol=1e-4, atol=1e-4)
    off = (weights[:, None] * (a.drift(x) - target) ** 2).sum()
    assert off < (weights[:, None] * target**2).sum()


def one(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


def test_linear_families_find_their_parameters_without_noise() -> None:
    x = places(2)
    u, v = x.unbind(-1)
    lotka = LotkaVolterra()
    lotka.refit(x, torch.stack([u - 0.4 * u * v, 0.1 * u * v - 0.3 * v], -1), one(len(x)))
    want = torch.tensor([1.0, 0.4, 0.3, 0.1], dtype=torch.float64)
    torch.testing.assert_close(lotka.theta, want)
    vortex = LinearVortex()
    vortex.refit(x, torch.stack([2 * (v - 1), -0.5 * (u - 3)], -1), one(len(x)))
    A, b = vortex.coefficients(2)
    torch.testing.assert_close(A, torch.tensor([[0, 2.0], [-0.5, 0]]).double())
    torch.testing.assert_close(b, torch.tensor([-2.0, 1.5]).double())
    A = torch.tensor([[0.3, -2.0], [1.0, -0.5]], dtype=torch.float64)
    affine = Affine(2, ridge=0.0)
    affine.refit(x, x @ A.mT + 3, one(len(x)))
    torch.testing.assert_close(affine.A, A)
    torch.testing.assert_close(affine.b, 3 * one(2))


def test_rates_are_never_negative() -> None:
    """The rest is the best without the rate that would be."""
    x = places(2)
    u, v = x.unbind(-1)
    lotka = LotkaVolterra()
    lotka.refit(x, torch.stack([-u, 0.1 * u * v - 0.3 * v], -1), one(len(x)))
    alpha, beta, gamma, delta = lotka.theta
    assert alpha == 0
    torch.testing.assert_close(beta, (u * u * v).sum() / (u * v).square().sum())
    torch.testing.assert_close(gamma, torch.tensor(0.3).double())
    torch.testing.assert_close(delta, torch.tensor(0.1).double())


@pytest.mark.parametrize("truth", [(10.0, 3.0, 1.0, 1.0), (5.0, 1.5, 0.6, 2.0)])
def test_repressilator_finds_its_parameters_without_noise(truth: tuple[float, ...]) -> None:
    x = places(3)
    known = Repressilator()
    known.theta.copy_(torch.tensor(truth))
    found = Repressilator()
    found.refit(x, known.drift(x), one(len(x)))
    torch.testing.assert_close(found.theta, known.theta, rtol=1e-3, atol=0)
    beta, n, k, gamma = truth
    by_hand = beta / (1 + (x[:, 2] / k) ** n) - gamma * x[:, 0]
    torch.testing.assert_close(known.drift(x)[:, 0], by_hand)


def test_custom_drifts_find_their_parameters() -> None:
    x = places(2)
    reference = Custom(lambda z, theta: theta[0] * torch.sin(theta[1] * z) - z, (0.5, 0.8))
    reference.refit(x, 2 * torch.sin(1.2 * x) - x, one(len(x)))
    want = torch.tensor([2.0, 1.2], dtype=torch.float64)
    torch.testing.assert_close(reference.theta, want, rtol=1e-6, atol=1e-8)


def test_gradient_fields_fit_a_gradient_and_not_a_rotation() -> None:
    x = places(2, 1000)
    x = x - x.mean(0)
    for reference in (GradientRFF(2, ridge=1e-4), GradientMLP(2, steps=600)):
        torch.manual_seed(0)
        reference.refit(x, -x, one(len(x)))
        slid = (reference.drift(x) + x).square().mean() / x.square().mean()
        assert slid < 0.02
    turned = torch.stack([x[:, 1], -x[:, 0]], -1)
    field = GradientRFF(2, ridge=1e-4)
    field.refit(x, turned, one(len(x)))
    assert (field.drift(x) - turned).square().mean() > 0.5 * turned.square().mean()
    J = field.jacobian(x[:5])
    torch.testing.assert_close(J, J.mT)


def test_masks_forbid_genes_to_act() -> None:
    mask = [[0.0, 1.0], [0.0, 0.0]]
    network = BooleanNetwork(mask)
    x = places(2)
    network.refit(x, torch.stack([torch.tanh(x[:, 1]), -x[:, 1]], -1), one(len(x)))
    A = network.parameters_by_name()["A"]
    assert A[0, 0] == A[1, 0] == A[1, 1] == 0
    assert A[0, 1] > 0


def test_what_the_data_do_not_determine_is_named() -> None:
    """Prey and predators that are always as many: α and β are told apart by numbers, not by the mix."""
    u = torch.linspace(1, 1 + 1e-9, 50, dtype=torch.float64)
    found = LotkaVolterra().determined(torch.stack([u, u], -1), one(50))
    assert (found.values[:2] < 1e-6).all() and (found.values[2:] > 1).all()
    worst = found.directions[:, 0].abs()
    assert math.isclose(float(worst[0]), float(worst[1]), rel_tol=1e-3)  # α = β turns, α, β stays


def test_random_features_come_from_their_seed() -> None:
    a, b, c = GradientRFF(2, seed=1), GradientRFF(2, seed=1), GradientRFF(2, seed=2)
    assert (a.waves == b.waves).all() and not (a.waves == c.waves).all()


def test_wrong_dimensions_and_masks_are_refused() -> None:
    with pytest.raises(DataError, match=r"TSD-D14.*cells of 3 dimensions"):
        LotkaVolterra().drift(places(3))
    with pytest.raises(DataError, match="TSD-D14"):
        Affine(2).coefficients(3)
    with pytest.raises(ConfigError, match="as many columns as rows"):
        BooleanNetwork([[1.0, 0.0]])
