"""Which rows make up which batch: a function of (seed, epoch) and of nothing else."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from ..errors import DataError

POOL = 32  # batches; lengths are sorted inside so many at a time, so that order stays random


class Chosen(NamedTuple):
    """One batch, before it is cut."""

    epoch: int
    rows: tuple[int, ...]
    repeated: bool = False  # only keeps the processes in step: it counts for nothing


class Batches(DistributedSampler[Chosen]):
    """Batches of rows for one process: every row once per epoch over all processes.

    Shuffled, rows of similar length share a batch and every process gets equally many batches of
    (nearly) equal size. Unshuffled, the batches are those of a single process dealt out in turn, so
    that scores do not depend on the number of processes; a process that runs out gets the first
    batches again, marked `repeated`.

    It is a `DistributedSampler` because Lightning then leaves the dealing to it and only calls
    `set_epoch`; its items are whole batches, so the `DataLoader` takes `batch_size=None`.

    Args:
        count: number of rows.
        batch_size: rows per batch, at most.
        lengths: (count,) of each row; None treats all alike.
        shuffle: another order in every epoch.
        seed: of the order.
        rank, world: of this process.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        lengths: Tensor | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__(range(count), world, rank, shuffle, seed)  # type: ignore[arg-type]
        if shuffle and count < world:
            raise DataError(
                "D10",
                f"{count} rows for {world} processes",
                "at least one row to learn from for each process",
                "Use fewer devices, or shorter windows",
            )
        self.count, self.batch_size, self.lengths = count, batch_size, lengths
        self.skipped = (0, 0)

    def skip(self, epoch: int, batches: int) -> None:
        """Leave out the first batches of this process in one epoch: they were learned from before a stop."""
        self.skipped = (epoch, batches)

    def __len__(self) -> int:
        batches = -(-self.count // (self.batch_size * self.num_replicas))
        # single rows cannot be dealt evenly: then some batches hold one row more
        return min(batches, self.count // self.num_replicas) if self.shuffle else batches

    def __iter__(self) -> Iterator[Chosen]:
        epoch = self.epoch
        own = self.shuffled(epoch) if self.shuffle else self.dealt()
        first = self.skipped[1] if epoch == self.skipped[0] else 0
        for rows, repeated in own[first:]:
            yield Chosen(epoch, tuple(rows.tolist()), repeated)

    def shuffled(self, epoch: int) -> list[tuple[Tensor, bool]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        rows = torch.randperm(self.count, generator=generator)
        if self.lengths is not None:
            pools = torch.split(rows, self.batch_size * POOL)
            rows = torch.cat([p[self.lengths[p].argsort(stable=True)] for p in pools])
        batches = rows.tensor_split(len(self) * self.num_replicas)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [(batches[i], False) for i in order[self.rank :: self.num_replicas]]

    def dealt(self) -> list[tuple[Tensor, bool]]:
        batches = torch.split(torch.arange(self.count), self.batch_size) if self.count else ()
        turns = range(self.rank, len(self) * self.num_replicas, self.num_replicas)
        return [(batches[i % len(batches)], i >= len(batches)) for i in turns]


def seed_of(*parts: int) -> int:
    """One seed from several numbers: equal numbers, equal seed; in [0, 2^63)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
