"""The processes that train together: one by default, several under torchrun."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Joins the process group and yields the device of this process.

    Under torchrun the group is that of its environment, which this process joins once and leaves when it ends;
    otherwise a group of one, which opens no port. A group that the caller has initialised is used and left alone.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "cuda:nccl,cpu:gloo" if cuda else "gloo"
    if not dist.is_initialized() and "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
        # A second group of the same store would find the keys of the first and wait for ever.
        atexit.register(dist.destroy_process_group)
    if dist.is_initialized():
        yield device
        return
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def from_rank_zero(make: Callable[[], T]) -> T:
    """Runs `make` on rank 0 and returns its result on every rank."""
    if dist.get_world_size() == 1:
        return make()
    box: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    result: T = box[0]
    return result


def gather(value: T) -> list[T]:
    """Every rank's value in rank order on rank 0, an empty list on the others."""
    if dist.get_world_size() == 1:
        return [value]
    box: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(value, box if dist.get_rank() == 0 else None, dst=0)
    return box if dist.get_rank() == 0 else []


def barrier() -> None:
    """Waits until every rank is here."""
    if dist.get_world_size() > 1:
        dist.barrier()


def in_lockstep(items: Iterator[T], padding: Callable[[], T]) -> Iterator[T]:
    """The items, followed by paddings until every rank is out of items: each step of sharded tables needs all ranks."""
    if dist.get_world_size() == 1:
        yield from items
        return
    while True:
        item = next(items, None)
        some_left = torch.tensor([item is not None], dtype=torch.int32)
        dist.all_reduce(some_left, dist.ReduceOp.MAX)
        if not some_left.item():
            return
        yield padding() if item is None else item
