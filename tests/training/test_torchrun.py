"""Two processes under torchrun: sharded tables, sharded rows, one result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smt.training.trainer import TrainResult, load_result, train
from tests.training.support import make_scenario

# Each line of a plan is one call of train(): scenario, run directory, epochs, resume.
CODE = """
import json, os, sys
import torch
from safetensors.torch import load_file
from smt.training.publication import Every
from smt.training.scenario import load_scenario
from smt.training.trainer import train
from tests.training.publishing import Recorder
for scenario, run_dir, epochs, resume in json.loads(sys.argv[1]):
    published = Recorder(refused={2})
    result = train(
        load_scenario(scenario), run_dir, epochs=epochs, resume=resume, progress=False,
        publisher=published, publish_every=Every(steps=1),
    )
    rank = int(os.environ["RANK"])
    if result.epoch == result.epochs_completed and rank == 0:  # the weights of the last step are those exported
        exported = load_file(result.weights)
        assert torch.equal(published.slab, exported["slab"]) and torch.equal(published.table, exported["table"])
        print("published what was exported")
    assert (rank == 0) == bool(published.steps), "rank 0 alone publishes"
"""
# In front of it: tables are sharded as asked, where the planner would choose, and said to be.
SHARDED = """
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardedTensor
from smt.training import sharded
sharded.CONSTRAINTS = ParameterConstraints(sharding_types=["{kind}"], min_partition={columns})
"""
# Behind the training: how the last model's tables lie.
REPORT = """
import torch.distributed.checkpoint as dcp
from pathlib import Path
meta = dcp.FileSystemReader(sorted(Path(run_dir).glob("checkpoint/epoch-*"))[-1]).read_metadata()
if rank == 0:
    for name, item in sorted(meta.state_dict_metadata.items()):
        if name.startswith("model.ebc"):
            print("shards", json.dumps(sorted(list(chunk.offsets) for chunk in item.chunks)))
"""
Plan = list[tuple[str, str, int, bool]]


def torchrun(folder: Path, plan: Plan, before: str = "", behind: str = "") -> str:
    """Has two processes do the plan; returns what they print."""
    script = folder / "script.py"
    script.write_text(before + CODE + behind)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])  # for what tests share
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "--local-addr=127.0.0.1", str(script), json.dumps(plan)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "published what was exported" in done.stdout
    return done.stdout


def test_two_processes(tmp_path: Path) -> None:
    # Batches of all rows, no dropout, one task with every label: two processes compute what one computes.
    exact = make_scenario(
        tmp_path / "exact",
        {"  - {name: buy, label: bought, weight: 0.5}\n": ""},
        {"batch_size: 128": "batch_size: 1800", "dropout: 0.1": "dropout: 0.0", "tasks: 3": "tasks: 1"},
        train=1800,
        valid=501,
    )
    # An odd number of rows, so that one process runs out of them first.
    usual = make_scenario(tmp_path / "usual", train=1801, valid=501)
    plan: Plan = [
        (str(exact.path), "exact", 4, False),
        (str(usual.path), "usual", 2, False),
        (str(usual.path), "usual", 3, True),
    ]
    # Runs that change their number of processes after three epochs, from one to two and from two to one.
    grown, shrunk, stayed = (tmp_path / name for name in ("grown", "shrunk", "stayed"))
    for run_dir in (grown, stayed):
        train(exact, run_dir, epochs=3, progress=False)
    first_half = load_file(load_result(stayed).weights)["table"]
    both = [(path, str(tmp_path / "two" / name), epochs, resume) for path, name, epochs, resume in plan]
    torchrun(tmp_path, [*both, (str(exact.path), str(grown), 6, True), (str(exact.path), str(shrunk), 3, False)])
    for run_dir in (shrunk, stayed):
        train(exact, run_dir, epochs=6, resume=True, progress=False)
    scenarios = {str(exact.path): exact, str(usual.path): usual}
    for path, name, epochs, resume in plan:
        train(scenarios[path], tmp_path / "one" / name, epochs=epochs, resume=resume, progress=False)

    one, two = load_result(tmp_path / "one" / "exact"), load_result(tmp_path / "two" / "exact")
    assert two.details["processes"] == 2
    same(one, two)
    kept = load_result(stayed)
    for run_dir, processes in ((grown, 2), (shrunk, 1)):
        moved = load_result(run_dir)
        assert (moved.epochs_completed, moved.epoch, moved.details["processes"]) == (6, 6, processes)
        same(kept, moved)
    # The epochs after the change matter more than rounding does: what did not move with a checkpoint would be seen.
    assert not torch.allclose(load_file(kept.weights)["table"], first_half, atol=1e-3, rtol=1e-3)

    one, two = load_result(tmp_path / "one" / "usual"), load_result(tmp_path / "two" / "usual")
    assert (two.epochs_completed, two.epoch) == (3, 3)
    assert two.rows == {"train": 1801, "valid": 501}
    compare(one, two, rel=0.15)


def same(one: TrainResult, two: TrainResult) -> None:
    """Both computed the same, but for rounding."""
    compare(one, two, rel=1e-4)
    for tensor in ("slab", "table"):
        torch.testing.assert_close(load_file(two.weights)[tensor], load_file(one.weights)[tensor], atol=1e-3, rtol=1e-3)


def compare(one: TrainResult, two: TrainResult, rel: float) -> None:
    assert one.rows == two.rows
    for name, metrics in one.metrics.items():
        found = two.metrics[name]
        assert (found.rows, found.positives) == (metrics.rows, metrics.positives)
        assert found.ne == pytest.approx(metrics.ne, rel=rel)


# By rows they are sharded on GPUs alone: TorchRec offers it for no other.
@pytest.mark.parametrize("kind", ["table_wise", "column_wise"])
def test_each_sharding_trains_the_same_model(kind: str, tmp_path: Path) -> None:
    one_label = {"  - {name: buy, label: bought, weight: 0.5}\n": ""}
    exact = {"batch_size: 128": "batch_size: 1800", "dropout: 0.1": "dropout: 0.0", "tasks: 3": "tasks: 1"}
    scenario = make_scenario(tmp_path / "data", one_label, exact | {"dim: 4": "dim: 8"}, train=1800, valid=501)
    before = SHARDED.format(kind=kind, columns=4)
    out = torchrun(tmp_path, [(str(scenario.path), str(tmp_path / "two"), 3, False)], before, REPORT)
    shards = [json.loads(line.removeprefix("shards ")) for line in out.splitlines() if line.startswith("shards ")]
    assert shards == 4 * [[[0, 0]] if kind == "table_wise" else [[0, 0], [0, 4]]]
    one, two = train(scenario, tmp_path / "one", epochs=3, progress=False), load_result(tmp_path / "two")
    if kind == "table_wise":
        same(one, two)
    else:  # row-wise Adagrad keeps a number for each row of a shard, so that halves of a row take steps of their own
        compare(one, two, rel=0.02)
