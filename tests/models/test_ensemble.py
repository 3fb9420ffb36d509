import torch

import tsdyn
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting
from tsdyn.models.baselines import LastValue
from tsdyn.models.ensemble import Ensemble
from tsdyn.models.linear import Linear
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE


def question():
    return Forecasting(steps=3)(OrnsteinUhlenbeck(n=6, length=12)())


def small():
    return StableSDE(1, hidden=8, neighbours=2, draws=2)


def test_members_share_arguments_and_not_weights():
    model = Ensemble(small(), members=3)
    first, *others = model.members
    for other in others:
        assert other.arguments == first.arguments
        assert not torch.equal(other.start.weight, first.start.weight)


def test_loss_is_the_mean_of_its_members_and_each_gets_its_own_gradient():
    given, want = question()
    model = Ensemble(small(), members=2)
    torch.manual_seed(0)
    together = model.loss(given, want)
    torch.manual_seed(0)
    alone = [m.loss(given, want) for m in model.members]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    together.backward()
    alone[0].backward(inputs=[model.members[0].field.kappa])  # adds its own gradient, whole
    torch.manual_seed(0)
    own = torch.autograd.grad(model.members[0].loss(given, want), model.members[0].field.kappa)[0]
    torch.testing.assert_close(model.members[0].field.kappa.grad, 1.5 * own)


def test_draws_are_shared_out():
    given, want = question()
    model = Ensemble(Scaled(Linear(1), 1), members=3)
    model.on_epoch(0, (given, want))  # closed form: every member is the same afterwards
    draws = model.sample(given, want.t, 8)
    assert draws.shape == (8, *want.x.shape) and draws.isfinite().all()
    assert Ensemble(LastValue(), members=5).sample(given, want.t, 2).shape[0] == 2


def test_one_member_is_the_model_itself():
    given, want = question()
    model = small()
    torch.manual_seed(0)
    alone = model.sample(given, want.t, 4)
    torch.manual_seed(0)
    assert torch.equal(Ensemble(model, members=1).sample(given, want.t, 4), alone)


def test_it_comes_back_from_disk(tmp_path):
    given, want = question()
    model = Scaled(Ensemble(small(), members=2), 1)
    model.on_epoch(0, (given, want))
    tsdyn.save(model, tmp_path / "m.pt")
    again = tsdyn.load(tmp_path / "m.pt", "cpu")
    with tsdyn.seed(0):
        draws = model.eval().sample(given, want.t, 5)
    with tsdyn.seed(0):
        assert torch.equal(again.sample(given, want.t, 5), draws)
