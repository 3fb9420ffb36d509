"""How sharply hidden chains determine their rates, when the share of misread labels is unknown too.

[1] Louis. Finding the observed information matrix when using the EM algorithm. JRSS B 44, 1982: the matrix that is
    differentiated here.
"""

from torch import Tensor

from .emissions import E, Emission, Misread, log_densities
from .hidden_jump import clock, log_likelihood
from .jump_em import Hidden
from .jump_likelihood import GammaRates, Information, log_prior, observed_information

LEAST_ERROR = 1e-4  # below it the share of misread labels is at its bound


def hidden_information(
    chain: Hidden[E],
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    free: Tensor,
    prior: GammaRates | None = None,
) -> Information:
    """-d²/dθ² (log L + log prior) for θ = log q of the free rates  [1]

    The share of misread labels is unknown with them; other emissions and the initial law are held.

    Args:
        chain: at its most likely rates.
        t, y, mask: (B, T), as of `hidden_em`.
        free: (n, n) True for the rates that vary.
    """
    rows, emission, n = clock(t), chain.emission, len(chain.Q)

    def value(Q: Tensor, seen: Emission) -> Tensor:
        density = log_densities(seen, y, mask)
        found = log_likelihood(Q, chain.first, rows, density).sum()
        return found if prior is None else found + log_prior(prior, Q)

    if isinstance(emission, Misread) and emission.error > LEAST_ERROR:
        return observed_information(
            lambda Q, logit: value(Q, Misread(logit.sigmoid()[0], n)),
            chain.Q,
            free,
            emission.error[None].logit(),
        )
    return observed_information(lambda Q: value(Q, emission), chain.Q, free)
