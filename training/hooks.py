"""What techniques do in a training run: the places of the trainer at which they act.

A hook overrides the methods that it needs; what it leaves alone changes nothing, so that a run without hooks computes
what it did before there were any, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from smt.training.data import Batch
    from smt.training.features import FeatureSpec
    from smt.training.scenario import Scenario
    from smt.training.sharded import ShardedModel
    from smt.training.template import Template

Predictions = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Run:
    """The run that a hook is part of.

    predict: (labels, probabilities) of this process's share of the validation split, both [rows, tasks], by the
        weights of the moment.
    """

    scenario: "Scenario"
    template: "Template"
    spec: "FeatureSpec"
    model: "ShardedModel"
    device: torch.device
    tasks: int
    predict: Callable[[], Predictions]


class Hook:
    """One technique in one run."""

    run: Run

    def begin(self, run: Run) -> None:
        """Once, when the model has its initial weights and before there is an optimizer. Also before resuming."""
        self.run = run

    def epoch(self, number: int) -> None:
        """Before each epoch, counted from 1."""

    def lr_share(self, share: float, step: int, steps: int) -> float:
        """The share of its learning rate that each optimizer uses in a step, of the planned ones."""
        return share

    def targets(self, targets: Tensor, labelled: Tensor, batch: "Batch") -> Tensor:
        """targets [B, T] with values in [0, 1], and where there are any, [B, T] -> what to train towards, [B, T]."""
        return targets

    def losses(self, losses: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of each task, [T]; logits and labels (NaN: none), [B, T] -> [T]."""
        return losses

    def total(self, losses: Tensor, weights: Tensor) -> Tensor | None:
        """losses and the scenario's weights of its tasks, [T] -> scalar. None: as without the hook."""
        return None

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of the batch that was just computed."""
        return None

    def after_step(self, step: int) -> None:
        """After the optimizers' step, counted from 1."""

    def served(self) -> AbstractContextManager[None]:
        """While entered, the model's weights are those to measure and export."""
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """Tensors and plain data that a resumed run needs, of this process."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""


class Hooks:
    """The hooks of a run, in the template's order."""

    def __init__(self, hooks: list[tuple[str, Hook]]) -> None:
        self._named = hooks
        self._hooks = [hook for _, hook in hooks]

    def begin(self, run: Run) -> None:
        for hook in self._hooks:
            hook.begin(run)

    def epoch(self, number: int) -> None:
        for hook in self._hooks:
            hook.epoch(number)

    def lr_share(self, share: float, step: int, steps: int) -> float:
        for hook in self._hooks:
            share = hook.lr_share(share, step, steps)
        return share

    def targets(self, targets: Tensor, labelled: Tensor, batch: "Batch") -> Tensor:
        for hook in self._hooks:
            targets = hook.targets(targets, labelled, batch)
        return targets

    def loss(self, losses: Tensor, weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss to differentiate; see `Hook.losses`, `Hook.total` and `Hook.penalty`."""
        for hook in self._hooks:
            losses = hook.losses(losses, logits, labels)
        totals = [total for hook in self._hooks if (total := hook.total(losses, weights)) is not None]
        loss = totals[-1] if totals else (losses * weights).sum()
        for hook in self._hooks:
            penalty = hook.penalty()
            loss = loss if penalty is None else loss + penalty
        return loss

    def after_step(self, step: int) -> None:
        for hook in self._hooks:
            hook.after_step(step)

    @contextmanager
    def served(self) -> Iterator[None]:
        with ExitStack() as stack:
            for hook in self._hooks:
                stack.enter_context(hook.served())
            yield

    def state(self) -> dict[str, dict[str, Any]]:
        return {name: state for name, hook in self._named if (state := hook.state())}

    def restore(self, states: dict[str, dict[str, Any]]) -> None:
        for name, hook in self._named:
            if name in states:
                hook.restore(states[name])
