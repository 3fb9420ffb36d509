"""What is missing: how much, of what, and that nothing but seed, name and time decides it."""

import itertools
import math

import pytest
import torch

from tsdyn.batch import Names, Paths, compact, each, hide, take, trim, windows
from tsdyn.data.missing import FromThinned, Missing, mix
from tsdyn.data.tasks import Classification, Forecasting, Imputation, Labels
from tsdyn.errors import ConfigError

KINDS = ["row", "value", "channel"]
RATES = [0.0, 0.29, 0.3, 0.5, 0.7, 0.999]


def ragged(B: int = 8, T: int = 30, D: int = 3) -> Paths:
    """Series of 1, 2, ... rows and more, with holes, at irregular times; the last time is padded."""
    g = torch.Generator().manual_seed(5)
    t = torch.rand(B, T, generator=g, dtype=torch.float64).cumsum(1)
    mask = torch.rand(B, T, D, generator=g) < 0.7
    mask[:, 0] = True
    length = torch.tensor([1, 2, 3, *torch.randint(4, T + 1, (B - 3,), generator=g).tolist()])
    mask &= (torch.arange(T) < length[:, None])[..., None]
    t = t.where(torch.arange(T) < length[:, None], t.gather(1, length[:, None] - 1))
    x = torch.randn(B, T, D, generator=g).where(mask, torch.nan)
    names = Names(tuple(f"s{b}" for b in range(B)), tuple(f"c{d}" for d in range(D)))
    return Paths(t, x, mask, names=names)


def full(B: int, T: int, D: int = 1) -> Paths:
    t = torch.arange(T, dtype=torch.float64).expand(B, T)
    x = torch.zeros(B, T, D)
    return Paths(t, x, torch.ones_like(x, dtype=torch.bool))


@pytest.mark.parametrize("rate", RATES)
class TestHowMuch:
    def test_rows(self, rate):
        paths = ragged()
        dropped = Missing(rate).dropped(paths)
        for seen, gone in zip(paths.mask, dropped):
            rows = seen.any(1)
            assert int(gone.any(1).sum()) == int(rate * int(rows.sum())) < int(rows.sum())
            assert torch.equal(gone, seen & gone.any(1, keepdim=True)), "all channels together"

    def test_values(self, rate):
        paths = ragged()
        dropped = Missing(rate, "value").dropped(paths)
        for seen, gone in zip(paths.mask.mT.flatten(0, 1), dropped.mT.flatten(0, 1)):
            n = int(seen.sum())
            assert int(gone.sum()) == int(rate * n) and (not n or gone.sum() < n)
            assert not (gone & ~seen).any()

    def test_channels(self, rate):
        paths = ragged(D=7)
        dropped = Missing(rate, "channel").dropped(paths)
        for seen, gone in zip(paths.mask, dropped):
            channels = seen.any(0)
            assert int(gone.any(0).sum()) == int(rate * int(channels.sum())) < int(channels.sum())
            assert torch.equal(gone, seen & gone.any(0)), "the whole channel"


@pytest.mark.parametrize("by", KINDS)
class TestWhich:
    def test_what_is_missing_at_a_rate_is_missing_at_any_higher_one(self, by):
        paths = ragged(D=7)
        dropped = [Missing(rate, by).dropped(paths) for rate in RATES]
        for less, more in itertools.pairwise(dropped):
            assert not (less & ~more).any()
        assert int(dropped[-1].sum()) > int(dropped[1].sum()) > 0

    def test_company_order_padding_and_holes_do_not_matter(self, by):
        paths, missing = ragged(), Missing(0.5, by)
        whole = missing.dropped(paths)
        for rows in ([3, 7, 5], [5], [7, 6, 5, 4, 3, 2, 1, 0]):
            part = take(paths, rows)
            assert torch.equal(missing.dropped(part), whole[rows, : part.t.shape[1]])
        last = paths.t[:, -1:].expand(-1, 4)
        nothing = torch.zeros(len(last), 4, 3)
        longer = paths._replace(
            t=torch.cat([last[:, :0], paths.t, last], 1),
            x=torch.cat([paths.x, nothing], 1),
            mask=torch.cat([paths.mask, nothing.bool()], 1),
        )
        assert torch.equal(missing.dropped(longer)[:, :30], whole)
        kept = compact(paths._replace(mask=paths.mask & ~whole))
        again = compact(paths)  # without the rows that were unobserved
        again = compact(again._replace(mask=again.mask & ~missing.dropped(again)))
        assert torch.equal(kept.mask, again.mask) and torch.equal(kept.t, again.t)

    def test_seed_and_name_decide(self, by):
        paths = full(40, 20, 10)
        named = paths._replace(names=Names(tuple(range(100, 140)), tuple("abcdefghij")))
        one = Missing(0.5, by, 3).dropped(named)
        assert torch.equal(one, Missing(0.5, by, 3).dropped(named))
        assert not torch.equal(one, Missing(0.5, by, 4).dropped(named))
        assert not torch.equal(one, Missing(0.5, by, 3).dropped(paths))
        assert not torch.equal(one[:-1], one[1:]), "each series has its own order"
        placed = paths._replace(names=Names(tuple(range(40)), tuple("abcdefghij")))
        assert torch.equal(Missing(0.5, by).dropped(placed), Missing(0.5, by).dropped(paths))

    def test_values_are_not_looked_at(self, by):
        paths = ragged()
        other = paths._replace(x=paths.x.square() + 1)
        assert torch.equal(Missing(0.5, by).dropped(paths), Missing(0.5, by).dropped(other))

    def test_devices_agree(self, by, device):
        paths = ragged()
        there = Missing(0.5, by).dropped(each(paths, lambda f: f.to(device)))
        assert torch.equal(there.cpu(), Missing(0.5, by).dropped(paths))


class TestLaw:
    def test_every_order_is_equally_likely(self):
        """The first of 4 rows to go and the second: 12 equally likely pairs; chi^2 of 11 degrees of freedom."""
        paths = full(6000, 4)
        first = Missing(0.25).dropped(paths)[..., 0].int().argmax(1)
        both = Missing(0.5).dropped(paths)[..., 0]
        second = (both & (torch.arange(4) != first[:, None])).int().argmax(1)
        counts = torch.bincount(4 * first + second, minlength=16)[[i for i in range(16) if i % 5]]
        chi2 = float((counts - 500).square().sum() / 500)
        assert counts.sum() == 6000 and chi2 < 11 + 4 * math.sqrt(2 * 11)

    @pytest.mark.parametrize("axis", ["series", "seeds", "channels"])
    def test_orders_are_independent(self, axis):
        """Two random halves of n rows share n / 4 of them; the variance is (n / 4)^2 / (n - 1)."""
        n, pairs = 40, 2000
        if axis == "series":
            a, b = Missing(0.5).dropped(full(2 * pairs, n))[..., 0].chunk(2)
        elif axis == "seeds":
            a, b = (Missing(0.5, seed=s).dropped(full(pairs, n))[..., 0] for s in (0, 1))
        else:
            a, b = Missing(0.5, "value").dropped(full(pairs, n, 2)).unbind(-1)
        shared = (a & b).sum(1).double()
        error = n / 4 / math.sqrt((n - 1) * pairs)
        assert abs(float(shared.mean()) - n / 4) < 4 * error
        assert float(shared.var()) == pytest.approx((n / 4) ** 2 / (n - 1), rel=0.15)

    def test_mixing_is_the_published_function(self):
        """The first outputs of SplitMix64 from the seed 1234567."""
        step = 0x9E3779B97F4A7C15
        states = [(1234567 + k * step) % 2**64 for k in range(1, 4)]
        mixed = mix(torch.tensor([s - 2**64 * (s >= 2**63) for s in states]))
        wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
        assert [int(z) % 2**64 for z in mixed] == wanted


class TestPaths:
    def test_rows_of_which_nothing_is_left_go(self):
        thin = Missing(0.5)(full(3, 10))
        assert thin.x.shape == (3, 5, 1) and thin.mask.all()
        assert (thin.t.diff(dim=1) > 0).all()

    def test_covariates_stay_in_their_rows(self):
        paths = full(3, 10)._replace(covariates=torch.rand(3, 10, 2))
        thin = Missing(0.5)(paths)
        assert thin.t.shape == (3, 10) and thin.covariates is paths.covariates
        assert (thin.mask.sum(1) == 5).all()

    def test_nothing_changes_at_a_rate_of_0(self):
        paths = ragged()
        assert Missing()(paths) is paths

    def test_no_series_at_all(self):
        assert Missing(0.5)(take(ragged(), [])).mask.numel() == 0

    def test_minus_zero_is_zero(self):
        paths = full(50, 10)
        turned = paths._replace(t=paths.t.where(paths.t > 0, -0.0))
        assert torch.equal(Missing(0.5).dropped(paths), Missing(0.5).dropped(turned))

    def test_windows_drop_from_one_order(self):
        """A row of two windows that both keep half: each window drops its own half, of the same order."""
        cut = windows(full(1, 40), 20, 10)
        dropped = Missing(0.5).dropped(cut)[..., 0]
        assert dropped.sum(1).tolist() == [10, 10, 10]
        a, b = dropped[0, 10:], dropped[1, :10]
        assert (~(a & ~b)).all() or (~(b & ~a)).all(), "the shared rows go in the same order"

    @pytest.mark.parametrize("rate", [-0.1, 1.0, 30])
    def test_other_rates_are_refused(self, rate):
        with pytest.raises(ConfigError, match=r"TSD-X01.*\[0, 1\)"):
            Missing(rate)


class TestTask:
    def test_only_the_given_is_thinned(self):
        paths = ragged()
        plain, thin = (
            Forecasting(fraction=0.5),
            FromThinned(Forecasting(fraction=0.5), Missing(0.5)),
        )
        (given, want), (less, same) = plain(paths), thin(paths)
        assert torch.equal(want.mask, same.mask) and torch.equal(want.t, same.t)
        rows, kept = given.mask.any(-1).sum(1), less.mask.any(-1).sum(1)
        assert torch.equal(kept, rows - (0.5 * rows).long())

    def test_random_cuts_are_those_of_the_task(self):
        paths, task = ragged(), Imputation(0.4)
        (_, want), (less, same) = (
            t(paths, torch.Generator().manual_seed(2))
            for t in (task, FromThinned(task, Missing(0.5)))
        )
        assert torch.equal(want.mask, same.mask)
        _, seen = hide(paths, paths.mask)
        assert less.mask.sum() < seen.mask.sum() - want.mask.sum()

    def test_labels_stay(self):
        paths = ragged()._replace(labels=torch.arange(8))
        given, want = FromThinned(Classification(), Missing(0.7))(paths)
        assert isinstance(want, Labels) and want.y.tolist() == list(range(8))
        assert given.labels is None and int(given.mask.sum()) < int(paths.mask.sum())

    def test_a_row_that_is_given_twice_goes_at_the_same_place(self):
        """The order is that of times: with less given, the same rows still go first."""
        paths = full(30, 40)
        more, less = (Missing(0.5).dropped(trim(paths, n))[..., 0] for n in (40, 20))
        both = more[:, :20]
        nested = ~(both & ~less).any(1) | ~(less & ~both).any(1)
        assert nested.all()
