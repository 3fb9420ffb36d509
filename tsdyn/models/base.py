"""What it takes to be a model: a loss to train on, and samples to predict with."""

import abc
import inspect
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ModelError


class _Remembers(abc.ABCMeta):
    """Keeps the arguments an instance was built with, so that `tsdyn.load` can build it again."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__call__(*args, **kwargs)
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()
        self.arguments = {}
        for name, value in arguments:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                self.arguments |= value
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                self.arguments[name] = value
            elif value:
                raise TypeError(f"{cls.__name__}(*{name}) cannot be saved: give them a name each")
        return self


P = TypeVar("P", bound="Part")


class Part(nn.Module, metaclass=_Remembers):
    """A module that a checkpoint may name: its class, its arguments and its weights are all it is."""

    arguments: dict[str, Any]


class Model(Part):
    """A conditional distribution: p(want | given).

    Every batch is a pair: what is `given` and what is `want`ed. Forecasting, imputation and
    reconstruction differ only in how the pair was cut; no model asks which it is.
    """

    channels: tuple[str, ...] = ()  # that it was trained on, by name and in order; may be empty

    @abc.abstractmethod
    def loss(self, given: Any, want: Any) -> Tensor:
        """-log p(want | given), a scalar in nats per observed value of `want`."""

    @abc.abstractmethod
    def sample(self, given: Any, at: Tensor, n: int) -> Tensor:
        """n draws from p(x(at) | given): at (B, T) -> (n, B, T, D). Chance comes from torch's generator."""

    def on_epoch(self, epoch: int, train: tuple[Any, Any]) -> None:
        """Called as each epoch starts, with the whole training set as one big pair (given, want).

        For what gradients do not do: statistics, closed-form fits, half-bridges, EM, messages.
        """


def title(model: Model) -> str:
    """The name of a model with what it wraps: `Scaled(StableSDE)`."""
    inner = model.arguments.get("model")
    name = type(model).__name__
    return f"{name}({title(inner)})" if isinstance(inner, Model) else name


def fresh(model: Model) -> Model:
    """Another model of the same arguments, with first weights of its own draw."""
    return renewed(model)


def renewed(part: P) -> P:
    """Another part of the same arguments."""

    def again(value: Any) -> Any:
        if isinstance(value, Part):
            return renewed(value)
        return [again(v) for v in value] if isinstance(value, list | tuple) else value

    return type(part)(**{name: again(value) for name, value in part.arguments.items()})


def require_fitted(fitted: Tensor, model: str) -> None:
    """M01 unless the buffer `fitted` says that a training set has been seen."""
    if not bool(torch.any(fitted)):
        raise ModelError(
            "M01",
            f"{model} was asked before it saw a training set",
            "a fitted model",
            "Train it with `tsdyn.fit(model, paths, task)` or `tsdyn fit`, or load a trained one",
        )
