"""Publishing while training goes on: first all weights, then what changed since.

Which rows of the tables changed is known without comparing: those that were looked up, since nothing else moves them
(the optimizer is fused into the tables' backward and knows no decay).
"""

import re
import time
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from rich.markup import escape
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from smt.training.display import Display
from smt.training.features import FeatureSpec
from smt.training.layout import Layout
from smt.training.parallel import from_rank_zero
from smt.training.sharded import ShardedModel

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often to publish: a number of training steps, or of seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Every":
        """`500` is steps; `30s`, `10m` and `1h` are times. Raises ValueError for anything else."""
        match = re.fullmatch(r"([1-9]\d*)([smh]?)", text)
        if match is None:
            raise ValueError(f"found {text!r}; expected steps as in 500, or a time as in 30s, 10m or 1h")
        count = int(match[1])
        return cls(seconds=count * _UNITS[match[2]]) if match[2] else cls(steps=count)


@dataclass(frozen=True)
class Outcome:
    """Whether weights were published, and as what or why not."""

    published: bool
    message: str


class Publisher(Protocol):
    """Takes weights, on rank 0 alone. What it does not publish comes again, with what changes until then."""

    def start(self, spec: FeatureSpec) -> None:
        """Before the first step."""

    def whole(self, slab: Tensor, table: Tensor, step: int) -> Outcome:
        """slab [elements], table [table_rows, dim], float32: all weights after that step."""

    def changed(self, slab: Tensor, rows: Tensor, values: Tensor, step: int) -> Outcome:
        """slab [elements]; rows [n] int64 strictly increasing, values [n, dim]: since what was published last."""


class TouchedRows:
    """The rows of the tables that were looked up since clear(), in this process."""

    def __init__(self, spec: FeatureSpec, device: torch.device) -> None:
        self._first_row = {key: feature.first_row for key, feature, _ in spec.lookups}
        self._touched = torch.zeros(spec.table_rows, dtype=torch.uint8, device=device)

    def note(self, sparse: KeyedJaggedTensor) -> None:
        """The ids of a training batch, which count from 0 in each feature's table."""
        offsets = sparse.offset_per_key()
        for i, name in enumerate(sparse.keys()):
            self._touched[sparse.values()[offsets[i] : offsets[i + 1]].long() + self._first_row[name]] = 1

    def rows(self) -> Tensor:
        """Of all processes: rows of the table, int64 [n] strictly increasing, on the CPU of every rank."""
        touched = self._touched.cpu()
        if dist.get_world_size() > 1:
            dist.all_reduce(touched, dist.ReduceOp.MAX)
        return touched.nonzero().squeeze(1)

    def clear(self) -> None:
        self._touched.zero_()


class Publication:
    """Publishes a run's weights every so often. The same calls on every rank."""

    def __init__(
        self, publisher: Publisher, every: Every, model: ShardedModel, layout: Layout, display: Display
    ) -> None:
        self._publisher = publisher
        self._every = every
        self._model = model
        self._layout = layout
        self._display = display
        self._touched = TouchedRows(model.spec, next(model.net.parameters()).device)
        self._begun = False
        self._last_step: int | None = None
        self._last_time = time.monotonic()
        from_rank_zero(lambda: publisher.start(model.spec))

    def after_step(self, step: int, sparse: KeyedJaggedTensor) -> None:
        """`step`: how many were done, this one included; `sparse`: what it looked up."""
        self._touched.note(sparse)
        if self._last_step is None:
            self._last_step = step - 1
        if self._due(step):
            self._publish(step)
            self._last_step, self._last_time = step, time.monotonic()

    def _due(self, step: int) -> bool:
        if self._every.steps is not None:
            return step - (self._last_step or 0) >= self._every.steps
        seconds = self._every.seconds or 0.0
        return from_rank_zero(lambda: time.monotonic() - self._last_time >= seconds)  # clocks differ

    def _publish(self, step: int) -> None:
        slab = self._layout.pack(self._model.net.exported())
        if self._begun:
            rows = self._touched.rows()
            values = self._model.rows(rows)
            outcome = from_rank_zero(lambda: self._publisher.changed(slab, rows, values, step))
        else:
            table = self._model.table()
            outcome = from_rank_zero(lambda: self._publisher.whole(slab, table, step))
        if outcome.published:
            self._begun = True
            self._touched.clear()
        warning = "" if outcome.published else "[yellow]warning:[/] not published: "
        self._display.say(f"{warning}step {step:,}: {escape(outcome.message)}")
