"""The forecaster of the published code, for comparison.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time series
    data. ICLR 2024: the code published with it, Hopper benchmark.
"""

import torch
from torch import Tensor, nn

from ..batch import Paths
from ..errors import ModelError
from ..maths.grid import grid
from ..maths.spline import evaluate, natural
from .base import Model
from .fields import Gate, Kind, PublishedField, follow
from .heads import LOSSES, Law


class PublishedSDE(Model):
    """x_{N+k} = R(z(t_{N-Q+k})), k = 1..Q: the states at the last Q of N input times, read out  [1]

    z is a `PublishedField` along the natural cubic spline X(t) of what was given, in Euler steps from
    one input time to the next, z(t_1) = A X(t_1). It is a regression from sequence to sequence: which
    times are asked is not read, only how many. The loss is the squared error plus penalty times the
    sum of the Frobenius norms of the parameters of the field; under it the noise dies, so that the
    draws are no predictive distribution. `StableSDE` is what to use instead.

    Args:
        dim: coordinates of the series, D.
        kind, hidden, depth, gate: as in `PublishedField`.
        rows: input times 0, 1, ..., rows - 1, N, whether or not anything was observed there.
        penalty: weight of the norms.
    """

    def __init__(
        self,
        dim: int,
        kind: Kind = "linear_noise",
        hidden: int = 32,
        depth: int = 2,
        rows: int = 50,
        gate: Gate = "tanh",
        penalty: float = 0.01,
    ):
        super().__init__()
        self.rows, self.penalty = rows, penalty
        self.field = PublishedField(dim, hidden, kind, depth, gate=gate)
        self.first = nn.Linear(dim, hidden)
        self.readout = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def predict(self, given: Paths, wanted: int, n: int) -> Tensor:
        """n answers to the next `wanted` rows: (n, B, wanted, D).

        Raises:
            ModelError: M05 if more rows are wanted than there are input times.
        """
        if wanted > self.rows:
            raise ModelError(
                "M05",
                f"PublishedSDE was asked for {wanted} rows",
                f"at most as many as its {self.rows} input times",
                "Ask for fewer, or use `StableSDE`, which answers at any time",
            )
        at = torch.arange(self.rows, dtype=given.x.dtype, device=given.x.device)
        path = natural(given.t.to(given.x.dtype), given.x, given.mask)
        x = evaluate(path, at.expand(len(given.x), -1))  # (B, N, D)
        begin = at[:1].expand(len(x))
        z0 = self.first(x[:, 0])
        steps = grid(at)
        z = follow(self.field, z0, x[:, :-1].transpose(0, 1), steps, begin, n)
        return self.readout(z[:, :, self.rows - wanted :])  # type: ignore[no-any-return]

    def loss(self, given: Paths, want: Paths) -> Tensor:
        mean = self.predict(given, want.t.shape[1], 1)
        norms = torch.stack([p.norm() for p in self.field.parameters()]).sum()
        return LOSSES["mse"](Law(mean, torch.ones_like(mean)), want) + self.penalty * norms

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        return self.predict(given, at.shape[1], n)
