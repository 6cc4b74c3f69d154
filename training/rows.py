"""Transformed rows in memory, and the training batches taken from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from smt.kernels.transform import TransformedBatch
from smt.training.features import FeatureSpec


@dataclass(frozen=True)
class Batch:
    """One training batch: dense [B, D] float32, sparse features, labels [B, T] float32 (NaN where there is none)."""

    dense: Tensor
    sparse: KeyedJaggedTensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return Batch(self.dense.to(device), self.sparse.to(device), self.labels.to(device))


@dataclass(frozen=True)
class RowFormat:
    """Which features are kept how: those with one id per row in a matrix, multi-valued ones as lists."""

    single: tuple[int, ...]  # positions among the spec's categorical features
    multi: tuple[int, ...]
    sequences: tuple[int, ...]  # length of each
    keys: tuple[str, ...]  # of the KeyedJaggedTensor: single ones, multi-valued ones, positions of sequences
    dense_slots: int
    tasks: int
    bytes_per_row: int  # at most

    @staticmethod
    def of(spec: FeatureSpec, tasks: int) -> RowFormat:
        features = spec.categorical
        single = tuple(i for i, feature in enumerate(features) if not feature.multi_valued)
        multi = tuple(i for i, feature in enumerate(features) if feature.multi_valued)
        sequences = tuple(feature.sequence.length for feature in features if feature.sequence is not None)
        lists = sum(8 + 4 * length for length in (*(features[i].max_length for i in multi), *sequences))
        positions = tuple(key for key, _, _ in spec.lookups[len(features) :])
        return RowFormat(
            single=single,
            multi=multi,
            sequences=sequences,
            keys=(*(features[i].name for i in (*single, *multi)), *positions),
            dense_slots=spec.dense_slots,
            tasks=tasks,
            bytes_per_row=4 * (spec.dense_slots + len(single) + tasks) + lists,
        )


@dataclass(frozen=True)
class Lists:
    """One multi-valued feature, or one sequence: row r holds values[starts[r] : starts[r] + lengths[r]]."""

    values: Tensor  # [n] int32
    starts: Tensor  # [rows] int64
    lengths: Tensor  # [rows] int64

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Values and lengths of the rows at `index`."""
        lengths = self.lengths[index]
        total = int(lengths.sum())
        # Position of each value: the start of its row, plus how many values of that row came before.
        shift = self.starts[index] - (torch.cumsum(lengths, 0) - lengths)
        position = torch.arange(total) + torch.repeat_interleave(shift, lengths, output_size=total)
        return self.values[position], lengths

    def positions(self, index: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Of the rows at `index`: their first values, their second ones and so on; how many each row has of each."""
        values, lengths = self.take(index)
        starts = torch.cumsum(lengths, 0) - lengths
        there = [lengths > i for i in range(length)]
        found = [values[starts[has] + i] for i, has in enumerate(there)]
        return torch.cat(found), torch.cat(there).to(torch.int64)


@dataclass(frozen=True)
class Rows:
    """Transformed rows, column by column. Ids count from 0 in each feature's own table."""

    format: RowFormat
    dense: Tensor  # [rows, D] float32
    single: Tensor  # [len(format.single), rows] int32
    multi: tuple[Lists, ...]  # of the multi-valued features, then of the sequences
    labels: Tensor  # [rows, T] float32

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def of(
        row_format: RowFormat, batch: TransformedBatch, labels: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> Rows:
        """Takes a batch in which every feature has bags of each row (as sent by `iter_batches`)."""
        rows = batch.rows
        bags = torch.from_numpy(batch.offsets[1:])  # bag 0 is the reserved empty one
        ids = torch.from_numpy(batch.ids)
        if len(bags) != len(row_format.keys) * rows + 1:
            raise ValueError(f"found {len(bags) - 1} bags; expected {len(row_format.keys)} features x {rows} rows")
        first = bags[::rows]
        # A matrix row of a single-valued feature is a range of the ids: `missing` and `unknown` have ids as well.
        single = [ids[first[i] : first[i] + rows] for i in row_format.single]
        multi = []
        for i in row_format.multi:
            offsets = bags[i * rows : (i + 1) * rows + 1]
            values = ids[offsets[0] : offsets[-1]].to(torch.int32)
            multi.append(Lists(values, offsets[:-1] - offsets[0], torch.diff(offsets)))
        begin = (len(row_format.single) + len(row_format.multi)) * rows
        for length in row_format.sequences:  # row by row, a bag for each position
            ends = bags[begin : begin + rows * length + 1 : length]
            values = ids[ends[0] : ends[-1]].to(torch.int32)
            multi.append(Lists(values, ends[:-1] - ends[0], torch.diff(ends)))
            begin += rows * length
        matrix = torch.stack(single).to(torch.int32) if single else torch.empty(0, rows, dtype=torch.int32)
        # Cloned, because a view would keep all of the batch's arrays in memory.
        dense = torch.from_numpy(batch.dense).clone()
        return Rows(row_format, dense, matrix, tuple(multi), torch.from_numpy(labels))

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1:
            return parts[0]
        multi = []
        for lists in zip(*(part.multi for part in parts), strict=True):
            shifts = np.cumsum([0, *(len(one.values) for one in lists)])
            starts = torch.cat([one.starts + int(shift) for one, shift in zip(lists, shifts, strict=False)])
            lengths = torch.cat([one.lengths for one in lists])
            multi.append(Lists(torch.cat([one.values for one in lists]), starts, lengths))
        return Rows(
            parts[0].format,
            torch.cat([part.dense for part in parts]),
            torch.cat([part.single for part in parts], dim=1),
            tuple(multi),
            torch.cat([part.labels for part in parts]),
        )

    @staticmethod
    def padding(row_format: RowFormat) -> Rows:
        """One row without a value and without a label: it contributes to no gradient and no metric."""
        zero = torch.zeros(1, dtype=torch.int64)
        return Rows(
            row_format,
            torch.zeros(1, row_format.dense_slots),
            torch.zeros(len(row_format.single), 1, dtype=torch.int32),
            tuple(
                Lists(torch.empty(0, dtype=torch.int32), zero, zero) for _ in (*row_format.multi, *row_format.sequences)
            ),
            torch.full((1, row_format.tasks), float("nan")),
        )

    def select(self, index: Tensor) -> Rows:
        """The rows at `index` ([n] int64), copied."""
        multi = []
        for lists in self.multi:
            values, lengths = lists.take(index)
            multi.append(Lists(values, torch.cumsum(lengths, 0) - lengths, lengths))
        return Rows(self.format, self.dense[index], self.single[:, index], tuple(multi), self.labels[index])

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` ([B] int64) as a batch."""
        values = [self.single.index_select(1, index).view(-1).to(torch.int64)]
        lengths = [torch.ones(len(self.format.single) * len(index), dtype=torch.int64)]
        count = len(self.format.multi)
        taken = [lists.take(index) for lists in self.multi[:count]]
        sequences = zip(self.multi[count:], self.format.sequences, strict=True)
        taken += [lists.positions(index, length) for lists, length in sequences]
        for list_values, list_lengths in taken:
            values.append(list_values.to(torch.int64))
            lengths.append(list_lengths)
        sparse = KeyedJaggedTensor(
            keys=list(self.format.keys), values=torch.cat(values), lengths=torch.cat(lengths), stride=len(index)
        )
        return Batch(self.dense.index_select(0, index), sparse, self.labels.index_select(0, index))
