"""Oracles: the closed covariance functions, the laws that every Markov process obeys, and quadrature."""

import math

import pytest
import torch

from tsdyn.errors import ConfigError, DataError
from tsdyn.maths.kernels import Kernel, add, chain, coregionalize, gram, multiply, scale
from tsdyn.maths.matern import matern
from tsdyn.maths.oscillator import oscillator
from tsdyn.maths.periodic import cosine, count_harmonics, periodic, quasi_periodic, scaled_bessel
from tsdyn.maths.squared_exponential import squared_exponential
from tsdyn.maths.trend import constant, integrated_wiener, linear, wiener

L, V = 0.7, 1.3  # lengthscale, variance


def times(n: int = 30, span: float = 4.0) -> torch.Tensor:
    """In no order, one of them twice."""
    t = torch.rand(n, dtype=torch.float64) * span
    t[3] = t[-1]
    return t


def matern_formula(p: int):
    polynomial = {
        0: lambda x: torch.ones_like(x),
        1: lambda x: 1 + x,
        2: lambda x: 1 + x + x**2 / 3,
        3: lambda x: 1 + x + 2 * x**2 / 5 + x**3 / 15,
    }[p]

    def formula(t, u):
        x = math.sqrt(2 * p + 1) * (t - u).abs() / L
        return V * polynomial(x) * torch.exp(-x)

    return formula


def oscillator_formula(w: float, quality: float):
    def formula(t, u):
        r = (t - u).abs().to(torch.complex128)
        a = w / (2 * quality)
        b = torch.tensor(w**2 - a**2, dtype=torch.complex128).sqrt()
        sinc = torch.sin(b * r) / b if b.abs() > 0 else r
        return V * (torch.exp(-a * r) * (torch.cos(b * r) + a * sinc)).real

    return formula


def periodic_formula(t, u):
    return V * torch.exp(-2 * torch.sin(math.pi * (t - u) / 0.9) ** 2 / L**2)


def line_of_walks(t, u):
    """Level .2, slope .5, diffusion V, from time -.5 on."""
    s, r = t + 0.5, u + 0.5
    m, d = torch.minimum(s, r), (s - r).abs()
    return 0.2 + 0.5 * s * r + V * (m**3 / 3 + d * m**2 / 2)


CLOSED = {
    **{
        f"matern{2 * p + 1}": (lambda p=p: matern(p + 0.5, L, V), matern_formula(p))
        for p in range(4)
    },
    "constant": (lambda: constant(V), lambda t, u: V + 0 * t * u),
    "linear": (lambda: linear(V, 0.4), lambda t, u: V * (t - 0.4) * (u - 0.4)),
    "wiener": (lambda: wiener(V, 0.2, -0.5), lambda t, u: 0.2 + V * (torch.minimum(t, u) + 0.5)),
    "integrated wiener": (lambda: integrated_wiener(V, 0.2, 0.5, -0.5), line_of_walks),
    "cosine": (lambda: cosine(3.0, V), lambda t, u: V * torch.cos(3 * (t - u))),
    "periodic": (lambda: periodic(L, 0.9, V, tolerance=1e-14), periodic_formula),
    "quasi-periodic": (
        lambda: quasi_periodic(L, 0.9, L, V, harmonics=14),
        lambda t, u: periodic_formula(t, u) * matern_formula(1)(t, u) / V,
    ),
    **{
        f"oscillator {q}": (lambda q=q: oscillator(3.0, q, V), oscillator_formula(3.0, q))
        for q in (0.1, 0.49999999, 0.5, 0.500001, 0.6, 5.0, 1e4)
    },
    "scaled": (lambda: scale(matern(1.5, L, V), 2.0), lambda t, u: 2 * matern_formula(1)(t, u)),
    "sum": (
        lambda: add(matern(2.5, L, V), linear(V, 0.4), cosine(3.0, V)),
        lambda t, u: (
            matern_formula(2)(t, u) + V * (t - 0.4) * (u - 0.4) + V * torch.cos(3 * (t - u))
        ),
    ),
    "product": (
        lambda: multiply(matern(1.5, L, V), oscillator(3.0, 2.0, V)),
        lambda t, u: matern_formula(1)(t, u) * oscillator_formula(3.0, 2.0)(t, u),
    ),
    "product that grows": (
        lambda: multiply(linear(V, 0.4), matern(1.5, L, V)),
        lambda t, u: V * (t - 0.4) * (u - 0.4) * matern_formula(1)(t, u),
    ),
    "product of walks": (
        lambda: multiply(matern(0.5, L, V), integrated_wiener(V, 0.2, 0.5, -0.5)),
        lambda t, u: matern_formula(0)(t, u) * line_of_walks(t, u),
    ),
    "product of lines": (
        lambda: multiply(linear(V, 0.4), linear(V, 0.4)),
        lambda t, u: (V * (t - 0.4) * (u - 0.4)) ** 2,
    ),
}
APPROXIMATE = {
    f"squared exponential {n}": lambda n=n: squared_exponential(L, V, n) for n in (4, 5, 6)
}
ALL = {name: make for name, (make, _) in CLOSED.items()} | APPROXIMATE


@pytest.mark.parametrize("name", CLOSED)
def test_the_state_has_the_covariance_of_the_kernel(name):
    make, formula = CLOSED[name]
    t, u = times(30), times(20)
    found = gram(make(), t, u)[..., 0, 0]
    torch.testing.assert_close(found, formula(t[:, None], u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_laws_of_a_markov_process(name):
    """Chapman and Kolmogorov forwards; the same joint law of two times backwards."""
    kernel: Kernel = ALL[name]()
    start = torch.rand(60, dtype=torch.float64)
    middle = start + torch.logspace(-7, 1, 60, dtype=torch.float64)
    end = middle + torch.logspace(1, -7, 60, dtype=torch.float64)
    (A, Q), (B, R), (C, S) = (
        kernel.transition(a, b) for a, b in ((start, middle), (middle, end), (start, end))
    )
    before, after = kernel.covariance(start), kernel.covariance(middle)
    back, noise = kernel.backward(start, middle)
    size = float(kernel.covariance(end).abs().max())
    bound = (1e-10 if kernel.approximate else 1e-12) * max(size, 1.0)
    for found, wanted in (
        (B @ A, C),
        (B @ Q @ B.mT + R, S),
        (A @ before @ A.mT + Q, after),
        (back @ after, before @ A.mT),
        (back @ after @ back.mT + noise, before),
    ):
        found, wanted = torch.broadcast_tensors(found, wanted)
        torch.testing.assert_close(found, wanted, rtol=0, atol=bound)
    for noise_like in (Q, R, noise):
        smallest = torch.linalg.eigvalsh(noise_like).amin(-1)
        largest = noise_like.diagonal(dim1=-2, dim2=-1).amax(-1)
        assert (smallest >= -1e-15 * max(size, 1.0)).all() and (largest >= 0).all()
    assert kernel.noiseless == (not Q.any())


def test_a_gap_of_zero_changes_nothing():
    t = torch.rand(5, dtype=torch.float64)
    for make in ALL.values():
        for law in (make().transition, make().backward):
            A, Q = law(t, t)
            eye = torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A)
            if make().stationary:
                torch.testing.assert_close(A, eye, rtol=0, atol=1e-11)
            assert Q.abs().max() < 1e-14


def test_chain_is_the_process_at_its_rows():
    """The covariance of H x_k, multiplied out row by row."""
    t = times(12).sort().values
    for name in ("matern5", "sum", "product that grows", "wiener"):
        kernel = ALL[name]()
        rows = chain(kernel, t.float())
        t64 = t.float().double()
        P, covariance = rows.P0, torch.zeros(12, 12, dtype=torch.float64)
        for k in range(12):
            if k:
                P = rows.A[k] @ P @ rows.A[k].mT + rows.Q[k]
            cross = P
            for j in range(k, 12):
                cross = rows.A[j] @ cross if j > k else cross
                covariance[j, k] = covariance[k, j] = (kernel.H @ cross @ kernel.H.mT)[0, 0]
        torch.testing.assert_close(covariance, gram(kernel, t64, t64)[..., 0, 0])
        assert rows.A.dtype == torch.float64 and rows.m0 is None


def test_every_series_has_times_of_its_own():
    t = times(20).view(2, 10).sort(-1).values
    for make in ALL.values():
        together = chain(make(), t)
        for b in range(2):
            alone = chain(make(), t[b])
            for a, c in zip(alone[:3], together[:3]):
                lead = t.shape[:1] if c.dim() > a.dim() else ()
                torch.testing.assert_close(c[b] if lead else c, a, rtol=0, atol=1e-13)


BATCHED = {
    "matern": lambda a, b: matern(2.5, a, b),
    "squared exponential": lambda a, b: squared_exponential(a, b),
    "periodic": lambda a, b: periodic(a, b, b, harmonics=6),
    "cosine": lambda a, b: cosine(a, b),
    "oscillator": lambda a, b: oscillator(a, b, a),
    "linear": lambda a, b: linear(a, b),
    "constant": lambda a, b: constant(a),
    "wiener": lambda a, b: wiener(a, b, -1.0),
    "integrated wiener": lambda a, b: integrated_wiener(a, b, a, -1.0),
    "sum": lambda a, b: add(matern(0.5, a, b), scale(linear(a), b)),
    "product": lambda a, b: multiply(matern(1.5, a, b), wiener(a, b, -1.0)),
    "mixed": lambda a, b: coregionalize(
        [matern(0.5, a, b), matern(1.5, b, a)], torch.ones(3, 2, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("name", BATCHED)
def test_kernels_side_by_side_are_each_alone(name):
    a = torch.tensor([0.4, 0.5, 1.7], dtype=torch.float64)
    b = torch.tensor([0.3, 0.5, 2.0], dtype=torch.float64)
    t = times(10)
    together = BATCHED[name](a, b)
    found = gram(together, t.expand(3, -1), t.expand(3, -1))
    rows = chain(together, t.sort().values.expand(3, -1))
    for i in range(3):
        alone = BATCHED[name](a[i], b[i])
        torch.testing.assert_close(found[i], gram(alone, t, t), rtol=1e-12, atol=1e-12)
        A, Q = (m.expand(3, *m.shape[-3:])[i] for m in rows[:2])
        expected = chain(alone, t.sort().values)
        torch.testing.assert_close(A, expected.A, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(Q, expected.Q, rtol=1e-12, atol=1e-12)


def test_outputs_are_mixed_from_independent_processes():
    t, u = times(8), times(6)
    mixing = torch.randn(3, 2, dtype=torch.float64)
    parts = [matern(1.5, L, V), oscillator(3.0, 2.0, V)]
    mixed = coregionalize(parts, mixing)
    wanted = sum(
        gram(k, t, u) * mixing[:, l, None] * mixing[:, l] for l, k in enumerate(parts)
    )  # (8, 6, 3, 3)
    torch.testing.assert_close(gram(mixed, t, u), wanted)
    assert mixed.H.shape == (3, 4)


@pytest.mark.parametrize(
    "kernel, slopes, formula",
    [
        (matern(1.5, L, V), [1], matern_formula(1)),
        (matern(2.5, L, V), [1], matern_formula(2)),
        (oscillator(3.0, 2.0, V), [1], oscillator_formula(3.0, 2.0)),
        (cosine(3.0, V), [1], CLOSED["cosine"][1]),
        (periodic(L, 0.9, V, harmonics=16), range(2, 33, 2), periodic_formula),
        (integrated_wiener(V, 0.2, 0.5, -0.5), [1], line_of_walks),
    ],
)
def test_outputs_may_be_a_value_and_its_derivative(kernel, slopes, formula):
    """Cov(f(t), f'(u)) = dk / du: its sign tells which of both times is the earlier."""
    derivative = torch.zeros_like(kernel.units)
    derivative[list(slopes)] = kernel.units[list(slopes)]
    both = kernel._replace(H=torch.stack([kernel.H[0], derivative]))
    t, u = times(9)[:, None], times(7).requires_grad_()
    (slope,) = torch.autograd.grad(formula(t, u).sum(), u)
    found = gram(both, t[:, 0], u.detach())
    torch.testing.assert_close(found[..., 0, 1].sum(0), slope, rtol=1e-9, atol=1e-9)
    found = gram(both, u.detach(), t[:, 0])
    torch.testing.assert_close(found[..., 1, 0].sum(1), slope, rtol=1e-9, atol=1e-9)


def test_units_give_the_derivatives():
    """Cov(f', f') = -k''(0), from the second coordinate and its unit."""
    t = torch.zeros(1, dtype=torch.float64)
    for kernel, minus_second_derivative in (
        (matern(1.5, L, V), 3 * V / L**2),
        (matern(2.5, L, V), 5 * V / (3 * L**2)),
        (matern(3.5, L, V), 7 * V / (5 * L**2)),
        (oscillator(3.0, 2.0, V), 9 * V),
        (cosine(3.0, V), 9 * V),
    ):
        slope = (kernel.units[1] ** 2 * kernel.covariance(t)[0, 1, 1]).item()
        assert slope == pytest.approx(minus_second_derivative, rel=1e-12)


@pytest.mark.parametrize("order, bound", [(4, 1.71e-2), (5, 7.0e-3), (6, 3.0e-3), (8, 6.1e-4)])
def test_error_of_the_squared_exponential(order, bound):
    """It falls with the order; the state is well conditioned in its coordinates."""
    r = torch.linspace(0, 6, 601, dtype=torch.float64)
    kernel = squared_exponential(1.0, 1.0, order)
    found = gram(kernel, r, r[:1])[:, 0, 0, 0]
    error = float((found - torch.exp(-(r**2) / 2)).abs().max())
    assert 0.9 * bound < error < bound
    assert kernel.approximate and not matern(1.5, 1.0).approximate
    assert torch.linalg.cond(kernel.covariance(r[:1])[0]) < 100


@pytest.mark.parametrize("kernel", [oscillator(2.0, 0.3, V), oscillator(2.0, 4.0, V)])
def test_noise_of_short_gaps_of_an_oscillator(kernel):
    """Q = 2 (w / quality) variance [[h^3 / 3, h^2 / 2], [h^2 / 2, h]] as h -> 0, in units of f' / w."""
    h = torch.tensor([1e-7], dtype=torch.float64)
    _, Q = kernel.transition(torch.zeros_like(h), h)
    wh = 2.0 * float(h)
    q = float(Q[0, 1, 1]) / wh
    wanted = q * torch.tensor([[wh**3 / 3, wh**2 / 2], [wh**2 / 2, wh]], dtype=torch.float64)
    torch.testing.assert_close(Q[0], wanted, rtol=1e-5, atol=0)


def test_noise_of_short_gaps_of_the_squared_exponential():
    """Of order n, f moves by the noise of an n-fold integral: h^(2 n - 1)."""
    h = torch.tensor([1e-2, 2e-2], dtype=torch.float64)
    _, Q = squared_exponential(1.0, 1.0, 4).transition(torch.zeros_like(h), h)
    growth = math.log2(float(Q[1, 0, 0] / Q[0, 0, 0]))
    assert growth == pytest.approx(7.0, abs=0.1)


def test_bessel_functions_and_their_derivatives():
    """e^-k (I_0 + 2 I_1 + 2 I_2 + ...) = 1, and so the derivatives sum to zero."""
    k = torch.tensor([0.0, 0.04, 1.0, 30.0], dtype=torch.float64, requires_grad=True)
    values = scaled_bessel(k, 60)
    total = values[:, 0] + 2 * values[:, 1:].sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    (slope,) = torch.autograd.grad(total.sum(), k)
    assert slope.abs().max() < 1e-12
    positive = torch.tensor([0.04, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    for count in (1, 2, 5):
        assert torch.autograd.gradcheck(lambda k, n=count: scaled_bessel(k, n), positive)
        assert torch.autograd.gradgradcheck(lambda k, n=count: scaled_bessel(k, n), positive)


@pytest.mark.parametrize("lengthscale", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_as_many_harmonics_as_are_needed(lengthscale, tolerance):
    """The error is largest at r = 0, where it is what is left out; one fewer would not do."""
    k = torch.tensor(lengthscale**-2.0)
    J = count_harmonics(k, tolerance)
    zero = torch.zeros(1, dtype=torch.float64)
    for harmonics, enough in ((J, True), (J - 1, False)):
        kernel = periodic(lengthscale, 1.0, harmonics=harmonics)
        left_out = 1 - float(gram(kernel, zero, zero))
        assert (left_out < tolerance) == enough
    assert periodic(lengthscale, 1.0, tolerance=tolerance).H.shape == (1, 1 + 2 * J)


MAKERS = {
    "matern1": lambda a, b, c: matern(0.5, a, b),
    "matern3": lambda a, b, c: matern(1.5, a, b),
    "matern5": lambda a, b, c: matern(2.5, a, b),
    "matern7": lambda a, b, c: matern(3.5, a, b),
    "squared exponential": lambda a, b, c: squared_exponential(a, b, 4),
    "periodic": lambda a, b, c: periodic(a, b, c, harmonics=4),
    "quasi-periodic": lambda a, b, c: quasi_periodic(a, b, c, a, harmonics=2),
    "cosine": lambda a, b, c: cosine(a, b),
    "constant": lambda a, b, c: constant(a),
    "linear": lambda a, b, c: linear(a, b),
    "wiener": lambda a, b, c: wiener(a, b),
    "integrated wiener": lambda a, b, c: integrated_wiener(a, b, c),
    "swinging": lambda a, b, c: oscillator(a, 1.2 + b, c),
    "creeping": lambda a, b, c: oscillator(a, 0.2 * b, c),
    "critical": lambda a, b, c: oscillator(a, 0.5 + 1e-3 * b, c),
    "sum": lambda a, b, c: add(matern(1.5, a, b), scale(linear(b), c)),
    "product": lambda a, b, c: multiply(matern(1.5, a, b), integrated_wiener(c, b, a)),
    "mixed": lambda a, b, c: coregionalize(
        [matern(0.5, a), matern(1.5, b)], torch.stack([a, b, c, a * c]).view(2, 2)
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_in_parameters_and_times(name):
    parameters = [torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.9, 1.3)]
    t = torch.tensor([0.3, 0.32, 0.9, 3.0, 9.0], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (*parameters, t)]

    def everything(a, b, c, t):
        kernel = MAKERS[name](a, b, c)
        rows = chain(kernel, t)
        back, noise = kernel.backward(t[:-1], t[1:])
        return [
            x for x in (rows.A[1:], rows.Q[1:], rows.P0, kernel.H, back, noise) if x.requires_grad
        ]

    assert torch.autograd.gradcheck(everything, inputs)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_finite_where_a_time_repeats(name):
    parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.9, 1.3)]
    t = torch.tensor([0.0, 0.0, 0.3, 0.3, 0.3], dtype=torch.float64, requires_grad=True)
    rows = chain(MAKERS[name](*parameters), t)
    loss = rows.A.square().sum() + rows.Q.sum() + rows.P0.sum()
    for g in torch.autograd.grad(loss, (*parameters, t), allow_unused=True):
        assert g is None or g.isfinite().all()


def test_a_first_use_without_gradients_does_not_spoil_training():
    """What is made once and kept must not remember how it was first asked for."""
    t = torch.rand(4, dtype=torch.float64).sort().values
    lengthscale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for make in (
        lambda: matern(5.5, lengthscale),
        lambda: squared_exponential(lengthscale, 1.0, 7),
    ):
        with torch.inference_mode():
            chain(make(), t)
        chain(make(), t).Q.sum().backward()
        assert lengthscale.grad.isfinite()


def test_the_past_of_a_walk_is_a_bridge():
    """Between its origin, where it is zero, and f(1): mean share * f, variance share (1 - share)."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    G, noise = wiener(1.0).backward(t, torch.ones_like(t))
    torch.testing.assert_close(G[:, 0, 0], t)
    torch.testing.assert_close(noise[:, 0, 0], t * (1 - t))


def test_nothing_is_known_of_a_walk_before_it_moved():
    """At its origin it is surely zero: no division by the variance there."""
    zero = torch.zeros(1, dtype=torch.float64)
    for kernel in (wiener(1.0), integrated_wiener(1.0)):
        G, noise = kernel.backward(zero, zero)
        assert not G.any() and not noise.any()
    # the level is known at the origin and the slope is not: only the slope is learned from
    G, noise = integrated_wiener(1.0, slope=0.5).backward(zero, zero)
    torch.testing.assert_close(G[0], torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    assert not noise.any()


def test_what_is_refused():
    t = torch.tensor([-1.0, 0.0])
    for kernel in (wiener(), integrated_wiener(), add(matern(0.5, 1.0), wiener())):
        with pytest.raises(DataError, match=r"TSD-D17.*origin"):
            chain(kernel, t)
    mixing = torch.ones(3, 2)
    mixed = coregionalize([matern(0.5, 1.0)] * 2, mixing)
    with pytest.raises(ConfigError, match=r"TSD-X01.*outputs"):
        add(mixed, matern(0.5, 1.0))
    with pytest.raises(ConfigError, match=r"TSD-X01.*mixing"):
        coregionalize([matern(0.5, 1.0)], mixing)
    with pytest.raises(ConfigError, match=r"TSD-X01.*mixing"):
        coregionalize([mixed, mixed], mixing)
    with pytest.raises(ConfigError, match=r"TSD-X01.*order"):
        squared_exponential(1.0, order=12)
    with pytest.raises(ConfigError, match=r"TSD-X01.*lengthscale"):
        periodic(1e-4, 1.0)


def test_kernels_of_numbers_follow_their_times(device):
    t = torch.linspace(0, 3, 7, dtype=torch.float64)
    for make in ALL.values():
        rows, expected = chain(make(), t.to(device)), chain(make(), t)
        for a, b in zip(rows[:3], expected[:3]):
            assert a.device.type == torch.device(device).type
            torch.testing.assert_close(a.cpu(), b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [n for n in ALL if not n.endswith(("wiener", "walks"))])
def test_nothing_of_a_kernel_of_numbers_stays_on_the_cpu(name):
    """A device without values refuses to mix; walks look at theirs, and cannot be asked there."""
    t = torch.empty(7, dtype=torch.float64, device="meta")
    kernel = ALL[name]()
    made = [*chain(kernel, t)[:3], *kernel.backward(t[:-1], t[1:]), gram(kernel, t, t)]
    assert {x.device.type for x in made} == {"meta"}
