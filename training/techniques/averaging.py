"""The weights of a run at one moment, to be averaged and swapped: dense weights, buffers, and table shards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from smt.training.hooks import Hook


class AveragingHook(Hook):
    """Keeps an average of the weights; it is what is measured and exported, once there is one."""

    average: list[Tensor] | None = None

    def live(self) -> list[Tensor]:
        """The model's weights themselves: writing to them changes the model."""
        shards = [shard.weights for _, shards in self.run.model.table_shards() for shard in shards]
        dense = [parameter.detach() for parameter in self.run.model.dense_parameters().values()]
        buffers = [buffer for buffer in self.run.model.net.buffers() if buffer.is_floating_point()]
        return [*dense, *buffers, *(shard.detach() for shard in shards)]

    def blend(self, share: float) -> None:
        """Moves the average by `share` of the way to the weights of the moment; the first time, all of it."""
        live = self.live()
        if self.average is None:
            self.average = [tensor.clone() for tensor in live]
            return
        torch._foreach_lerp_(self.average, live, share)

    @contextmanager
    def served(self) -> Iterator[None]:
        if self.average is None:
            yield
            return
        live = self.live()
        kept = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(live, kept)

    def state(self) -> dict[str, object]:
        return {} if self.average is None else {"average": self.average}

    def restore(self, state: dict[str, object]) -> None:
        average = state["average"]
        assert isinstance(average, list)
        self.average = average
