import itertools
import pickle

import pytest
import torch
from toys import Ramp

from tsdyn.batch import Entries, Names, Paths, Snapshots, take
from tsdyn.data.missing import Missing
from tsdyn.data.split import BySeries, ByTime, ByTimePoint, Parts
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.errors import ConfigError, DataError
from tsdyn.lit.data import Ahead, LitData
from tsdyn.lit.kinds import observed
from tsdyn.lit.sampler import Batches, seed_of


def data_of(**options):
    options = {"source": Ramp(), "task": Imputation(0.4), "batch_size": 4} | options
    data = LitData(**options)
    data.setup("fit")
    return data


def same(a, b):
    return all(
        torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v
        for x, y in zip(a, b, strict=True)
        for u, v in zip(x, y, strict=True)
    )


@pytest.mark.parametrize(
    "count,size,world", itertools.product([1, 5, 17, 64], [1, 4, 100], [1, 2, 3])
)
def test_every_row_once_per_epoch_over_all_processes(count, size, world):
    if count < world:
        with pytest.raises(DataError, match="D10"):
            Batches(count, size, shuffle=True, world=world)
        return
    lengths = torch.arange(count) % 7
    ranks = [Batches(count, size, lengths, True, 3, rank, world) for rank in range(world)]
    for epoch in range(2):
        for batches in ranks:
            batches.set_epoch(epoch)
        seen = [list(batches) for batches in ranks]
        assert {len(b) for b in seen} == {len(ranks[0])}, "a process would wait for the others"
        assert sorted(r for own in seen for b in own for r in b.rows) == list(range(count))
        assert max(len(b.rows) for own in seen for b in own) <= size + (size == 1)


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        batches = Batches(50, 8, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4) and order(0, 3) != order(1, 3)


def test_buckets_pad_less():
    lengths = torch.randint(1, 1000, (640,))

    def padded(batches):
        return sum(len(b.rows) * int(lengths[list(b.rows)].max()) for b in batches)

    bucketed = padded(Batches(640, 16, lengths, shuffle=True))
    assert bucketed < 1.1 * lengths.sum()
    assert padded(Batches(640, 16, shuffle=True)) > 1.5 * lengths.sum()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_judged_batches_do_not_depend_on_the_number_of_processes(world):
    alone = list(Batches(10, 3))
    dealt = [list(Batches(10, 3, rank=rank, world=world)) for rank in range(world)]
    assert len({len(own) for own in dealt}) == 1
    counted = [b for own in dealt for b in own if not b.repeated]
    assert sorted(counted) == sorted(alone)


def test_skipping_leaves_the_rest_as_it_is():
    batches = Batches(20, 3, shuffle=True)
    batches.set_epoch(2)
    whole = list(batches)
    batches.skip(2, 4)
    assert list(batches) == whole[4:]
    batches.set_epoch(3)
    assert len(list(batches)) == len(whole)


def test_seeds_differ_and_fit_a_generator():
    seeds = {seed_of(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900 and all(0 <= s < 2**63 for s in seeds)


def test_workers_give_the_same_batches():
    alone, helped = data_of(), data_of(workers=2)
    for a, b in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert a[2] == b[2] and same(a[:2], b[:2])


def test_a_batch_is_cut_alike_whenever_it_is_drawn():
    loader = data_of().train_dataloader()
    first, again = list(loader), list(loader)
    assert all(same(a[:2], b[:2]) for a, b in zip(first, again, strict=True))
    loader.sampler.set_epoch(1)
    assert {b[2].rows for b in loader} != {b[2].rows for b in first}


def test_what_workers_get_can_be_spawned():
    data = data_of()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for part in (loader.dataset, loader.collate_fn, loader.worker_init_fn):
            assert pickle.dumps(part)


def test_train_and_judged_series_are_apart():
    data = data_of(split=BySeries(0.2, 0.2))
    names = [
        {s for given, _, _ in loader for s in given.names.series}
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert [len(n) for n in names] == [12, 4, 4]
    assert len(set.union(*names)) == 20


def test_windows_of_the_training_part():
    data = data_of(window=5, stride=2, split=ByTime())
    assert data.train.t.shape[1] == 5
    given, want = data.train_pair(0)
    assert observed(given) + observed(want) == int(data.train.mask.sum())


def test_train_pair_changes_with_the_epoch_only():
    data = data_of()
    assert same(data.train_pair(1), data.train_pair(1))
    assert not torch.equal(data.train_pair(1)[1].mask, data.train_pair(2)[1].mask)


def test_ahead_asks_evenly_after_the_last_observation():
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])[..., None]
    asked = Ahead(4.0, 2)(Paths(t, torch.zeros(2, 3, 1), mask))
    assert asked.t.tolist() == [[4.0, 6.0], [5.0, 7.0]]
    assert asked.mask.all()


def test_predictions_ask_for_the_holes():
    data = data_of()
    rows = [c.rows for given, want, c in data.predict_dataloader()]
    assert sorted(itertools.chain(*rows)) == list(range(20))
    asked = sum(int(want.mask.sum()) for _, want, _ in data.predict_dataloader())
    assert asked == 1  # the toy has one hole


def test_errors_name_what_is_missing():
    with pytest.raises(DataError, match=r"TSD-D10.*split keeps nothing"):
        data_of(split=BySeries(0.2, 0.0)).test_dataloader()
    with pytest.raises(DataError, match=r"TSD-D17.*--data\.ask"):
        data_of(source=lambda: take(Ramp()(), [3, 4, 5, 6, 7])).predict_dataloader()
    with pytest.raises(DataError, match="TSD-D01"):
        data_of(source=lambda: take(Ramp()(), []))


def test_channels_of_another_dataset_are_refused():
    kept = data_of().state_dict()
    assert kept["channels"] == ["c0"] and len(kept["series"]) == 20
    data_of().load_state_dict(kept)
    with pytest.raises(DataError, match=r"TSD-D13.*c0, c1"):
        data_of(source=Ramp(dim=2)).load_state_dict(kept)


def test_snapshots_come_in_batches_of_cells():
    x = torch.arange(18.0).reshape(2, 9, 1)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    cells = Snapshots(torch.tensor([0.0, 1.0]), x, mask)
    data = data_of(source=lambda: cells, task=lambda s, generator=None: (s, s), batch_size=3)
    batches = [given for given, _, _ in data.train_dataloader()]
    assert all(b.mask.all() for b in batches), "padding is no cell"
    seen = torch.cat([b.x for b in batches], 1)[..., 0]
    assert sorted(seen[0].tolist()) == x[0, :, 0].tolist()
    assert set(seen[1].tolist()) == set(x[1, :4, 0].tolist())
    assert data.val_dataloader() == []


def test_entries_are_judged_in_slices_and_given_whole():
    entries = Entries(torch.rand(10, 3), torch.arange(10.0))
    data = data_of(
        source=lambda: entries,
        task=lambda e, generator=None: (e, e),
        split=lambda e, cut: Parts(e, cut(e), None),
        batch_size=4,
    )
    seen = torch.cat([want.y for _, want, _ in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(10))
    judged = list(data.val_dataloader())
    assert [len(want.y) for _, want, _ in judged] == [4, 4, 2]
    assert all(len(given.y) == 10 for given, _, _ in judged)


def test_counts_of_observed_values():
    paths = Ramp()()
    assert observed(paths) == int(paths.mask.sum())
    assert observed(Snapshots(torch.zeros(2), torch.zeros(2, 5, 3), torch.ones(2, 5) > 0)) == 30
    assert observed(Entries(torch.zeros(7, 2), torch.zeros(7))) == 7


def test_facts_tell_datasets_apart():
    a, b = data_of().facts(), data_of(source=Ramp(slope=2.1)).facts()
    assert a == data_of().facts() and a["sha256"] != b["sha256"]
    assert a["shape"]["x"] == [20, 12, 1]


def test_names_are_those_of_the_source():
    assert data_of().names == Ramp()().names
    assert data_of(source=lambda: Ramp()()._replace(names=None)).names is None
    assert isinstance(data_of().names, Names)


def test_forecasting_judges_every_kept_series():
    data = data_of(task=Forecasting(fraction=0.5), split=BySeries(0.5, 0.0))
    assert sum(len(given.t) for given, _, _ in data.val_dataloader()) == 10


class TestMissing:
    """Ramp has 20 series; what is missing of one is known by its name alone."""

    def kept(self, loaders):
        """name -> times that are given, over all batches of some loaders."""
        return {
            name: given.t[b][given.mask[b].any(-1)].tolist()
            for loader in loaders
            for given, _, _ in loader
            for b, name in enumerate(given.names.series)
        }

    def everywhere(self, **options):
        options = {"task": Forecasting(fraction=0.5), "missing": Missing(0.5)} | options
        data = data_of(**options)
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        return self.kept(loaders)

    def test_neither_split_nor_batches_nor_seeds_nor_epochs_matter(self):
        one = self.everywhere()
        assert len(one) == 20
        for options in (
            {"batch_size": 7, "buckets": False},
            {"split": BySeries(0.3, 0.3, seed=4)},
            {"seed": 5},
            {"source": lambda: take(Ramp()(), list(range(20))[::-1])},
        ):
            assert self.everywhere(**options) == one
        data = data_of(task=Forecasting(fraction=0.5), missing=Missing(0.5))
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        assert self.kept([loader]).items() <= one.items()
        given, _ = data.train_pair(2)
        assert self.kept([[(given, None, None)]]).items() <= one.items()

    def test_workers_give_the_same(self):
        a, b = (data_of(missing=Missing(0.5), workers=w).train_dataloader() for w in (0, 2))
        assert all(same(u[:2], v[:2]) for u, v in zip(a, b, strict=True))

    def test_another_seed_drops_others(self):
        assert self.everywhere() != self.everywhere(missing=Missing(0.5, seed=1))

    def test_rates_are_paired(self):
        rates = [self.everywhere(missing=Missing(rate)) for rate in (0.0, 0.3, 0.5, 0.8)]
        for more, less in itertools.pairwise(rates):
            assert all(set(less[name]) <= set(more[name]) for name in more)
        assert sum(map(len, rates[-1].values())) < sum(map(len, rates[1].values()))

    @pytest.mark.parametrize("split", [BySeries(0.2, 0.2), ByTime(0.3, 0.3), ByTimePoint(0.3, 0.3)])
    def test_what_is_wanted_is_left_alone(self, split):
        whole, thin = (data_of(split=split, missing=m) for m in (Missing(), Missing(0.5)))
        for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
            for a, b in zip(getattr(whole, name)(), getattr(thin, name)(), strict=True):
                assert torch.equal(a[1].mask, b[1].mask) and torch.equal(a[1].t, b[1].t)
                rows, kept = a[0].mask.any(-1).sum(1), b[0].mask.any(-1).sum(1)
                assert torch.equal(kept, rows - (0.5 * rows).long())

    def test_predictions_are_given_everything(self):
        ((given, _, _),) = data_of(missing=Missing(0.5), batch_size=20).predict_dataloader()
        assert int(given.mask.sum()) == int(Ramp()().mask.sum())

    def test_series_without_names_are_told_apart(self):
        data = data_of(
            source=lambda: Ramp()()._replace(names=None),
            task=Forecasting(fraction=0.5),
            missing=Missing(0.5),
        )
        assert data.names is None
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        assert self.kept(loaders).keys() == set(range(20))

    def test_only_series_can_be_thinned(self):
        entries = Entries(torch.rand(10, 3), torch.arange(10.0))
        options = {"source": lambda: entries, "task": lambda e, generator=None: (e, e)}
        with pytest.raises(ConfigError, match=r"TSD-X01.*data\.missing with Entries"):
            data_of(**options, missing=Missing(0.5))

    def test_spawned_workers_can_have_it(self):
        assert pickle.dumps(data_of(missing=Missing(0.5)).train_dataloader().dataset)
