"""What a model remembers of its making."""

import pytest
import torch

from tsdyn.errors import ModelError
from tsdyn.models.base import Model, require_fitted
from tsdyn.models.baselines import LastValue


class Many(Model):
    def __init__(self, dim, *more, width=3, **options):
        super().__init__()

    def loss(self, given, want):
        return torch.zeros(())

    def sample(self, given, at, n):
        return torch.zeros(n, *at.shape, 1)


def test_arguments_are_remembered_by_name_with_their_defaults():
    assert Many(2).arguments == {"dim": 2, "width": 3}
    assert Many(2, width=1, colour="red").arguments == {"dim": 2, "width": 1, "colour": "red"}
    assert LastValue().arguments == {}


def test_arguments_without_a_name_cannot_be_remembered():
    with pytest.raises(TypeError, match=r"Many\(\*more\).*name"):
        Many(2, 3)


def test_a_model_must_say_what_it_is():
    with pytest.raises(TypeError, match="abstract"):
        Model()


def test_not_fitted_says_what_to_do():
    require_fitted(torch.tensor(True), "Any")
    with pytest.raises(ModelError, match=r"TSD-M01: Any was asked.*Train it with `tsdyn.fit"):
        require_fitted(torch.tensor(False), "Any")
