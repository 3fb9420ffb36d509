import math

import torch

from tsdyn.maths.quadrature import gauss_legendre


def test_polynomials_are_integrated_exactly_and_smooth_functions_nearly() -> None:
    t, w = gauss_legendre(3.0, 5)
    torch.testing.assert_close((w * t**9).sum(), torch.tensor(3.0**10 / 10).double())
    assert abs(float((w * t**10).sum()) - 3.0**11 / 11) > 0.1
    t, w = gauss_legendre(2.0, 20)
    assert math.isclose(float((w * t.exp()).sum()), math.e**2 - 1, rel_tol=1e-13)
