"""The ops of training share their rows among torch's threads."""

import os
import time
from collections.abc import Callable

import pytest
import torch

from smt.kernels import cpu  # noqa: F401  # loads the ops
from smt.training.sharded import threads

ROWS, COLUMNS = 8192, 512


def ops() -> dict[str, Callable[[], object]]:
    x, weight = torch.randn(ROWS, COLUMNS), torch.randn(COLUMNS, COLUMNS)
    y, bias = torch.relu(x), torch.randn(COLUMNS)
    words = torch.empty(ROWS * COLUMNS // 4, dtype=torch.int64)
    bits = torch.ops.smt.random_words_(words, 1).view(torch.int16)
    ops = torch.ops.smt
    return {
        "product": lambda: ops.product(x, weight),
        "cross_step": lambda: ops.cross_step(x, y, bias, x),
        "cross_step_backward": lambda: ops.cross_step_backward(x, x, y, bias, torch.empty_like(x), True, True),
        "dropout": lambda: ops.dropout(x, bits, 6554),
        "dropout_relu_": lambda: ops.dropout_relu_(x.clone(), bias, bits, 6554),
        "dropout_relu_backward": lambda: ops.dropout_relu_backward(x, y, 6554),
        "random_words_": lambda: ops.random_words_(words, 2),
    }


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one core there is one thread")
@pytest.mark.parametrize("name", list(ops()))
def test_computes_on_all_threads(name: str) -> None:
    op = ops()[name]
    with threads(2):
        op()
        everyone, here = time.process_time(), time.thread_time()
        # By processor time, which does not depend on what else the machine does.
        while time.thread_time() - here < 0.2:
            op()
        others = (time.process_time() - everyone) - (time.thread_time() - here)
    assert others > 0.05, f"{others:.3f} s on other threads, {time.thread_time() - here:.3f} s on this one"
