"""Checkpoints that training resumes from, written by torch.distributed.checkpoint after every epoch.

    <run>/checkpoint/latest          the name of the newest complete checkpoint
    <run>/checkpoint/epoch-0003/     weights and optimizer states (sharded), progress.json, and what techniques keep

A checkpoint is written under another name, renamed when it is complete, and only then named in `latest`; the one
before is deleted last. Killed at any moment, a run resumes from the newest complete one. There is no random state in
it: every epoch draws from generators seeded by the recipe's seed and the epoch.
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from smt.training.hooks import Hooks
from smt.training.optimizer import fill
from smt.training.parallel import barrier
from smt.training.sharded import ShardedModel

_LATEST = "latest"
_PROGRESS = "progress.json"
_HOOKS = "techniques-{}.pt"


class CheckpointError(RuntimeError):
    """A run directory that training cannot resume from."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file: after a crash at any moment, it holds the old content or the new one."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes renames within a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(
    directory: Path,
    model: ShardedModel,
    optimizer: torch.optim.Optimizer,
    hooks: Hooks,
    progress: dict[str, Any],
) -> None:
    """Writes the state after an epoch; called by every rank. `progress` is plain data, that of rank 0 is kept."""
    name = f"epoch-{progress['epochs_completed']:04d}"
    temporary = directory / f".tmp-{name}"
    if dist.get_rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    barrier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ShardedTensor, which TorchRec still uses
        try:
            save_state(_state(model, optimizer), checkpoint_id=temporary)
        except CheckpointException as error:  # not an Exception
            raise CheckpointError(f"{temporary}: the checkpoint could not be written ({_reason(error)})") from error
    if kept := hooks.state():
        torch.save({"processes": dist.get_world_size(), "kept": kept}, temporary / _hooks_file())
        barrier()
    if dist.get_rank() == 0:
        write_atomically(temporary / _PROGRESS, json.dumps(progress, indent=1).encode())
        for path in temporary.iterdir():
            sync_directory(path)  # fsync of the file itself
        sync_directory(temporary)
        final = directory / name
        shutil.rmtree(final, ignore_errors=True)  # complete, but never named in `latest`
        temporary.rename(final)
        sync_directory(directory)
        write_atomically(directory / _LATEST, f"{name}\n".encode())
        for path in directory.iterdir():
            if path.is_dir() and path.name != name:
                shutil.rmtree(path, ignore_errors=True)
    barrier()


def latest(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its progress; None if there is none.

    Raises:
        CheckpointError: there is one, but it cannot be read.
    """
    try:
        name = (directory / _LATEST).read_text().strip()
    except FileNotFoundError:
        return None
    path = directory / name
    try:
        progress: dict[str, Any] = json.loads((path / _PROGRESS).read_bytes())
    except (OSError, ValueError) as error:
        found = f"no readable checkpoint ({error})"
        raise CheckpointError(f"{path}: found {found}; expected the one that `latest` names") from error
    return path, progress


def restore(path: Path, model: ShardedModel, optimizer: torch.optim.Optimizer, hooks: Hooks) -> None:
    """Loads weights and optimizer states in place; called by every rank, of whatever number.

    Raises:
        CheckpointError: the files are damaged, or are those of another template or scenario; techniques kept something,
            and the number of processes is another.
    """
    fill(optimizer)
    state = _state(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_state(state, checkpoint_id=path)
        except (Exception, CheckpointException) as error:  # errors of many kinds, from pickle's to its own
            raise CheckpointError(f"{path}: found a checkpoint that does not load ({_reason(error)})") from error
        model.dmp.load_state_dict(state["model"])
        model.fused_optimizer.load_state_dict(state["tables_optimizer"])
    _restore_hooks(path, hooks)


def _restore_hooks(path: Path, hooks: Hooks) -> None:
    # What techniques keep is of the tables' shards, and so of as many processes as there were.
    files = list(path.glob(_HOOKS.format("*")))
    if not files:
        return
    if len(files) != dist.get_world_size():
        raise CheckpointError(
            f"{path}: found what the template's techniques kept in {len(files)} processes; expected to resume with as "
            f"many, not {dist.get_world_size()}"
        )
    hooks.restore(torch.load(path / _hooks_file(), weights_only=True)["kept"])


def _hooks_file() -> str:
    return _HOOKS.format(dist.get_rank())


def _state(model: ShardedModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Tensors that share memory with the model's, so that loading into them is loading the model."""
    trained = {**model.dense_parameters(), **model.replicated_tables()}
    names = {id(parameter): name for name, parameter in trained.items()}
    dense: dict[str, dict[str, Tensor]] = {
        names[id(parameter)]: dict(values) for parameter, values in optimizer.state.items()
    }
    state = {
        "model": model.dmp.state_dict(),
        "tables_optimizer": model.fused_optimizer.state_dict(),
        "dense_optimizer": dense,
    }
    # An empty part would be looked for in the checkpoint, and not found.
    return {**state, "extra": dict(model.extra)} if model.extra else state


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
