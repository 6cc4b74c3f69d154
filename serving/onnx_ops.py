"""ONNX forms of ops that the exporter's own library writes badly.

embedding_bag: the library writes a loop with one iteration per bag, seconds for a batch of a few thousand rows. Here it
is one gather, one cumulative sum that says which bag each id is in, and one scatter-add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # its type hints know no outputs of one op as inputs of another

_SUM, _MEAN = 0, 1


def embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Any, Any, Any, Any]:
    """aten::embedding_bag as the templates use it: sum or mean of the rows of at least two bags.

    weight [R, dim] float32, indices [N] int64, offsets [bags + 1] int64 -> [bags, dim]; the op's three other results
    are not computed (they serve its backward pass), offsets stands in for them.
    """
    if (
        mode not in (_SUM, _MEAN)
        or per_sample_weights is not None
        or not include_last_offset
        or padding_idx is not None
    ):
        raise NotImplementedError("embedding_bag in ONNX: only sum and mean, with the last offset, without weights")
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[-1])
    ids = op.Shape(indices)
    ends = op.Slice(offsets, one, last, zero)  # of all bags but the last
    # At each end a step to the next bag (several for empty bags); the running sum at an id is its bag.
    steps = op.Expand(zero, op.Add(ids, one))
    steps = op.ScatterElements(steps, ends, op.Expand(one, op.Shape(ends)), axis=0, reduction="add")
    bag_of_id = op.Slice(op.CumSum(steps, op.Constant(value_int=0)), zero, ids, zero)
    bags = op.Sub(op.Shape(offsets), one)
    empty = op.Expand(op.Constant(value_floats=[0.0]), op.Concat(bags, op.Shape(weight, start=1), axis=0))
    pooled = op.ScatterND(empty, op.Unsqueeze(bag_of_id, one), op.Gather(weight, indices), reduction="add")
    if mode == _MEAN:
        starts = op.Slice(offsets, zero, last, zero)
        counts = op.Sub(op.Slice(offsets, one, op.Shape(offsets), zero), starts)
        pooled = op.Div(pooled, op.CastLike(op.Unsqueeze(op.Max(counts, one), one), pooled))
    return pooled, offsets, offsets, offsets


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.embedding_bag.padding_idx: embedding_bag,
    torch.ops.aten._embedding_bag_forward_only.default: embedding_bag,
}
