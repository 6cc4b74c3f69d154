"""Specification of the `embedding` op: bags of table rows, pooled once each and expanded to the rows of the batch."""

from torch import Tensor
from torch.nn.functional import embedding_bag

POOLINGS = ("sum", "mean")


def pooled_embedding(table: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str) -> Tensor:
    """Pools each bag once, then gathers the bags that each row's slots name.

    The indirection is what lets context features be looked up once per request: all candidates point to one bag.

    Args:
        table: [R, dim] float32, the ranges of all features' tables, one after the other.
        ids: [N] int64 rows of `table`, bag after bag. N may be 0.
        offsets: [bags + 1] int64, first id of each bag; offsets[bags] = N. An empty bag pools to zeros.
        bag_index: [B, S] int64, the bag of each row's slot.
        pooling: "sum" or "mean" over a bag's ids.

    Returns:
        [B, S, dim] float32.
    """
    return embedding_bag(ids, table, offsets, mode=pooling, include_last_offset=True)[bag_index]
