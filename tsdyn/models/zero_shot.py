"""Rates of a Markov jump process at once, by the network that comes with tsdyn, and refined by exact steps if asked.

    zero_shot(paths) -> N(m_ij, s_ij²) for every rate;   refine="em": the most likely rates under Gamma laws of the
    same mean and deviation, with labels that may be misread

The weights are in `weights/`, with a card that says how they were made and how they were judged.

[1] Berghaus et al. Foundation inference models for Markov jump processes. NeurIPS 2024.
[2] Ibrahim & Chen. Power prior distributions for regression models. Statistical Science 15, 2000.
"""

import json
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file

from ..batch import Paths
from ..data.files import digest
from ..data.jump_data import JumpData
from ..errors import CheckpointError, ConfigError, DataError
from ..maths.emissions import Misread
from ..maths.jump_counts import require_states
from ..maths.jump_em import Hidden, hidden_em
from ..maths.jump_information import hidden_information
from ..maths.jump_likelihood import GammaRates, standard_errors
from ..maths.rate_matrix import from_rates
from .jump_posterior import JumpPosterior
from .rate_network import RateNetwork, RatePosterior

WEIGHTS = Path(__file__).with_name("weights") / "rate_network.safetensors"
SHARE = 0.25  # of what the network believes, as a prior: it has seen the same paths
RARE = 0.05  # links less likely than this are left out of a refinement
ERROR = 0.02  # share of misread labels that a refinement starts from


class ReadsRates(Protocol):
    """A network that reads the rates of processes off their paths: `RateNetwork`, `PathRateNetwork`."""

    def posterior(self, data: JumpData) -> RatePosterior:
        """The laws of the rates of every process."""


def pretrained(weights: Path = WEIGHTS) -> RateNetwork:
    """The network with the weights that come with tsdyn, in evaluation mode.

    Raises:
        CheckpointError: C01 where the file is missing or is not the one that its card describes.
    """
    card = weights.with_suffix(".json")
    try:
        facts: dict[str, Any] = json.loads(card.read_text())
        found = digest(weights)
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            "C01",
            f"the weights {weights.name} cannot be read: {error}",
            "the file and its card",
            "Install tsdyn again",
        ) from error
    if found != facts["sha256"]:
        raise CheckpointError(
            "C01",
            f"the weights {weights.name} have the SHA256 {found}",
            f"{facts['sha256']}, as their card says",
            "Install tsdyn again",
        )
    network = RateNetwork(**facts["arguments"])
    network.network.load_state_dict(load_file(weights))
    return network.eval()


def zero_shot(
    paths: Paths,
    states: int | None = None,
    *,
    network: ReadsRates | None = None,
    refine: Literal["em"] | None = None,
    steps: int = 50,
) -> JumpPosterior:
    """What is believed of the rates behind all of these paths, whose x are numbers of states in one channel.

    Times may be any; their unit is found from the data. Rates that are more than three orders of magnitude apart were
    never seen in training, nor were more than eight states, more than 300 paths or more than 15 % of labels misread:
    then refine, or use `MarkovJump`.

    Args:
        states: n; None is one more than the largest label.
        network: None is `pretrained()`.
        refine: "em" takes `steps` steps of exact expectation maximisation for a chain whose labels may be misread,
            from the rates found, towards the most likely ones. What was believed counts for a quarter as a prior [2], as it comes
            from the same paths; deviations are then those of the posterior's curvature, with the share of misread labels
            unknown.

    Raises:
        ConfigError: X01 for another `refine`.
        DataError: D14 for labels that are no states, D10 where no path was seen twice.
    """
    if refine not in (None, "em"):
        raise ConfigError("X01", f"refine={refine!r}", 'None or "em"', "Check the spelling")
    seen = paths.mask[..., 0]
    if not bool((seen.sum(1) > 1).any()):
        raise DataError(
            "D10",
            "no path was seen twice",
            "paths with at least two observations",
            "Add observations",
        )
    label = paths.x[..., 0].where(seen, 0.0)
    n = int(label.max()) + 1 if states is None else states
    n = max(n, 2)
    require_states(label, seen, n)
    data = JumpData(paths.t.double()[None], label.long()[None], seen[None], n)
    with torch.no_grad():
        found = (network or pretrained()).posterior(data)
    belief = JumpPosterior(*(part[0].double() for part in found))
    return belief if refine is None else _refined(belief, data, steps)


def _refined(belief: JumpPosterior, data: JumpData, steps: int) -> JumpPosterior:
    t, state, mask = (part[0] for part in data[:3])
    n = data.states
    off = ~torch.eye(n, dtype=torch.bool)
    links = off & (belief.link > RARE)
    # Gamma(1 + m β, β) has its mode at m; with β_i = Σ m / Σ s² over the row, its variance is s² on the whole
    rates, width = (u.where(links, 0.0) for u in (belief.mean, belief.deviation.square()))
    held = SHARE * rates.sum(-1) / width.sum(-1).clamp(min=1e-12)
    prior = GammaRates(1 + rates * held[:, None], held)
    start = Hidden(
        from_rates(belief.mean.where(links, 0.0)),
        belief.initial,
        Misread(torch.tensor(ERROR, dtype=torch.float64), n),
    )
    chain = hidden_em(start, t, state, mask, prior, steps=steps).chain
    free = links & (chain.Q > 1e-6 * chain.Q.max())
    information = hidden_information(chain, t, state, mask, free, prior)
    errors = standard_errors(chain.Q, information)
    deviation = torch.where(free, errors, torch.where(links, belief.deviation, 0.0))
    return JumpPosterior(chain.Q.where(off, 0.0), deviation, belief.link, chain.first)
