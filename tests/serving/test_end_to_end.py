"""One YAML file of at most 40 lines becomes a fifth scenario of a running server: no compile, no restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.torch import load
from typer.testing import CliRunner

from smt.kernels.transform import FeatureTransform
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.cli import app
from smt.serving.client import Client
from smt.serving.compile import BinaryInfo
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.publish import score_validation
from smt.serving.registry import Registry
from smt.serving.score import score
from smt.training.scenario import load_scenario
from smt.training.template import Template
from tests.serving.data import SHOP_YAML, write_shop
from tests.serving.support import FEED, SEARCH, VIDEO, RunningServer, ScenarioCase, wait_for


def smt(*arguments: object) -> Any:
    """Runs a command with --json; returns what it reports."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_fifth_scenario_is_one_yaml_file(
    compiled: tuple[Path, BinaryInfo, list[str]], registry_folder: Path, template: Template, tmp_path: Path
) -> None:
    assert len(SHOP_YAML.strip().splitlines()) <= 40
    scenario = write_shop(tmp_path / "shop")
    registry = Registry(registry_folder)
    cases = [FEED, SEARCH, VIDEO, ScenarioCase("stories", ("watch",), SEARCH.features)]
    for seed, case in enumerate(cases):
        case.publish(registry, template, seed)
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        assert [s.state for s in client.list_scenarios()] == ["SERVING"] * 4
        before = {case.name: client.predict(case.name, case.rows(20)) for case in cases}

        assert smt("validate", scenario)["ok"]
        trained = smt("train", scenario, "--run-dir", tmp_path / "run", "--epochs", "2")
        published = smt("publish", tmp_path / "run", "--registry", registry_folder)

        wait_for(lambda: client.health("shop") == "SERVING", "the fifth scenario")
        [status] = [s for s in client.list_scenarios() if s.scenario == "shop"]
        assert (status.version, status.loads) == (published["version"], 1)
        # Nothing was compiled, loaded anew or restarted for it.
        assert [binary.sha256 for binary in client.server().binaries] == [compiled[1].sha256]
        assert len(server.events("binary_loaded")) == 1
        for case in cases:
            after = client.predict(case.name, case.rows(20))
            assert after.version == before[case.name].version
            assert {t: list(v) for t, v in after.items()} == {t: list(v) for t, v in before[case.name].items()}

        # Served quality is the trained one, on every row of the validation split.
        result = score(client, load_scenario(scenario), max_rows=128)
        assert result.versions == {published["version"]: result.rows}
        for task in ("bought", "returned"):
            served, expected = result.metrics[task], trained["metrics"][task]
            assert served.ne is not None
            assert served.rows == expected["rows"]
            assert abs(served.ne - expected["ne"]) <= 1e-4 * expected["ne"]
        assert (result.metrics["bought"].auc or 0) > 0.8
        # Its scores are what the binary computes in this process; training's, rounded to bf16 on the way.
        in_process = scores_in_process(registry, scenario)
        predictions = np.load(tmp_path / "run" / "export" / "predictions.npy")
        for column, task in enumerate(("bought", "returned")):
            np.testing.assert_allclose(result.scores[task], in_process[:, column], rtol=0, atol=1e-6)
            np.testing.assert_allclose(result.scores[task], predictions[:, column], rtol=0, atol=4e-3)

        commands_about_a_server(server, scenario, result, tmp_path)


def scores_in_process(registry: Registry, path: Path) -> NDArray[np.float32]:
    """[rows, heads] of the validation split: the current snapshot under the template binary, without a server."""
    scenario = load_scenario(path)
    manifest = registry.verify(scenario.name)
    tensors = load(registry.read_snapshot_file(manifest, WEIGHTS_FILE))
    runner = BinaryRunner.load(registry, manifest.template.name, manifest.abi_hash)
    weights = Weights(tensors["slab"], tensors["table"])
    return score_validation(scenario, FeatureTransform(manifest.features), weights, runner)[1]


def commands_about_a_server(server: RunningServer, scenario: Path, result: Any, folder: Path) -> None:
    """smt score, predict and status report what the client does."""
    target = ("--target", server.target)
    scored = smt("score", scenario, *target)
    assert scored["tasks"]["bought"]["auc"] == result.metrics["bought"].auc
    held_back = smt("score", scenario, "--input", scenario.parent / "train.parquet", *target)
    assert held_back["rows"] > scored["rows"]

    status = smt("status", *target)
    assert status["health"] == "SERVING"
    assert [s["scenario"] for s in status["scenarios"]] == ["feed", "search", "shop", "stories", "video"]
    assert len(status["binaries"]) == 1

    valid = scenario.parent / "valid.parquet"
    table = pq.read_table(valid)
    whole = smt("predict", "-s", "shop", "-i", valid, *target)
    assert whole["rows"] == table.num_rows == len(whole["scores"]["bought"])
    assert list(whole["versions"].values()) == [table.num_rows]
    flat = table.drop_columns(["tags"])
    pa.csv.write_csv(flat, folder / "rows.csv")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    pq.write_table(flat, folder / "flat.parquet")
    outputs = {}
    for name, out in (("rows.jsonl", "a.parquet"), ("flat.parquet", "b.jsonl"), ("rows.csv", "c.csv")):
        smt("predict", "-s", "shop", "-i", folder / name, "-o", folder / out, "--max-rows", "100", *target)
    outputs["jsonl"] = pq.read_table(folder / "a.parquet")["bought"].to_numpy()
    outputs["flat"] = np.array([json.loads(line)["bought"] for line in (folder / "b.jsonl").read_text().splitlines()])
    outputs["csv"] = pa.csv.read_csv(folder / "c.csv")["bought"].to_numpy()
    np.testing.assert_allclose(outputs["jsonl"], whole["scores"]["bought"], atol=1e-6)
    np.testing.assert_allclose(outputs["csv"], outputs["flat"], atol=1e-6)
    assert not np.allclose(outputs["flat"], outputs["jsonl"], atol=1e-3)  # without tags the scores are others

    shown = CliRunner().invoke(app, ["predict", "-s", "shop", "-i", str(valid), *target])
    assert shown.exit_code == 0
    assert "the first 10 of 600 rows" in shown.stderr
    assert "bought" in shown.stdout
    one = smt("predict", "-s", "shop", "-i", folder / "flat.parquet", "--task", "returned", *target)
    assert list(one["scores"]) == ["returned"]
    context = '{"tags": ["t1", "t2"]}'
    with_context = smt("predict", "-s", "shop", "-i", folder / "flat.parquet", "--context", context, *target)
    assert with_context["rows"] == table.num_rows


@contextmanager
def serving(command: Sequence[str], folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """Runs a command that serves until the block ends; gives the process and what its port file holds."""
    ports, log = folder / "ports.json", folder / "serve.log"
    options = ["--port", "0", "--metrics-port", "0", "--poll-ms", "20", "--port-file", str(ports)]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *options], stderr=file, env={**os.environ, **environment})
    try:
        wait_for(lambda: ports.exists() or process.poll() is not None, "smt serve")
        assert process.poll() is None, log.read_text()
        yield process, json.loads(ports.read_text())
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
        assert '"drained"' in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def test_smt_serve_becomes_the_server(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    """The command's process is the server: its pid, its signals, its exit status."""
    version = FEED.publish(Registry(registry_folder), template, seed=1).version
    command = [sys.executable, "-m", "smt.serving.cli", "serve", "--registry", str(registry_folder), "--max-rows", "17"]
    with serving(command, tmp_path) as (process, found):
        assert found["pid"] == process.pid
        with Client(f"127.0.0.1:{found['port']}", timeout=60) as client:
            assert client.server().max_rows == 17
            assert client.predict("feed", FEED.rows(3)).version == version


# A filesystem that our code must take for a remote one.
ELSEWHERE = """
import sys
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Elsewhere(LocalFileSystem):
    protocol = "elsewhere"

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("elsewhere://"))

    def unstrip_protocol(self, name):
        return "elsewhere://" + self._strip_protocol(name)

fsspec.register_implementation("elsewhere", Elsewhere)

from smt.serving.registry import Registry
from smt.serving.serve import serve

serve(Registry(sys.argv[1]), sys.argv[2:], poll_seconds=0.05)
"""


def test_smt_serve_mirrors_a_remote_registry(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    """A registry behind a URL: new versions reach the server, signals too."""
    remote = Registry(registry_folder)
    first = FEED.publish(remote, template, seed=1).version
    program = tmp_path / "serve_elsewhere.py"
    program.write_text(ELSEWHERE)
    command = [sys.executable, str(program), f"elsewhere://{registry_folder}"]
    with serving(command, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")) as (process, found):
        assert found["pid"] != process.pid
        with Client(f"127.0.0.1:{found['port']}", timeout=60) as client:
            assert client.predict("feed", FEED.rows(3)).version == first
            second = FEED.publish(remote, template, seed=2).version
            wait_for(lambda: client.predict("feed", FEED.rows(3)).version == second, "the second version")
