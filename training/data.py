"""Parquet -> training batches: transformed once by smt.kernels.transform, shuffled by seed, streamed or kept.

A split whose transformed rows fit the memory budget is transformed once and kept, since the transformation never
changes; a larger one is streamed in every epoch, in a random order of row groups and through a shuffle buffer.
Either way every row comes exactly once per epoch, in an order that only the seed and the epoch decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.training.features import FeatureSpec
from smt.training.reading import BATCH_ROWS, DataError, Piece, RawBatch, iter_batches, pieces
from smt.training.rows import Batch, RowFormat, Rows
from smt.training.scenario import Scenario, Split

__all__ = ["Batch", "DataError", "Loader", "RawBatch", "fingerprint", "iter_batches"]

CACHE_BYTES = 1 << 30
SHUFFLE_ROWS = 1 << 18


@dataclass(frozen=True)
class Shard:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


class Loader:
    """Batches of one split of a scenario."""

    def __init__(
        self,
        scenario: Scenario,
        spec: FeatureSpec,
        split: Split,
        batch_size: int,
        *,
        shard: Shard | None = None,
        cache_bytes: int = CACHE_BYTES,
        shuffle_rows: int = SHUFFLE_ROWS,
    ) -> None:
        """Args:
        batch_size: rows of a batch of this process; the last batch of an epoch may be smaller.
        cache_bytes: the split is kept in memory if all its transformed rows surely fit.
        shuffle_rows: rows of the shuffle buffer when the split is streamed.
        """
        self.scenario = scenario
        self.split: Split = split
        self.batch_size = batch_size
        self.shard = shard or Shard()
        self.shuffle_rows = max(shuffle_rows, batch_size)
        self.format = RowFormat.of(spec, len(scenario.tasks))
        self._transform = FeatureTransform(spec.to_json())
        self._seed = scenario.template.recipe.seed
        self._kept: Rows | None = None
        rows = sum(piece.rows for piece in pieces(scenario, split))
        self.keeps = -(-rows // self.shard.world) * self.format.bytes_per_row <= cache_bytes

    def epoch(self, epoch: int | None) -> Iterator[Batch]:
        """All rows once, as batches.

        Args:
            epoch: decides, with the recipe's seed, the order; None is the order of the files.

        Raises:
            ConfigError, DataError: see `iter_batches`. InputError: a value that the transformation refuses.
        """
        generator = None
        if epoch is not None:
            generator = torch.Generator().manual_seed(_mix(self._seed, epoch, self.shard.rank))
        if self.keeps:
            if self._kept is None:
                self._kept = self._all_rows()
            blocks = iter([self._kept])
        else:
            # Row groups in the same order in every process: their rows are dealt out one by one.
            blocks = self._blocks(None if epoch is None else _mix(self._seed, epoch, -1))
        yield from self._batches(blocks, generator)

    def padding(self) -> Batch:
        """A batch of one row without a value and without a label: it moves no weight and counts in no metric."""
        return Rows.padding(self.format).take(torch.zeros(1, dtype=torch.int64))

    def _all_rows(self) -> Rows:
        parts = list(self._rows(None))
        return Rows.concat(parts) if parts else _no_rows(self.format)

    def _rows(self, seed: int | None) -> Iterator[Rows]:
        """The rows of this process, transformed, as they are read."""
        rank, world = self.shard.rank, self.shard.world
        for raw in iter_batches(self.scenario, self.split, rank=rank, world=world, seed=seed):
            columns = columns_from_arrow(raw.columns, self.scenario.inputs, self._transform.inputs)
            batch = self._transform.apply(raw.rows, columns, local_ids=True, max_rows=BATCH_ROWS, max_list=1 << 31)
            yield Rows.of(self.format, batch, raw.labels)

    def _blocks(self, seed: int | None) -> Iterator[Rows]:
        """Blocks of at least `shuffle_rows` rows, but for the last one."""
        parts: list[Rows] = []
        for rows in self._rows(seed):
            parts.append(rows)
            if sum(map(len, parts)) >= self.shuffle_rows:
                yield Rows.concat(parts)
                parts = []
        if parts:
            yield Rows.concat(parts)

    def _batches(self, blocks: Iterator[Rows], generator: torch.Generator | None) -> Iterator[Batch]:
        rest: Rows | None = None
        for block in blocks:
            # What the block before left over is drawn again with this one.
            rows = block if rest is None else Rows.concat([rest, block])
            rest = None
            order = torch.arange(len(rows)) if generator is None else torch.randperm(len(rows), generator=generator)
            whole = len(rows) if self.keeps else len(rows) // self.batch_size * self.batch_size
            for index in torch.split(order[:whole], self.batch_size):
                if len(index):
                    yield rows.take(index)
            if whole < len(rows):
                rest = rows.select(order[whole:])
        if rest is not None:
            yield rest.take(torch.arange(len(rest)))


def _mix(seed: int, epoch: int, rank: int) -> int:
    """One seed from three numbers, without the collisions of their sum."""
    words: Any = np.random.SeedSequence([seed, epoch, rank + 1]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _no_rows(row_format: RowFormat) -> Rows:
    return Rows.padding(row_format).select(torch.empty(0, dtype=torch.int64))


def fingerprint(scenario: Scenario, split: Split) -> dict[str, Any]:
    """What identifies the data of a split for a later run: names, sizes and row counts of its files."""
    groups: dict[Path, list[Piece]] = {}
    for piece in pieces(scenario, split):
        groups.setdefault(piece.file, []).append(piece)
    return {
        "files": [
            {"name": file.name, "bytes": file.stat().st_size, "rows": sum(piece.rows for piece in group)}
            for file, group in groups.items()
        ],
        "filter": scenario.filter.source if scenario.filter else None,
    }
