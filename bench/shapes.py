"""The shapes of the kernel benchmark: three templates, tables, weights, and fresh random batches.

    shape = load_shape("R1")
    batch = random_batch(shape, rows=256, rng=np.random.default_rng(0))

Ids are one per slot and follow a power law, as the values of a categorical feature do: a few rows of a table are read
all the time, the rest seldom.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smt.kernels.cpu import ROW_BLOCK
from smt.training.model import TemplateNet, flops_per_row, serving_function, slab_layout
from smt.training.template import Template, load_template

FOLDER = Path(__file__).resolve().parent / "templates"
# Rows of the table of each slot. R2's are fewer, so that its peers' copies fit the memory of a small machine; at 133 MB
# its tables still exceed every cache.
TABLE_ROWS = {"R1": 100_000, "R2": 10_000, "R3": 100_000}
ROWS = (1, 16, 64, 256, 1024)
# The share of ids below a fraction f of a table's rows is f^(1/SKEW): half of them are in the first 1/16.
SKEW = 4.0
TABLE_STD = 0.3
MEAN_LOGIT = -3.0  # a rate of some 5 %, as of clicks
_CROSS_GAIN = 0.5
_CALIBRATION_ROWS = 512


@dataclass(frozen=True)
class Shape:
    """One template of the benchmark, and how many rows each slot's table has."""

    name: str
    template: Template
    table_rows: int

    @property
    def flops_per_row(self) -> int:
        return flops_per_row(self.template)

    @property
    def slab_bytes(self) -> int:
        return slab_layout(self.template).bytes


@dataclass(frozen=True)
class Batch:
    """Inputs of the template's serving function, of which each row has one id per slot.

    dense [B, D] float32; rows [B, S] int64 rows of the table, rows32 the same as int32; ids, offsets, bag_index: the
    same as bags, see `pooled_embedding`; block_slot int32 [ceil(B / ROW_BLOCK)]: the slot of each block of rows.
    """

    dense: Tensor
    rows: Tensor
    rows32: Tensor
    ids: Tensor
    offsets: Tensor
    bag_index: Tensor
    block_slot: Tensor

    @property
    def size(self) -> int:
        return self.dense.shape[0]


def load_shape(name: str) -> Shape:
    """R1, R2 or R3. Raises KeyError for another name."""
    return Shape(name, load_template(FOLDER / f"{name.lower()}.yaml"), TABLE_ROWS[name])


def random_table(shape: Shape, seed: int = 0) -> Tensor:
    """[S * table_rows, dim] float32: the tables of all slots, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    slots = shape.template.slots
    table = on_huge_pages((slots.categorical * shape.table_rows, slots.dim), torch.float32)
    return table.normal_(generator=generator).mul_(TABLE_STD)


def on_huge_pages(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros on huge pages, where the kernel grants them: the memory in which a server keeps its weights."""
    memory = mmap.mmap(-1, max(1, math.prod(size) * dtype.itemsize))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # of Linux
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(size)


def random_arena(shape: Shape, scenarios: int, seed: int = 0) -> Tensor:
    """[scenarios, elements] float32: the dense weights of so many scenarios, all different."""
    return torch.stack([random_slab(shape.template, seed + scenario) for scenario in range(scenarios)])


def random_slab(template: Template, seed: int = 0) -> Tensor:
    """[elements] float32: weights whose activations neither grow nor vanish, as those of a trained network.

    Matrices are drawn so that layers keep the variance of their input; then each head's last layer is scaled to logits
    of standard deviation 1 around MEAN_LOGIT. A fresh network answers 0.5 to everything, and one that is merely scaled
    up saturates: neither says how much an arithmetic's rounding moves a probability.
    """
    slots = template.slots
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = TemplateNet(template).eval()
        for name, parameter in net.named_parameters():
            if name.startswith("interaction.up"):
                parameter.mul_(_CROSS_GAIN)
            elif not name.startswith("interaction.") and "gate" not in name and parameter.dim() > 1:
                parameter.normal_(0, (2 / parameter.shape[-1]) ** 0.5)
        dense = torch.randn(_CALIBRATION_ROWS, slots.dense)
        pooled = TABLE_STD * torch.randn(_CALIBRATION_ROWS, slots.categorical, slots.dim)
        logits = net(dense, pooled)
        net.heads.get_parameter("out_weight").div_(logits.std(dim=0).unsqueeze(1))
        net.heads.get_parameter("out_bias").copy_(MEAN_LOGIT - logits.mean(dim=0) / logits.std(dim=0))
        return serving_function(template).layout.pack(dict(net.named_parameters()))


def random_batch(
    shape: Shape, rows: int, rng: np.random.Generator, block_slot: NDArray[np.int32] | None = None
) -> Batch:
    """A batch of random rows, of scenario 0 unless `block_slot` names the scenario of each block of rows."""
    slots = shape.template.slots
    local = (rng.random((rows, slots.categorical)) ** SKEW * shape.table_rows).astype(np.int64)
    ids = torch.from_numpy(local + np.arange(slots.categorical) * shape.table_rows)
    bags = rows * slots.categorical
    if block_slot is None:
        block_slot = np.zeros(-(-rows // ROW_BLOCK), np.int32)
    return Batch(
        dense=torch.from_numpy(rng.standard_normal((rows, slots.dense), np.float32)),
        rows=ids,
        rows32=ids.to(torch.int32),
        ids=ids.flatten(),
        offsets=torch.arange(bags + 1),
        bag_index=torch.arange(bags).view(rows, slots.categorical),
        block_slot=torch.from_numpy(block_slot),
    )


def split_rows(total: int, scenarios: int, rng: np.random.Generator) -> list[int]:
    """So many rows over so many scenarios: at least one each, by chance."""
    cuts = np.sort(rng.choice(np.arange(1, total), scenarios - 1, replace=False))
    return [int(count) for count in np.diff([0, *cuts, total])]


def blocks_of(counts: Sequence[int]) -> NDArray[np.int32]:
    """The slot of every block of rows, scenario after scenario, each padded to whole blocks."""
    return np.repeat(np.arange(len(counts), dtype=np.int32), [-(-count // ROW_BLOCK) for count in counts])


def reference(shape: Shape, arena: Tensor, table: Tensor, batch: Batch) -> NDArray[np.float64]:
    """[B, T] probabilities by the template's serving function in float64, each row with its scenario's weights."""
    function = serving_function(shape.template).eval()
    # The batch's own rows as the table: the whole one in float64 would be large.
    table = table[batch.ids].double()
    ids = torch.arange(len(batch.ids))
    slot_of_row = batch.block_slot.repeat_interleave(ROW_BLOCK)[: batch.size]
    found = torch.empty(batch.size, shape.template.tasks, dtype=torch.float64)
    with torch.no_grad():
        for slot in sorted(set(slot_of_row.tolist())):
            mine = slot_of_row == slot
            inputs = (table, batch.dense[mine].double(), ids, batch.offsets, batch.bag_index[mine])
            found[mine] = function(arena[slot].double(), *inputs)
    return found.numpy()
