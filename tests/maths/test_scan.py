"""Oracle: one row after the other. Whole numbers modulo a prime make associativity exact."""

import pytest
import torch

from tsdyn.maths.scan import accumulate, scan

PRIME = 10007
LENGTHS = [1, 2, 3, 4, 5, 8, 13, 1000]


def compose(earlier, later):
    """x -> a x + b, then x -> c x + d, modulo a prime: does not commute."""
    (a, b), (c, d) = earlier, later
    return (a * c % PRIME, (c * b + d) % PRIME)


def apply(state, element):
    (x,), (a, b) = state, element
    return ((a * x + b) % PRIME,)


def maps(*shape: int):
    return torch.randint(PRIME, shape), torch.randint(PRIME, shape)


@pytest.mark.parametrize("N", LENGTHS)
def test_scan_is_the_product_of_all_rows_before(N):
    elements = maps(2, 3, N)
    found = scan(compose, elements)
    running = tuple(e[..., 0] for e in elements)
    for k in range(N):
        if k:
            running = compose(running, tuple(e[..., k] for e in elements))
        for f, e in zip(found, running):
            assert torch.equal(f[..., k], e)


@pytest.mark.parametrize("N", LENGTHS)
def test_in_reverse_it_is_the_product_of_all_rows_behind(N):
    elements = maps(2, N)
    found = scan(compose, elements, reverse=True)
    running = tuple(e[..., -1] for e in elements)
    for k in reversed(range(N)):
        if k < N - 1:
            running = compose(tuple(e[..., k] for e in elements), running)
        for f, e in zip(found, running):
            assert torch.equal(f[..., k], e)


@pytest.mark.parametrize("backend", ["scan", "loop"])
@pytest.mark.parametrize("N", LENGTHS)
def test_states_follow_their_elements(N, backend):
    elements, start = maps(2, N), (torch.randint(PRIME, (2, 1)),)
    (found,) = accumulate(compose, apply, elements, start, backend=backend)
    x = start[0][..., 0]
    for k in range(N):
        x = (elements[0][..., k] * x + elements[1][..., k]) % PRIME
        assert torch.equal(found[..., k], x)


@pytest.mark.parametrize("backend", ["scan", "loop"])
@pytest.mark.parametrize("N", LENGTHS)
def test_states_follow_their_elements_backwards(N, backend):
    elements, start = maps(2, N), (torch.randint(PRIME, (2, 1)),)
    combine = lambda earlier, later: compose(later, earlier)
    (found,) = accumulate(combine, apply, elements, start, True, backend)
    x = start[0][..., 0]
    for k in reversed(range(N)):
        x = (elements[0][..., k] * x + elements[1][..., k]) % PRIME
        assert torch.equal(found[..., k], x)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("N", [1, 2, 5, 6])
def test_first_and_second_derivatives(N, reverse):
    def run(a, b, x):
        affine = lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1])
        act = lambda s, e: (e[0] * s[0] + e[1],)
        combine = (lambda p, q: affine(q, p)) if reverse else affine
        return accumulate(combine, act, (a, b), (x,), reverse)[0]

    inputs = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (N, N, 1)]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_the_work_is_linear_in_the_length():
    """Rows combined plus rows acted upon: at most 2 N, and no pass over rows one by one."""
    rows, passes = 0, 0

    def counted(f):
        def call(first, second):
            nonlocal rows, passes
            rows, passes = rows + second[0].shape[-1], passes + 1
            return f(first, second)

        return call

    N = 1 << 12
    accumulate(counted(compose), counted(apply), maps(N), (torch.zeros(1).long(),))
    assert rows <= 2 * N and passes <= 2 * 12 + 1
