"""Oracles: parameters that are known, automatic differentiation, least squares over all rows at once."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tsdyn.errors import CheckpointError, ConfigError, DataError, ModelError
from tsdyn.io import pack, unpack
from tsdyn.models.base import Model, fresh
from tsdyn.models.reference_base import LinearByCoordinate, Reference
from tsdyn.models.reference_fields import Custom, GradientRFF, Polynomial
from tsdyn.models.reference_genes import BooleanNetwork, Repressilator
from tsdyn.models.reference_networks import GradientMLP
from tsdyn.models.references import Affine, LinearVortex, LotkaVolterra, Zero

MASK = [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def places(dims: int, n: int = 200, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 0.2 + 3 * torch.rand(n, dims, generator=g, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def cubic(x: Tensor, theta: Tensor) -> Tensor:
    return theta[0] * x - theta[1] * x**3


FAMILIES: dict[str, Callable[[], Reference]] = {
    "zero": Zero,
    "affine": lambda: Affine(3),
    "vortex": LinearVortex,
    "circle": lambda: LinearVortex(circular=True),
    "lotka-volterra": LotkaVolterra,
    "repressilator": Repressilator,
    "polynomial": lambda: Polynomial(3, 3),
    "features": lambda: GradientRFF(3, 40, lengthscale=1.5),
    "network": lambda: GradientMLP(3, 12, steps=20),
    "boolean": lambda: BooleanNetwork(3),
    "masked": lambda: BooleanNetwork(3, MASK),
    "custom": lambda: Custom(cubic, (0.0, 0.0)),
}
EVERY = pytest.mark.parametrize("family", FAMILIES)
CLOSED = pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("zero", "network")])


def made(family: str) -> tuple[Reference, Tensor, Tensor]:
    """A reference before its first fit, and places and velocities that no family has exactly."""
    reference = FAMILIES[family]()
    x = places(reference.dims or 3)
    return reference, x, 3 / (1 + x.roll(1, -1) ** 2) - 0.7 * x + torch.cos(3 * x)


def fitted(family: str) -> tuple[Reference, Tensor, Tensor]:
    reference, x, velocity = made(family)
    reference.refit(x, velocity)
    return reference, x, velocity


@EVERY
def test_the_first_drift_is_zero(family):
    reference, x, _ = made(family)
    assert (reference.drift(x) == 0).all()
    assert (reference.jacobian(x) == 0).all()


@EVERY
def test_jacobians_are_those_of_automatic_differentiation(family):
    reference, x, _ = fitted(family)
    x = torch.cat([x[:7], x[:1] - 5])  # a place far outside, with negative coordinates
    want = torch.func.vmap(torch.func.jacrev(reference.drift))(x)
    torch.testing.assert_close(reference.jacobian(x), want)
    torch.testing.assert_close(Reference.jacobian(reference, x), want)


@EVERY
def test_leading_axes_are_free_and_precision_is_that_of_x(family):
    reference, x, _ = fitted(family)
    wide = x[:6].view(2, 1, 3, -1)
    torch.testing.assert_close(reference.drift(wide).flatten(0, 2), reference.drift(x[:6]))
    single = reference.drift(x[:6].float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), reference.drift(x[:6]), rtol=1e-4, atol=1e-4)


@CLOSED
def test_no_other_parameters_come_nearer(family):
    """Without a ridge, a small step of any one parameter to either side raises Σ |v - f|²."""
    reference, x, velocity = made(family)
    reference.ridge = 0.0
    reference.refit(x, velocity)
    off = (velocity - reference.drift(x)).flatten()
    known = [b for n, b in reference.named_buffers() if n in ("theta", "A", "b")]
    assert off.square().mean() < velocity.square().mean()
    for parameter in known:
        for k in range(parameter.numel()):
            one = parameter.flatten()[k].clone()
            if one == 0:  # forbidden by a mask, or kept from turning negative
                continue
            h = 1e-4 * max(1.0, abs(float(one)))
            losses = []
            for step in (-h, h):
                parameter.view(-1)[k] = one + step
                losses.append((velocity - reference.drift(x)).square().sum())
            parameter.view(-1)[k] = one
            here = off.square().sum()
            assert min(losses) >= here * (1 - 1e-12)


@CLOSED
def test_weights_are_repetitions_and_only_their_ratios_count(family):
    reference, x, velocity = made(family)
    weights = torch.randint(0, 4, (len(x),)).double()
    again = torch.arange(len(x)).repeat_interleave(weights.long())
    reference.refit(x, velocity, 0.01 * weights)
    repeated = FAMILIES[family]()
    repeated.refit(x[again], velocity[again])
    torch.testing.assert_close(reference.drift(x), repeated.drift(x), rtol=1e-6, atol=1e-6)


@EVERY
def test_a_fit_of_many_rows_is_the_same_in_stretches(family, monkeypatch):
    torch.manual_seed(1)
    whole, x, _ = fitted(family)
    monkeypatch.setattr("tsdyn.models.reference_base.ENTRIES", 500)
    torch.manual_seed(1)
    parts, _, _ = fitted(family)
    torch.testing.assert_close(whole.drift(x), parts.drift(x))


@EVERY
def test_the_state_is_all_there_is(family):
    reference, x, velocity = fitted(family)
    other = FAMILIES[family]()
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other.drift(x), reference.drift(x))
    for one in (reference, other):  # and a later fit starts from the same
        torch.manual_seed(3)
        one.refit(x, velocity + 1)
    assert torch.equal(other.drift(x), reference.drift(x))


@EVERY
def test_parameters_are_doubles_without_a_graph(family):
    reference, x, _ = fitted(family)
    assert not list(reference.parameters())
    numeric = [b for b in reference.buffers() if b.is_floating_point()]
    assert all(b.dtype == torch.float64 and not b.requires_grad for b in numeric)
    assert not reference.drift(x).requires_grad


class Wrapped(Model):
    """A model whose only part is a reference."""

    def __init__(self, reference: Reference):
        super().__init__()
        self.reference = reference

    def loss(self, given, want):
        raise NotImplementedError

    def sample(self, given, at, n):
        raise NotImplementedError


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "custom"])
def test_checkpoints_bring_references_back(family):
    reference, x, _ = fitted(family)
    back = unpack(pack(Wrapped(reference)))
    assert torch.equal(back.reference.drift(x), reference.drift(x))
    assert (fresh(back).reference.drift(x) == 0).all()


def test_checkpoints_refuse_functions():
    with pytest.raises(CheckpointError, match=r"TSD-C04.*Custom.function is a function"):
        pack(Wrapped(Custom(cubic, (0.0, 0.0))))


def test_affine_drifts_are_found():
    x = places(3)
    A, b = torch.randn(3, 3, dtype=torch.float64), numbers(1.0, -2.0, 0.5)
    reference = Affine(3, ridge=0.0)
    reference.refit(x, x @ A.mT + b)
    found = reference.coefficients(3)
    torch.testing.assert_close(found[0], A)
    torch.testing.assert_close(found[1], b)
    known = Affine(3, A=A.tolist(), b=b.tolist())
    torch.testing.assert_close(known.drift(x), x @ A.mT + b)


def test_the_ridge_of_affine_drifts_shrinks_about_the_mean():
    """In one dimension A = Cov(x, v) / ((1 + ridge) Var x), and the drift at the mean of x is the mean of v."""
    x, velocity, ridge = places(1), torch.randn(200, 1, dtype=torch.float64), 0.3
    reference = Affine(1, ridge)
    reference.refit(x, velocity)
    off = x - x.mean()
    want = (off * velocity).sum() / (1 + ridge) / off.square().sum()
    torch.testing.assert_close(reference.A[0, 0], want)
    torch.testing.assert_close(reference.drift(x.mean(0, keepdim=True))[0], velocity.mean(0))


def test_vortices_are_found():
    x = places(2)
    u, v = x.unbind(-1)
    velocity = torch.stack([2 * (v - 1), -0.5 * (u - 3)], -1)
    reference = LinearVortex()
    reference.refit(x, velocity)
    found = torch.stack([*reference.parameters_by_name().values()])
    torch.testing.assert_close(found, numbers(2.0, 0.5, 3.0, 1.0))
    A, b = reference.coefficients(2)
    torch.testing.assert_close(x @ A.mT + b, velocity)
    known = LinearVortex(speed=(2.0, 0.5), centre=(3.0, 1.0))
    torch.testing.assert_close(known.drift(x), velocity)


def test_round_vortices_have_one_speed():
    """That of the least squares over both coordinates."""
    x = places(2)
    u, v = x.unbind(-1)
    reference = LinearVortex(circular=True)
    reference.refit(x, torch.stack([2 * (v - 1), -0.5 * (u - 3)], -1))
    spread = x.var(0, correction=0)
    speed = (0.5 * spread[0] + 2 * spread[1]) / spread.sum()
    found = reference.parameters_by_name()
    torch.testing.assert_close(found["r"], speed)
    torch.testing.assert_close(found["s"], speed)
    known = LinearVortex(True, speed=(0.7, 0.7), centre=(3.0, 1.0))
    torch.testing.assert_close(known.drift(x), 0.7 * torch.stack([v - 1, 3 - u], -1))


RATES = {"alpha": 1.0, "beta": 0.4, "delta": 0.1, "gamma": 0.3}


def test_lotka_volterra_is_found():
    x = places(2)
    u, v = x.unbind(-1)
    velocity = torch.stack([u - 0.4 * u * v, 0.1 * u * v - 0.3 * v], -1)
    reference = LotkaVolterra()
    reference.refit(x, velocity)
    for name, value in reference.parameters_by_name().items():
        torch.testing.assert_close(value, numbers(RATES[name])[0])
    torch.testing.assert_close(LotkaVolterra(**RATES).drift(x), velocity)


def test_rates_are_not_negative():
    """Prey that only dies, without α: β is the least squares alone."""
    x = places(2)
    u, v = x.unbind(-1)
    reference = LotkaVolterra()
    reference.refit(x, torch.stack([-u, 0.1 * u * v - 0.3 * v], -1))
    found = reference.parameters_by_name()
    assert found["alpha"] == 0
    torch.testing.assert_close(found["beta"], (u * u * v).sum() / (u * v).square().sum())
    torch.testing.assert_close(found["gamma"], numbers(0.3)[0])


@pytest.mark.parametrize(
    "truth", [(10.0, 3.0, 1.0, 1.0), (5.0, 1.5, 0.6, 2.0), (2.0, 8.0, 1.5, 0.3)]
)
@pytest.mark.parametrize("genes", [2, 3, 5])
def test_repressilators_are_found(truth, genes):
    x = places(genes)
    known = Repressilator(genes, *truth)
    reference = Repressilator(genes)
    reference.refit(x, known.drift(x))
    torch.testing.assert_close(reference.theta, numbers(*truth), rtol=1e-8, atol=0)


def test_repressilators_follow_from_where_they_were():
    x, truth = places(3), (10.0, 3.0, 1.0, 1.0)
    reference = Repressilator(3, 8.0, 2.5, 1.2, 0.8)
    reference.refit(x, Repressilator(3, *truth).drift(x))
    torch.testing.assert_close(reference.theta, numbers(*truth), rtol=1e-8, atol=0)


def test_repressilators_in_numbers():
    """x_1 = 2 represses gene 2: 10 / (1 + (2 / 1.5)²) - 0.5 x_2. What is negative represses nothing."""
    reference = Repressilator(3, 10.0, 2.0, 1.5, 0.5)
    drift = reference.drift(numbers(2.0, 4.0, -1.0)[None])[0]
    torch.testing.assert_close(drift[0], numbers(10 - 1)[0])
    torch.testing.assert_close(drift[1], numbers(10 / (1 + (2 / 1.5) ** 2) - 2)[0])
    torch.testing.assert_close(drift[2], numbers(10 / (1 + (4 / 1.5) ** 2) + 0.5)[0])


def test_repressilators_without_production_or_decay():
    """Where velocities have the wrong sign, both rates end at zero and nothing breaks."""
    x = places(3)
    reference = Repressilator()
    reference.refit(x, x - 100)
    found = reference.parameters_by_name()
    assert found["beta"] == 0 and found["gamma"] > 0
    reference.refit(x, 1e3 * x)
    assert reference.parameters_by_name()["gamma"] == 0


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_polynomials_are_found_in_the_units_of_x(shift):
    x = places(2) + shift
    u, v = x.unbind(-1)
    velocity = torch.stack([2 + u - 0.4 * u * v, 0.1 * u**3 - 0.3 * v**2], -1)
    reference = Polynomial(2, 3, ridge=0.0)
    reference.refit(x, velocity)
    torch.testing.assert_close(reference.drift(x), velocity)
    want = {"dx0: 1": 2.0, "dx0: x0": 1.0, "dx0: x0 x1": -0.4, "dx1: x0^3": 0.1, "dx1: x1^2": -0.3}
    found = reference.parameters_by_name()
    assert len(found) == 2 * math.comb(5, 2) and set(want) <= set(found)
    for name, value in found.items():
        # a coefficient of degree e is the difference of terms shift^(3 - e) times as large
        room = 1e-11 * (1 + shift) ** (3 - sum(int(p[-1]) for p in name.split() if "^" in p))
        torch.testing.assert_close(value, numbers(want.get(name, 0.0))[0], rtol=0, atol=room)


def test_custom_drifts_are_found():
    x = places(2)
    reference = Custom(
        lambda z, theta: theta[0] * torch.sin(theta[1] * z) - z,
        (0.5, 0.8),
        names=("height", "rate"),
    )
    reference.refit(x, 2 * torch.sin(1.2 * x) - x)
    found = reference.parameters_by_name()
    assert list(found) == ["height", "rate"]
    torch.testing.assert_close(torch.stack([*found.values()]), numbers(2.0, 1.2))


def test_boolean_networks_are_found():
    x = places(3)
    middle, spread = x.mean(0), x.std(0, correction=0)
    h = torch.sigmoid(4 * (x - middle) / spread)
    A = torch.tensor(MASK).double() * torch.randn(3, 3, dtype=torch.float64)
    b, gamma = numbers(0.3, 1.0, -0.2), numbers(0.5, 1.0, 2.0)
    reference = BooleanNetwork(3, MASK, ridge=0.0)
    reference.refit(x, h @ A.mT + b - gamma * x)
    found = reference.parameters_by_name()
    for name, want in (("A", A), ("b", b), ("gamma", gamma)):
        torch.testing.assert_close(found[name], want)
    assert (found["A"][torch.tensor(MASK) == 0] == 0).all()


def test_states_stay_those_of_the_first_fit():
    """Else the family would be another one in each round, and its best drift no better than the last."""
    for reference in (BooleanNetwork(2), Polynomial(2)):
        x = places(2)
        reference.refit(x, -x)
        before = reference.middle.clone()
        reference.refit(x + 10, -x)
        assert torch.equal(reference.middle, before)


def test_random_features_come_from_their_seed():
    x = places(2)
    a, b, c = (GradientRFF(2, seed=s) for s in (1, 1, 2))
    for field in (a, b, c):
        field.refit(x, -x)
    assert torch.equal(a.drift(x), b.drift(x))
    assert not torch.equal(a.waves, c.waves)


def test_random_features_have_sums_without_their_design():
    """Σ w ΦᵀΦ with Φ (P, D, F) made whole."""
    reference, x, _ = fitted("features")
    weights = torch.rand(len(x), dtype=torch.float64)
    phi = reference.features(x)
    want = torch.einsum("p,pdk,pdl->kl", weights, phi, phi)
    torch.testing.assert_close(reference.hessian(x, weights), want)
    torch.testing.assert_close(phi @ reference.theta, reference.drift(x))


def test_random_features_approach_the_kernel_of_a_gaussian_process():
    """With θ ~ N(0, I), Cov(ψ(x), ψ(y)) = exp(-|x - y|² / 2 l²), within 4 standard errors of a mean of F terms."""
    F, lengthscale = 2000, 1.3
    field = GradientRFF(2, F, lengthscale)
    field.theta = torch.eye(F, dtype=torch.float64)  # ψ of each feature alone
    x, y = places(2, 2)
    terms = F * field.potential(x) * field.potential(y)
    want = torch.exp(-(x - y).square().sum() / (2 * lengthscale**2))
    assert abs(terms.mean() - want) < 4 * terms.std() / math.sqrt(F)


def test_the_lengthscale_is_the_median_distance():
    x = places(3, 50)
    field = GradientRFF(3, 10)
    field.refit(x, -x)
    torch.testing.assert_close(field.lengthscale, torch.pdist(x).median(), rtol=0.01, atol=0)
    before = field.lengthscale.clone()
    field.refit(3 * x, -x)
    assert torch.equal(field.lengthscale, before)


@pytest.mark.parametrize("family", ["features", "network"])
def test_landscapes_have_symmetric_jacobians(family):
    reference, x, _ = fitted(family)
    J = reference.jacobian(x)
    assert J.abs().max() > 0
    torch.testing.assert_close(J, J.mT)
    down = torch.func.vmap(torch.func.grad(reference.potential))(x)
    torch.testing.assert_close(reference.drift(x), -down)


@pytest.mark.parametrize("field", [GradientRFF(2, ridge=1e-4), GradientMLP(2, 32)])
def test_landscapes_fit_gradients_and_no_rotation(field):
    """About the mean of a cloud without correlation, no gradient is nearer to a rotation than zero, in the linear part."""
    x = places(2, 500)
    x = torch.cat([x - x.mean(0), (x - x.mean(0)) * numbers(-1, 1)])
    field.refit(x, -x)
    assert (field.drift(x) + x).square().mean() < 0.01 * x.square().mean()
    turned = torch.stack([x[:, 1], -x[:, 0]], -1)
    field.refit(x, turned)
    assert (field.drift(x) - turned).square().mean() > 0.5 * turned.square().mean()


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_networks_do_not_know_the_units_of_x_and_t(scale):
    x = places(2)
    found = []
    for units in (1.0, scale):
        torch.manual_seed(2)
        field = GradientMLP(2, 16, steps=30)
        field.refit(units * x, torch.sin(x) * units / 7)
        found.append(field.drift(units * x) / units)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


def test_networks_go_on_from_where_they_were():
    x = places(2)
    field = GradientMLP(2, 32, steps=100)
    losses = []
    for _ in range(4):
        field.refit(x, torch.sin(2 * x))
        losses.append(float((field.drift(x) - torch.sin(2 * x)).square().mean()))
    assert losses[3] < 0.5 * losses[0]


@CLOSED
def test_the_hessian_is_that_of_automatic_differentiation(family):
    """Σ w Jᵀ J of f by θ, at the θ of now. An intercept is fitted along, as the centred columns of J have it."""
    reference, x, _ = fitted(family)
    weights = torch.rand(len(x), dtype=torch.float64)
    name = "A" if isinstance(reference, LinearByCoordinate) else "theta"
    state = dict(reference.named_buffers())

    def drift(theta: Tensor) -> Tensor:
        return torch.func.functional_call(reference, state | {name: theta}, (x,))

    reference.forward = reference.drift
    turn = torch.func.jacfwd(drift)(state[name])  # (P, D, ...)
    if name == "A":
        turn = turn[..., reference.kept]
        turn = turn - (weights[:, None, None] * turn).sum(0) / weights.sum()
    want = torch.einsum("p,pdk,pdl->kl", weights, turn, turn)
    torch.testing.assert_close(reference.hessian(x, weights), want)
    found = reference.identifiability(x, weights)
    torch.testing.assert_close(found.hessian, want / weights.sum())
    assert len(found.names) == len(want)
    change = found.directions.mT @ found.hessian @ found.directions
    torch.testing.assert_close(change, torch.diag(found.values), rtol=1e-6, atol=1e-9)


def test_cells_on_a_line_leave_an_affine_drift_open_across_it():
    """x1 = 2 x0: whatever A does to (2, -1), no place sees it."""
    u = places(1)
    x = torch.cat([u, 2 * u], 1)
    found = Affine(2).identifiability(x)
    assert found.condition > 1e12
    rows = sorted(found.undetermined(), key=sorted)
    for i, row in enumerate(rows):
        assert set(row) == {f"f{i}: x0", f"f{i}: x1"}
        assert row[f"f{i}: x0"] / row[f"f{i}: x1"] == pytest.approx(-2)
    assert len(rows) == 2


def test_equal_numbers_leave_one_mixture_of_rates():
    """At u = v = 1 only, α - β and δ - γ are seen."""
    found = LotkaVolterra().identifiability(torch.ones(5, 2, dtype=torch.float64))
    torch.testing.assert_close(found.values, numbers(0, 0, 2, 2), rtol=0, atol=1e-12)
    for row in found.undetermined():
        assert row.get("alpha", 0.0) == pytest.approx(row.get("beta", 0.0))
        assert row.get("delta", 0.0) == pytest.approx(row.get("gamma", 0.0))


def test_complete_repression_leaves_beta_and_k_open():
    """Far above k, production is β (k / x)ⁿ: log β up and n log k down is not seen."""
    beta, n, k = 10.0, 3.0, 0.002
    found = Repressilator(3, beta, n, k, 1.0).identifiability(places(3))
    (row,) = found.undetermined(1e-6)
    assert set(row) == {"beta", "k"}
    assert row["beta"] / beta == pytest.approx(-n * row["k"] / k, rel=1e-3)
    assert Repressilator(3, beta, n, 1.0, 1.0).identifiability(places(3)).undetermined(1e-6) == []


def test_brownian_motion_and_networks_have_nothing_to_identify():
    x = places(2)
    found = Zero().identifiability(x)
    assert found.names == () and found.condition == 1 and found.undetermined() == []
    with pytest.raises(ModelError, match="TSD-M05"):
        GradientMLP(2).identifiability(x)


class Spring(Reference):
    """f = -θ x, as a user would write a family: the Jacobian comes by itself."""

    def __init__(self):
        super().__init__(None)
        self.register_buffer("theta", torch.zeros((), dtype=torch.float64))

    def drift(self, x):
        return -self.theta * x

    def parameters_by_name(self):
        return {"theta": self.theta}

    def parameter_names(self):
        return ("theta",)

    def hessian(self, x, weights):
        return (weights @ x.square()).sum().view(1, 1)

    def _fit(self, x, velocity, share):
        self.theta.copy_(-(share @ (x * velocity)).sum() / self.hessian(x, share)[0, 0])


def test_families_of_ones_own():
    x, reference = places(2), Spring()
    reference.refit(x, -3 * x)
    torch.testing.assert_close(reference.theta, numbers(3)[0])
    torch.testing.assert_close(reference.jacobian(x[:1])[0], -3 * torch.eye(2).double())
    assert reference.coefficients(2) is None
    back = unpack(pack(Wrapped(reference)))
    assert torch.equal(back.reference.drift(x), reference.drift(x))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("zero", "custom")])
def test_other_dimensions_are_refused(family):
    reference = FAMILIES[family]()
    x = places(4)
    asks = [lambda: reference.drift(x), lambda: reference.refit(x, x)]
    for ask in asks:
        with pytest.raises(DataError, match=r"TSD-D14: \w+ got cells of 4 dimensions. Wanted: "):
            ask()


def test_coefficients_of_other_dimensions_are_refused():
    for reference in (Affine(3), LinearVortex()):
        with pytest.raises(DataError, match="TSD-D14"):
            reference.coefficients(4)
    assert Zero().coefficients(4)[0].shape == (4, 4)
    assert LotkaVolterra().coefficients(2) is None


def bad(x: Tensor, row: int, value: float) -> Tensor:
    return x.index_fill(0, torch.tensor(row), value)


@EVERY
def test_what_cannot_be_fitted_is_refused(family):
    reference, x, v = made(family)
    one = torch.ones(len(x), dtype=torch.float64)
    cases = [
        ((bad(x, 3, math.nan), v, one), "finite numbers"),
        ((x, bad(v, 3, math.inf), one), "finite numbers"),
        ((x, v, bad(one, 3, -1.0)), "no weight below zero"),
        ((x, v, 0 * one), "one above"),
        ((x[:0], v[:0], one[:0]), "one above"),
        ((x, v[:5], one), r"\(P, D\)"),
        ((x, v, one[:, None]), r"\(P, D\)"),
        ((x[0], v[0], one[0]), r"\(P, D\)"),
    ]
    for given, wanted in cases:
        with pytest.raises(DataError, match=f"TSD-D14.*{wanted}"):
            reference.refit(*given)


def test_one_place_has_no_lengthscale():
    x = torch.ones(9, 2, dtype=torch.float64)
    with pytest.raises(DataError, match="TSD-D14: All 9 places of the first fit are the same"):
        GradientRFF(2).refit(x, x)


@pytest.mark.parametrize(
    ("make", "came"),
    [
        (lambda: Affine(0), "Affine got dims=0"),
        (lambda: Affine(2, -1.0), "Affine got ridge=-1"),
        (lambda: Affine(2, A=[[1.0]]), "Affine got A="),
        (lambda: Affine(2, b=[1.0, 2.0, 3.0]), "Affine got b="),
        (lambda: Affine(2, A=[[1.0], [1.0, 2.0]]), "Affine got A="),
        (lambda: LotkaVolterra(alpha=-1.0), "LotkaVolterra got rates"),
        (lambda: LinearVortex(True, speed=(1.0, 2.0)), "LinearVortex got speed"),
        (lambda: Repressilator(0), "Repressilator got dims=0"),
        (lambda: Repressilator(n=0.0), "Repressilator got n=0"),
        (lambda: Repressilator(k=0.0), "Repressilator got k=0"),
        (lambda: Repressilator(gamma=-1.0), "Repressilator got rates"),
        (lambda: Polynomial(2, 0), "Polynomial got degree=0"),
        (lambda: GradientRFF(2, 0), "GradientRFF got features=0"),
        (lambda: GradientRFF(2, lengthscale=0.0), "GradientRFF got lengthscale=0"),
        (lambda: GradientMLP(2, width=0), "GradientMLP got width=0"),
        (lambda: GradientMLP(2, learning_rate=0.0), "GradientMLP got learning_rate=0"),
        (lambda: BooleanNetwork(2, [[1.0, 1.0]]), "BooleanNetwork got a mask with rows of"),
        (lambda: Custom(cubic, (0.0,), names=("a", "b")), "Custom got 2 names"),
    ],
)
def test_arguments_are_checked(make, came):
    with pytest.raises(ConfigError, match=f"TSD-X01: {came}"):
        make()


def test_functions_of_other_shapes_are_refused():
    reference = Custom(lambda x, theta: theta[0] * x.sum(-1), (1.0,))
    with pytest.raises(ConfigError, match=r"TSD-X01.*turned x \(4, 2\) into \(4,\)"):
        reference.drift(places(2, 4))
