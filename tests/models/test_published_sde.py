"""The published forecaster: its states at the last input times, and nothing of the times asked."""

import pytest
import torch

import tsdyn
from tsdyn.batch import Paths, take
from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import DataError, ModelError
from tsdyn.maths.grid import Grid
from tsdyn.maths.spline import evaluate, natural
from tsdyn.models.fields import follow
from tsdyn.models.published_sde import PublishedSDE


def question(rows: int = 12, wanted: int = 3) -> tuple[Paths, Paths]:
    g = torch.Generator().manual_seed(0)
    t = torch.arange(rows + wanted).double().repeat(5, 1)
    seen = torch.rand(5, rows + wanted, 1, generator=g) < 0.7
    seen[:, 0] = seen[:, rows:] = True
    x = torch.randn(5, rows + wanted, 2, generator=g)
    return Forecasting(steps=wanted)(Paths(t, x, seen.expand_as(x)))


def test_answers_are_read_out_of_euler_states_at_the_last_input_times():
    """Step by step: z += f dt + g dW along the natural spline, from A X(0), one row at a time."""
    given, want = question()
    model = PublishedSDE(2, "ode", hidden=6, rows=12)
    at = torch.arange(12.0).expand(5, -1)
    x = evaluate(natural(given.t.float(), given.x, given.mask), at)
    z = model.first(x[:, 0])
    states = [z]
    for k in range(11):
        one = Grid(torch.full((1, 1, 1), float(k)), torch.ones(1, 1, 1), (1,))
        z = follow(model.field, z, x[None, :, k], one, torch.zeros(5), 1)[0, :, 0]
        states.append(z)
    exact = model.readout(torch.stack(states[-3:], 1))
    torch.testing.assert_close(model.predict(given, 3, 1)[0], exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.sample(given, 100 + want.t, 2)[1], exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["langevin", "linear_noise", "geometric", "neural"])
def test_the_loss_is_the_squared_error_and_the_norms(kind):
    given, want = question()
    model = PublishedSDE(2, kind, hidden=6, rows=12, penalty=0.1)
    torch.manual_seed(0)
    error = (model.predict(given, 3, 1)[0] - want.x).square().mean()
    torch.manual_seed(0)
    loss = model.loss(given, want)
    norms = sum(p.norm() for p in model.field.parameters())
    torch.testing.assert_close(loss, error + 0.1 * norms)


def test_it_answers_no_more_rows_than_it_reads():
    given, _ = question()
    with pytest.raises(ModelError, match="M05"):
        PublishedSDE(2, rows=12).predict(given, 13, 1)


@pytest.mark.slow
def test_it_learns_the_hopper_as_slowly_as_the_published_code():
    """The published code reaches a test MSE of .036 in 200 steps of Adam on batches of 1024; the band is
    what other seeds and machines were seen to give. The last value has .0018."""
    try:
        paths = tsdyn.load_dataset("hopper", missing=0.3)
    except DataError:
        pytest.skip("the data of the hopper are not here; set TSDYN_DATA")
    task, split = Forecasting(steps=10), BySeries(shuffle=False)
    train = task(split(paths, task).train)
    torch.manual_seed(0)
    model = PublishedSDE(14)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    for _ in range(100):
        for rows in torch.randperm(2800)[:2048].split(1024):
            optimizer.zero_grad()
            model.loss(take(train[0], rows), take(train[1], rows)).backward()
            optimizer.step()
    given, want = split(paths, task).test
    with torch.no_grad():
        error = (model.predict(given, 10, 1)[0] - want.x).square().mean()
    assert 0.030 < float(error) < 0.045
