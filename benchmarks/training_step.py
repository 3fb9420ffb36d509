"""What does hoisting buy a training step of a linear-noise neural SDE driven by observations?

One step of Adam on a batch of 1024 series, 49 solver steps, 14 channels, width 32, two hidden layers,
as in the Hopper benchmark of Oh, Lim & Kim (ICLR 2024). Compared are

    reference  the layout of the published code: at every step of the loop the spline is read, two
               embeddings and one network make the drift, and a network makes sigma(t); torchsde's Euler
               with a BrownianInterval that is told the step
    ours       the same number of parameters in the drift: X(t) is read and embedded for all steps at
               once, the embedding folded into the first layer, sigma(t) computed for all steps at once,
               Lie splitting

CPU milliseconds of one thread, the median of rounds in which the two take turns.

    python benchmarks/training_step.py [--rounds 15]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchsde
from torch import Tensor, nn

from tsdyn.maths.sde import LinearNoise
from tsdyn.maths.solve import grid, increments, lie, solve
from tsdyn.maths.spline import Path, evaluate, natural

BATCH, ROWS, CHANNELS, WIDTH = 1024, 50, 14, 32


def phase(t: Tensor) -> Tensor:
    """(sin t, cos t) along the last axis."""
    return torch.cat([t.sin(), t.cos()], -1)


class Reference(nn.Module):
    """f = tanh(MLP([A(z, phase), B X(t)])), g = tanh(sigmoid(theta) relu(N(phase)) z), all in the loop."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self) -> None:
        super().__init__()
        self.observe = nn.Linear(CHANNELS, WIDTH)
        self.state = nn.Linear(WIDTH + 2, WIDTH)
        self.join = nn.Linear(2 * WIDTH, WIDTH)
        self.net = nn.Sequential(
            nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.theta = nn.Parameter(torch.ones(1, 1))
        self.noise = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.start = nn.Linear(CHANNELS, WIDTH)
        self.readout = nn.Linear(WIDTH, CHANNELS)

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        tau = phase(t.expand(len(z), 1))
        x = evaluate(self.path, t.expand(len(z), 1))[:, 0]
        u = self.join(torch.cat([self.state(torch.cat([z, tau], -1)), self.observe(x)], -1))
        return self.net(u).tanh()

    def g(self, t: Tensor, z: Tensor) -> Tensor:
        tau = phase(t.expand(len(z), 1))
        return (self.theta.sigmoid() * self.noise(tau).relu() * z).tanh()

    def forward(self, t: Tensor, path: Path) -> Tensor:
        self.path = path
        z0 = self.start(evaluate(path, t[:1].expand(BATCH, 1))[:, 0])
        size = (BATCH, WIDTH)
        w = torchsde.BrownianInterval(float(t[0]), float(t[-1]), size, dt=1.0)
        return self.readout(torchsde.sdeint(self, z0, t, bm=w, dt=1.0, method="euler"))


class Ours(nn.Module):
    """The same drift with everything that does not see z in front of the loop; sigma(t) z dW exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.observe = nn.Linear(CHANNELS + 2, WIDTH)
        self.state = nn.Linear(WIDTH, WIDTH, bias=False)
        self.net = nn.Sequential(
            nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.noise = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.start = nn.Linear(CHANNELS, WIDTH)
        self.readout = nn.Linear(WIDTH, CHANNELS)

    def forward(self, t: Tensor, path: Path) -> Tensor:
        seen = evaluate(path, t.expand(BATCH, -1))  # (B, T, C)
        now = grid(t)
        tau = phase(now.t)  # (N, 1, 2)
        control = seen.transpose(0, 1)[:-1]  # (N, B, C): X at the start of each step
        control = self.observe(torch.cat([control, tau.expand(-1, BATCH, -1)], -1))
        sigma = 0.5 * self.noise(tau).sigmoid()  # (N, 1, H)
        sde = LinearNoise(lambda t, z, c, s: self.net(c + self.state(z)).tanh(), lambda t, c, s: s)
        z0 = self.start(seen[:, 0])
        noise = increments(now, z0)
        z = solve(lie(sde), z0, now, noise, (control, sigma.expand(-1, BATCH, -1)))
        return self.readout(z)


def training_step(model: nn.Module) -> Callable[[], None]:
    torch.manual_seed(0)
    t = torch.arange(ROWS, dtype=torch.float32)
    x = torch.randn(BATCH, ROWS, CHANNELS).cumsum(1) / 5
    mask = (torch.rand(BATCH, ROWS, 1) > 0.3).expand_as(x)
    path = natural(t.expand(BATCH, -1), x, mask)  # made once, with the data
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        model(t, path).square().mean().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    steps = {"reference": training_step(Reference()), "ours": training_step(Ours())}
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(rounds + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if k >= 2:
                spent[name].append(1e3 * (time.process_time() - start))
    median = {name: statistics.median(times) for name, times in spent.items()}
    print(
        f"batch {BATCH}, {ROWS - 1} steps, width {WIDTH}; CPU ms of one thread, median of {rounds}\n"
    )
    print("| layout | training step |\n| --- | --- |")
    for name, value in median.items():
        print(f"| {name} | {value:.0f} |")
    print(f"\nreference / ours: {median['reference'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
