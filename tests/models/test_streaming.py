"""Row by row is the same as all at once."""

import pytest
import torch

from tsdyn.batch import Paths, trim
from tsdyn.errors import DataError
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import Coregionalized, IntegratedWiener, Matern, Periodic, Product, Sum
from tsdyn.models.likelihoods import GaussianNoise
from tsdyn.models.mean_functions import MeanFunction
from tsdyn.models.streaming import StreamingGP

CASES = {
    "Matern": lambda: Matern(2.5, [0.7, 1.5]),
    "trend": lambda: Sum([IntegratedWiener(0.1, 1.0, 1.0), Matern(0.5, 0.5)]),
    "season": lambda: Product([Matern(1.5, 5.0), Periodic(1.0, 3.0, harmonics=3)]),
    "mixed": lambda: Coregionalized([Matern(0.5, 0.7), Matern(1.5, 2.0)], 2),
}


def made(case: str) -> tuple[StateSpaceGP, Paths]:
    t = (10 * torch.rand(3, 25).double()).sort(1).values
    t[:, 5] = t[:, 4]
    x = torch.randn(3, 25, 2).double()
    mask = torch.rand(3, 25, 2) > 0.3
    paths = Paths(t, x.where(mask, torch.nan), mask)
    gp = StateSpaceGP(2, CASES[case](), GaussianNoise(2, [0.3, 0.1]), MeanFunction(2, 1))
    gp.on_epoch(0, (paths, paths))
    return gp, paths


def rows(paths: Paths, start: int, stop: int) -> Paths:
    return Paths(paths.t[:, start:stop], paths.x[:, start:stop], paths.mask[:, start:stop])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_streaming_is_batch_filtering(case, steps):
    gp, paths = made(case)
    stream, state = StreamingGP(gp), None
    with torch.no_grad():
        for start in range(0, 25, steps):
            state = stream.update(state, rows(paths, start, start + steps))
            so_far = trim(paths, start + steps)
            torch.testing.assert_close(state.log_z, gp.evidence(so_far), rtol=1e-10, atol=1e-10)
        at = paths.t[:, -1:] + torch.tensor([0.0, 0.3, 4.0]).double()
        for latent in (False, True):
            ours, batch = stream.forecast(state, at, latent), gp.posterior(paths, at, latent)
            torch.testing.assert_close(ours.mean, batch.mean, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(ours.var, batch.var, rtol=1e-10, atol=1e-10)


def test_a_state_can_be_gone_on_from_twice():
    gp, paths = made("Matern")
    stream = StreamingGP(gp)
    state = stream.update(None, rows(paths, 0, 10))
    kept = [f.clone() for f in state]
    one, two = (stream.update(state, rows(paths, 10, 12)) for _ in range(2))
    for a, b in zip((*one, *state), (*two, *kept)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_past_is_past():
    gp, paths = made("Matern")
    stream = StreamingGP(gp)
    state = stream.update(None, rows(paths, 0, 10))
    for ask in (
        lambda: stream.update(state, rows(paths, 3, 4)),
        lambda: stream.forecast(state, paths.t[:, :1]),
    ):
        with pytest.raises(DataError) as raised:
            ask()
        assert raised.value.code == "TSD-D07"
