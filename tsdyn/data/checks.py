"""What a model needs of its data, checked on `Paths` before it starts.

`read` accepts everything that can be conditioned on; training asks for more, and a model that knows
its channels asks for those.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Names, Paths, default_names
from ..errors import DataError, did_you_mean, first
from .clock import spots

log = logging.getLogger("tsdyn")

LOST = 1e-3  # share of steps that may vanish: rows that happen to be nearly simultaneous


def require_learnable(paths: Paths) -> None:
    """All of it, before anything is trained or written: D10, D11, D12, D15, D16."""
    require_trainable(paths)
    require_observed(paths)
    require_varying(paths)
    require_time_resolution(paths)
    require_steps(paths)


def require_trainable(paths: Paths, rows: int = 2) -> None:
    """D10 unless some series is observed at `rows` times."""
    longest = int(paths.mask.any(-1).sum(1).max())
    if longest < rows:
        raise DataError(
            "D10",
            f"observed rows of a series: at most {longest}, in {len(paths.t)} series",
            f"Training needs a series of at least {rows}",
            "Add observations; series this short can still be forecast by a fitted model",
        )


def require_observed(paths: Paths) -> None:
    """D11 if a channel, or every series, was never observed; single series without are logged."""
    channels = empty_channels(paths)
    if channels:
        raise DataError(
            "D11",
            f"channels without an observation: {first(channels)}",
            "Every channel is observed at least once",
            "Leave them out with channels=[...]",
        )
    warn_of_empty(paths)


def empty_channels(paths: Paths) -> tuple[str, ...]:
    """Names of the channels without an observation in any series."""
    seen = paths.mask.flatten(0, 1).any(0)
    return tuple(
        name for name, some in zip(default_names(paths).channels, seen.tolist()) if not some
    )


def empty_series(paths: Paths) -> Tensor:
    """Which series (B,) have no observation."""
    return ~paths.mask.flatten(1).any(1)


def warn_of_empty(paths: Paths) -> None:
    """Log series and channels without an observation: there is only the prior to say about them."""
    empty = empty_series(paths).cpu().numpy()
    if empty.any():
        names = default_names(paths).series
        log.warning("no observation in %s", spots(empty, lambda b: f"series `{names[b]}`"))
    for name in empty_channels(paths):
        log.warning("no observation in channel `%s`", name)


def constant_channels(paths: Paths) -> tuple[str, ...]:
    """Channels that were observed and never changed, in any series."""
    high = paths.x.where(paths.mask, -torch.inf).flatten(0, 1).amax(0)
    low = paths.x.where(paths.mask, torch.inf).flatten(0, 1).amin(0)
    return tuple(
        name for name, same in zip(default_names(paths).channels, (high == low).tolist()) if same
    )


def require_varying(paths: Paths) -> None:
    """D12 if a channel with a name is constant, or all are. Without names they are pixels and the like."""
    constant = constant_channels(paths)
    if constant and (paths.names is not None or len(constant) == paths.x.shape[-1]):
        raise DataError(
            "D12",
            f"channels of one value throughout: {first(constant)}",
            "A channel varies",
            "Leave them out with channels=[...]; a constant needs no model",
        )


def gaps(paths: Paths) -> Tensor:
    """Time from row to row (B, T - 1), NaN where time stands still."""
    steps = paths.t.double().diff(dim=1)
    return steps.where(steps > 0, torch.nan)


def require_time_resolution(paths: Paths) -> None:
    """D15 if more than one step in a thousand would vanish in the float32 time of a model.

    Models see time from the first row on, in median gaps. Two rows that happen to be nearly
    simultaneous may merge; a span of more than 2**23 usual steps may not.
    """
    steps = gaps(paths)
    moves = steps > 0
    if not moves.any():
        return
    inside = ((paths.t.double() - paths.t.min()) / steps[moves].median()).float()
    lost = moves & (inside.diff(dim=1) == 0)
    if int(lost.sum()) > LOST * int(moves.sum()):
        raise DataError(
            "D15",
            f"the times span {float(paths.t.max() - paths.t.min()):g}, and {int(lost.sum())} of "
            f"{int(moves.sum())} steps are too small beside it for float32",
            "A model tells apart 8.4e6 steps",
            "Round the times, merge rows that are nearly simultaneous, or split the span",
        )


def require_steps(paths: Paths, limit: float = 1e6) -> None:
    """D16 if a gap is more than `limit` median gaps, which a solver with a fixed step cannot cross."""
    steps = gaps(paths)
    if not (steps > 0).any():
        return
    typical = float(steps[steps > 0].median())
    largest = steps.nan_to_num(0.0).amax(1)  # (B,)
    wide = (largest > limit * typical).cpu().numpy()
    if wide.any():
        names = default_names(paths).series
        raise DataError(
            "D16",
            f"a gap of {float(largest.max()):g} is {float(largest.max()) / typical:.2g} times the "
            f"median one, in {spots(wide, lambda b: f'series `{names[b]}`')}",
            f"A solver of fixed steps crosses at most {limit:g}",
            "Split the series at the gap",
        )


def match_channels(paths: Paths, names: Names | Sequence[str]) -> Paths:
    """The paths with their channels, covariates and classes as `names` has them, in that order.

    Channels that `names` does not know are dropped, and logged.

    Args:
        paths: what came; without names, only the number of channels is compared.
        names: names a model was fitted with, or those of its channels alone.

    Raises:
        DataError: D13 where one of `names` is absent, or times are dates on one side only.
    """
    known = names if isinstance(names, Names) else Names((), tuple(names))
    own = paths.names
    if own is None:
        return _counted(paths, known)
    order = _positions("channel", own.channels, known.channels)
    matched = paths._replace(
        x=paths.x[..., order],
        mask=paths.mask[..., order],
        names=own._replace(channels=known.channels),
    )
    return _facts(matched, known) if isinstance(names, Names) else matched


def _counted(paths: Paths, known: Names) -> Paths:
    width = paths.x.shape[-1]
    if width != len(known.channels):
        raise DataError(
            "D13",
            f"the number of channels is {width}, and they have no names",
            f"The model knows {len(known.channels)}: {', '.join(known.channels)}",
            "Give the paths names, or the channels of the model in its order",
        )
    return paths


def _facts(paths: Paths, known: Names) -> Paths:
    """Covariates, static covariates and classes in the order of `known`."""
    own = paths.names or known
    dated = {"date", "datetime"}
    if (own.clock.kind in dated) != (known.clock.kind in dated):
        raise DataError(
            "D13",
            f"the times are of the kind {own.clock.kind}",
            f"The model was fitted to times of the kind {known.clock.kind}",
            "Write times as they were written for training",
        )
    over = _positions("covariate", own.covariates, known.covariates)
    still = _positions("static covariate", own.static, known.static)
    labels, classes = paths.labels, own.classes
    if labels is not None and own.classes and known.classes:
        classes = known.classes
        labels = torch.tensor(_positions("class", known.classes, own.classes)).to(labels)[labels]
    return paths._replace(
        covariates=None if paths.covariates is None or not over else paths.covariates[..., over],
        static=None if paths.static is None or not still else paths.static[:, still],
        labels=labels,
        names=own._replace(covariates=known.covariates, static=known.static, classes=classes),
    )


def _positions(what: str, own: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the wanted names are among the own ones."""
    absent = [name for name in wanted if name not in own]
    if absent:
        raise DataError(
            "D13",
            f"{what} `{absent[0]}` is absent",
            f"There are: {', '.join(own) or 'none'}",
            hint
            if (hint := did_you_mean(absent[0], own)).startswith("Did")
            else "Add it, or rename the one that holds it",
        )
    extra = [name for name in own if name not in wanted]
    if extra and what != "class":
        log.warning("the model does not know %s `%s`: dropped", what, "`, `".join(extra))
    return [list(own).index(name) for name in wanted]
