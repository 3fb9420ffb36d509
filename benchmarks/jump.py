"""How near do methods come to the rates of the flashing ratchet, and what do they cost?

    OMP_NUM_THREADS=1 python benchmarks/jump.py [--subsets 15] [--weights FILE] [--ship CHECKPOINT]

Root mean square error of the 30 rates of six states, means over subsets of 300 paths and their deviation; share of rates inside
the 90 % interval; CPU seconds for one subset on one thread. Paths are simulated by the equation of the ratchet. Rows: crude
rates (C_ij + .1) / (T_i + .1), exact expectation maximisation for labels seen exactly ("EM") and for labels that may be
misread ("hidden EM"), the network in one pass, and the network refined by 50 exact steps.

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
from tsdyn.data.jump_systems import FlashingRatchet, flashing_ratchet
from tsdyn.evaluation import markdown
from tsdyn.io import load
from tsdyn.maths.jump_counts import counts, crude_rates
from tsdyn.models.jump import MarkovJump
from tsdyn.models.rate_network import RateNetwork
from tsdyn.models.zero_shot import WEIGHTS, pretrained, zero_shot

OFF = ~torch.eye(6, dtype=torch.bool)


class Case(NamedTuple):
    title: str
    V: float
    paths: int
    kept: float
    noise: float


CASES = [
    Case("V = 0", 0.0, 300, 1.0, 0.0),
    Case("V = 1", 1.0, 300, 1.0, 0.0),
    Case("V = 2", 2.0, 300, 1.0, 0.0),
    Case("V = 1, 50 irregular", 1.0, 300, 0.5, 0.0),
    Case("V = 1, 50 irregular, 10 % noise", 1.0, 300, 0.5, 0.1),
    Case("V = 1, 30 paths", 1.0, 30, 1.0, 0.0),
    Case("V = 1, 5000 paths", 1.0, 5000, 1.0, 0.0),
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


def methods(network: RateNetwork) -> dict[str, Method]:
    def once(paths: Paths) -> Answer:
        found = zero_shot(paths, 6, network=network)
        return found.mean, found.deviation

    def refined(paths: Paths) -> Answer:
        found = zero_shot(paths, 6, network=network, refine="em")
        return found.mean, found.deviation

    return {"crude": crude, "EM": exact, "hidden EM": hidden, "network": once, "refined": refined}


def subset(case: Case, seed: int) -> Paths:
    paths = FlashingRatchet(n=case.paths, V=case.V, noise=case.noise, seed=seed)()
    g = torch.Generator().manual_seed(seed)
    return paths._replace(mask=torch.rand(paths.mask.shape, generator=g) < case.kept)


def measured(case: Case, method: Method, subsets: int) -> dict[str, float]:
    truth, errors, inside, seconds = flashing_ratchet(case.V)[OFF], [], [], 0.0
    for seed in range(subsets):
        paths = subset(case, seed)
        start = time.process_time()
        rates, deviation = method(paths)
        seconds += time.process_time() - start
        off = rates[OFF].double() - truth
        errors.append(off.square().mean().sqrt())
        if deviation is not None:
            inside.append((off.abs() <= 1.645 * deviation[OFF]).double().mean())
    found = torch.stack(errors)
    return {
        "rmse": float(found.mean()),
        "spread": float(found.std()) if subsets > 1 else 0.0,
        "cover90": float(torch.stack(inside).mean()) if inside else float("nan"),
        "seconds": seconds / subsets,
    }


def table(network: RateNetwork, subsets: int, names: list[str]) -> dict[str, dict[str, float]]:
    chosen = {k: m for k, m in methods(network).items() if k in names}
    lines, kept = [], {}
    for case in CASES:
        few = subsets if case.paths <= 300 else 2
        row = [case.title]
        for name, method in chosen.items():
            found = measured(case, method, few)
            cover = "" if found["cover90"] != found["cover90"] else f", {found['cover90']:.2f}"
            row.append(
                f"{found['rmse']:.3f} ± {found['spread']:.3f}{cover}, {found['seconds']:.2f} s"
            )
            if name == "network":
                kept[case.title] = found
        lines.append(row)
        print("|", " | ".join(row), "|", flush=True)
    print(f"\n{markdown(['ratchet', *chosen], lines)}")
    return kept


def ship(checkpoint: Path, subsets: int, chosen: str) -> None:
    """The weights and their card, if the gates are passed."""
    network = load(checkpoint)
    assert isinstance(network, RateNetwork)
    scores = table(network, subsets, ["crude", "network"])
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
    parser.add_argument("--chosen", default="", help="why this checkpoint; for the card")
    options = parser.parse_args()
    if options.ship is not None:
        ship(options.ship, options.subsets, options.chosen)
    else:
        everything = ["crude", "EM", "hidden EM", "network", "refined"]
        table(pretrained(options.weights), options.subsets, everything)


if __name__ == "__main__":
    main()
