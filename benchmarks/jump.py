"""How near do methods come to the rates of the flashing ratchet, and what do they cost?

    OMP_NUM_THREADS=1 python benchmarks/jump.py [--subsets 15] [--paths CHECKPOINT] [--weights FILE] [--ship CHECKPOINT]

Root mean square error of the 30 rates of six states, means over subsets of 300 paths and their deviation; share of rates inside
the 90 % interval; CPU seconds for one subset on one thread. Paths of length 2.5 are simulated by the equation of the ratchet and seen
100 times at equal distances or at half of these times, drawn anew for every path. Rows: crude rates (C_ij + .1) / (T_i + .1); the
logarithm of the transition matrix of deeptime, where times are regular; exact expectation maximisation for labels seen exactly
("EM") and for labels that may be misread ("hidden EM"); the network in one pass; and the network refined by 50 exact steps. With
--paths also the network that reads paths one after the other, as far as that checkpoint was trained. First how long simulation and
searches take; last the three numbers that
made the rates, and the entropy production of the mean of all subsets.

--ship writes the weights of a checkpoint of configs/jump_pretrain.yaml into the package, with a card that holds
these scores, if they pass the gates.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.data.files import digest
from tsdyn.data.jump_systems import FlashingRatchet, IonChannel, flashing_ratchet
from tsdyn.evaluation import markdown
from tsdyn.io import load
from tsdyn.maths.jump_counts import counts, crude_rates
from tsdyn.maths.jump_prior import RatePrior
from tsdyn.maths.jump_simulation import gillespie_grid
from tsdyn.maths.rate_matrix import entropy_production, from_rates
from tsdyn.models.jump import MarkovJump
from tsdyn.models.path_rate_network import PathRateNetwork
from tsdyn.models.rate_network import RateNetwork
from tsdyn.models.zero_shot import WEIGHTS, ReadsRates, pretrained, zero_shot

OFF = ~torch.eye(6, dtype=torch.bool)


class Case(NamedTuple):
    title: str
    V: float
    paths: int
    kept: float
    noise: float


CASES = [
    *(
        Case(f"V = {V}{seen}{said}", V, 300, kept, noise)
        for V in (0, 1, 2)
        for kept, seen in ((1.0, ""), (0.5, ", 50 irregular"))
        for noise, said in ((0.0, ""), (0.01, ", 1 % noise"), (0.1, ", 10 % noise"))
    ),
    Case("V = 1, 30 paths", 1, 30, 1.0, 0.0),
    Case("V = 1, 5000 paths", 1, 5000, 1.0, 0.0),
]
GATES = {"V = 0": 0.09, "V = 1": 0.11, "V = 2": 0.20, "V = 1, 50 irregular, 10 % noise": 0.15}
Answer = tuple[Tensor, Tensor | None]  # rates (6, 6), and their deviations
Method = Callable[[Paths], Answer]


def crude(paths: Paths) -> Answer:
    found = counts(paths.t, paths.x[..., 0], paths.mask[..., 0], 6)
    return crude_rates(found.gaps, found.C), None


def exact(paths: Paths) -> Answer:
    return MarkovJump(6, steps=300).fit(paths).Q, None


def hidden(paths: Paths) -> Answer:
    return MarkovJump(6, "misread", steps=100).fit(paths).Q, None


def logarithm(paths: Paths) -> Answer:
    """log of deeptime's transition matrix over the gap; not a number for irregular times."""
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM
    from scipy.linalg import logm

    if not bool(paths.mask.all()):
        return torch.full((6, 6), torch.nan), None
    labels = [p.numpy() for p in paths.x[..., 0].long()]
    counted = TransitionCountEstimator(1, "sliding", n_states=6).fit(labels).fetch_model()
    P = MaximumLikelihoodMSM(reversible=False).fit(counted).fetch_model().transition_matrix
    gap = float(paths.t[0, 1] - paths.t[0, 0])
    return torch.from_numpy(logm(P).real / gap), None


def once(network: ReadsRates) -> Method:
    def read(paths: Paths) -> Answer:
        found = zero_shot(paths, 6, network=network)
        return found.mean, found.deviation

    return read


def methods(network: RateNetwork, paths: PathRateNetwork | None) -> dict[str, Method]:
    def refined(given: Paths) -> Answer:
        found = zero_shot(given, 6, network=network, refine="em")
        return found.mean, found.deviation

    known: dict[str, Method] = {"crude": crude, "deeptime": logarithm, "EM": exact}
    known |= {"hidden EM": hidden, "network": once(network), "refined": refined}
    return known if paths is None else known | {"path network": once(paths)}


def subset(case: Case, seed: int) -> Paths:
    paths = FlashingRatchet(n=case.paths, V=case.V, noise=case.noise, seed=seed)()
    g = torch.Generator().manual_seed(seed)
    return paths._replace(mask=torch.rand(paths.mask.shape, generator=g) < case.kept)


def measured(case: Case, method: Method, subsets: int) -> dict[str, float]:
    truth, errors, inside, seconds = flashing_ratchet(case.V)[OFF], [], [], 0.0
    found = []
    for seed in range(subsets):
        paths = subset(case, seed)
        start = time.process_time()
        rates, deviation = method(paths)
        seconds += time.process_time() - start
        off = rates[OFF].double() - truth
        found.append(rates.double())
        errors.append(off.square().mean().sqrt())
        if deviation is not None:
            inside.append((off.abs() <= 1.645 * deviation[OFF]).double().mean())
    rmse = torch.stack(errors)
    made = torch.stack([numbers(Q) for Q in found])
    return {
        "rmse": float(rmse.mean()),
        "spread": float(rmse.std()) if subsets > 1 else 0.0,
        "cover90": float(torch.stack(inside).mean()) if inside else float("nan"),
        "seconds": seconds / subsets,
        **dict(zip("Vrb", made.mean(0).tolist(), strict=True)),
        **{f"{k} spread": float(u) for k, u in zip("Vrb", made.std(0), strict=True)},
        "entropy": produced(torch.stack(found).mean(0)),
    }


def numbers(Q: Tensor) -> Tensor:
    """V, r, b of rates that are those of a ratchet: potential, switching, and rates with the potential off."""
    on, off = Q[:3, :3].clamp(min=1e-6), Q[3:, 3:]
    i, j = (~torch.eye(3, dtype=torch.bool)).nonzero().unbind(1)
    V = (-2 * on[i, j].log() / (j - i)).mean()
    switch = torch.cat([Q.diagonal(3), Q.diagonal(-3)]).mean()
    return torch.stack([V, switch, off[i, j].mean()])


def produced(Q: Tensor) -> float:
    """Entropy production of the rates that are there at all, those above .02."""
    if not bool(Q.isfinite().all()):
        return float("nan")
    return float(entropy_production(from_rates(Q.where(OFF & (Q > 0.02) & (Q.mT > 0.02), 0.0))))


def table(
    network: RateNetwork, paths: PathRateNetwork | None, subsets: int, names: list[str] | None
) -> dict[str, dict[str, float]]:
    chosen = {k: m for k, m in methods(network, paths).items() if names is None or k in names}
    lines, laws, kept = [], [], {}
    for case in CASES:
        few = subsets if case.paths <= 300 else 2
        row, law = [case.title], [case.title]
        for name, method in chosen.items():
            found = measured(case, method, few)
            cover = "" if found["cover90"] != found["cover90"] else f", {found['cover90']:.2f}"
            row.append(
                f"{found['rmse']:.3f} ± {found['spread']:.3f}{cover}, {found['seconds']:.2f} s"
            )
            law.append(
                ", ".join(f"{found[k]:.2f} ± {found[k + ' spread']:.2f}" for k in "Vrb")
                + f"; {found['entropy']:.3f}"
            )
            if name == "network":
                kept[case.title] = found
        lines.append(row)
        laws.append(law)
        print("|", " | ".join(row), "|", flush=True)
    print(f"\n{markdown(['ratchet', *chosen], lines)}")
    print(f"\nV, r, b; entropy production\n\n{markdown(['ratchet', *chosen], laws)}")
    return kept


def speed() -> None:
    """Simulation, exact expectation maximisation on many paths, and a hidden chain on one long record."""

    def seconds(work: Callable[[], object], rounds: int = 3) -> float:
        work()
        start = time.process_time()
        for _ in range(rounds):
            work()
        return (time.process_time() - start) / rounds

    prior, g = RatePrior(), torch.Generator().manual_seed(0)
    chains = prior.sample(5000, 6, g)
    t = torch.linspace(0, 10, 100, dtype=torch.float64)
    taken = seconds(lambda: gillespie_grid(chains.rates, chains.initial, 20, t, g))
    many = FlashingRatchet(n=10_000, seed=0)()
    found = MarkovJump(6).fit(many)
    off = (found.Q - flashing_ratchet(1.0))[OFF].square().mean().sqrt()
    record = IonChannel(n=1, rows=20_000, seed=0)()
    hidden_chain = MarkovJump(3, "gaussian", starts=1, steps=50)
    lines = [
        [
            "Gillespie, 5,000 processes of six states x 20 paths x 100 times",
            f"{100_000 / taken:,.0f} paths a second",
        ],
        [
            "EM, 10,000 paths x 100 times",
            f"{seconds(lambda: MarkovJump(6).fit(many), 2):.2f} s, RMSE {off:.4f}",
        ],
        [
            "hidden EM, 20,000 rows of a current, 50 steps at most",
            f"{seconds(lambda: hidden_chain.fit(record), 1):.2f} s",
        ],
    ]
    print(f"{markdown(['CPU, one thread', ''], lines)}\n", flush=True)


def ship(checkpoint: Path, subsets: int, chosen: str) -> None:
    """The weights and their card, if the gates are passed."""
    network = load(checkpoint)
    assert isinstance(network, RateNetwork)
    scores = table(network, None, subsets, ["crude", "network"])
    failed = {k: v for k, v in GATES.items() if scores[k]["rmse"] > v}
    if failed:
        raise SystemExit(f"the gates {failed} are not passed")
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.network.state_dict().items()}, WEIGHTS)
    card = {
        "sha256": digest(WEIGHTS),
        "arguments": network.arguments,
        "made_by": "tsdyn fit --config configs/jump_pretrain.yaml",
        "seed": 0,
        "prior": "tsdyn.data.jump_problems.Simulated, which is in the configuration",
        "chosen": chosen,
        "gates": GATES,
        "scores": {k: {n: round(x, 4) for n, x in v.items()} for k, v in scores.items()},
        "licence": "Apache-2.0; trained on simulations of this project alone",
    }
    WEIGHTS.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{WEIGHTS.stat().st_size / 2**20:.2f} MB in {WEIGHTS}")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subsets", type=int, default=15)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--ship", type=Path, default=None, metavar="CHECKPOINT")
    parser.add_argument("--paths", type=Path, default=None, metavar="CHECKPOINT")
    parser.add_argument("--chosen", default="", help="why this checkpoint; for the card")
    options = parser.parse_args()
    if options.ship is not None:
        ship(options.ship, options.subsets, options.chosen)
    else:
        paths = None if options.paths is None else load(options.paths)
        assert paths is None or isinstance(paths, PathRateNetwork)
        speed()
        table(pretrained(options.weights), paths, options.subsets, None)


if __name__ == "__main__":
    main()
