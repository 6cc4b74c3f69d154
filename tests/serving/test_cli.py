"""The command: help that teaches, one clear message per error, exit status, JSON, and no torch before it is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.serving.commands.output import print_json
from smt.serving.compile import BinaryInfo
from smt.serving.registry import Registry
from smt.serving.serve import ServeError, find_server, server_environment
from smt.training.template import Template
from tests.serving.data import write_shop
from tests.serving.support import FEED, SEARCH, TEMPLATE_YAML, RunningServer

COMMANDS = [
    "new-scenario",
    "validate",
    "train",
    "techniques",
    "compile",
    "publish",
    "registry",
    "serve",
    "predict",
    "status",
    "control",
    "score",
    "loadgen",
    "bench",
]
GROUPS = ("registry", "control", "bench")
REGISTRY = ("ls", "show", "diff", "verify", "promote", "rollback", "canary", "shadow", "pin", "unpin", "gc")
GROUPED = (*(f"registry {verb}" for verb in REGISTRY), "bench capacity")
CONTROL = [f"control {verb}" for verb in ("load", "unload", "rollback", "unpin", "status", "drain", "log-level")]
NOWHERE = "127.0.0.1:1"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def reported(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_help_teaches() -> None:
    text = invoke("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in text
    steps = [f"smt {command}" for command in ("new-scenario", "validate", "train", "compile", "publish", "serve")]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPED, *CONTROL])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert command in GROUPS or f"Example: smt {command}" in result.stdout
    if command not in (*GROUPS, "serve"):
        assert "--json" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["status", "--target", NOWHERE]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    """No torch, no TorchRec; what takes seconds to import would be felt at every call."""
    program = (
        "import sys\nfrom smt.serving.cli import app\n"
        "try:\n    app(sys.argv[1:], prog_name='smt')\n"
        "except SystemExit:\n    pass\n"
        "print('heavy:', [m for m in ('torch', 'torchrec', 'onnx', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_techniques_are_listed_with_their_conflicts() -> None:
    listed = {row["name"]: row for row in reported("techniques")["techniques"]}
    assert "swa" in listed["ema"]["conflicts"]
    assert "ema" in listed["swa"]["conflicts"]
    assert listed["ema"]["settings"] == {"decay": 0.999, "every": 8}
    assert listed["ema"]["cost"] == "free"
    shown = invoke("techniques").stdout
    assert all(name in shown for name in listed)


def test_version() -> None:
    from importlib.metadata import PackageNotFoundError

    result = invoke("--version")
    # Sources that were not installed have no version to print.
    assert isinstance(result.exception, PackageNotFoundError) or re.fullmatch(
        r"\d+\.\d+\.\d+\S*", result.stdout.strip()
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["validate", "{tmp}/no.yaml"], 2, "{tmp}/no.yaml: found no such file"),
        (["validate", "{tmp}/bad.yaml"], 2, "{tmp}/bad.yaml:1: "),
        (["train", "{tmp}/bad.yaml"], 2, "{tmp}/bad.yaml:1: "),
        (["train", "{tmp}/bad.yaml", "--epochs", "0"], 2, "--epochs"),
        (["train", "{tmp}/bad.yaml", "--epochs", "1", "--extend", "1"], 2, "--extend says how many epochs more"),
        (["compile", "{tmp}/no.yaml"], 2, "{tmp}/no.yaml: found no such file"),
        (["compile", "{tmp}/template.yaml", "--target", "tpu"], 1, "target 'tpu': expected cpu"),
        (["compile", "{tmp}/template.yaml", "--registry", "nosuch://x"], 1, "nosuch://x: not a registry"),
        (["publish", "{tmp}/no"], 1, "{tmp}/no/result.json: no such file"),
        (["registry", "ls", "--registry", "nosuch://x"], 1, "nosuch://x: not a registry"),
        (["registry", "ls", "--registry", "{tmp}", "-s", "feed"], 1, "no scenario 'feed'; there are: none"),
        (["registry", "promote", "feed", "v1", "--registry", "{tmp}"], 1, "version 'v1': expected YYYYMMDD"),
        (["serve", "--registry", "{tmp}/no"], 1, "{tmp}/no: no such folder; `smt publish"),
        (["status", "--target", NOWHERE], 1, f"cannot reach {NOWHERE}"),
        (["predict", "-s", "s", "-i", "{tmp}/rows.csv", "--target", NOWHERE], 1, f"cannot reach {NOWHERE}"),
        (["predict", "-s", "s", "-i", "a.csv", "-o", "b.txt", "--target", NOWHERE], 2, "found the ending '.txt'"),
        (["predict", "-s", "s", "-i", "a.csv", "--context", "{{", "--target", NOWHERE], 2, "--context: "),
        (["predict", "-s", "s", "-i", "a.csv", "--context", "[1]", "--target", NOWHERE], 2, "found list; expected a"),
        (["predict", "-s", "s", "-i", "a.csv", "-o", "{tmp}/no/b.csv", "--target", NOWHERE], 2, "{tmp}/no; create it"),
        (["predict", "-s", "s", "-i", "a.csv", "-o", "{tmp}/d.csv", "--target", NOWHERE], 2, "d.csv: found a folder"),
        (["predict", "-s", "s", "-i", "a.csv", "--max-rows", "0", "--target", NOWHERE], 2, "--max-rows"),
        (["score", "{tmp}/no.yaml", "--max-rows", "0", "--target", NOWHERE], 2, "--max-rows"),
        (["predict", "-s", "s"], 2, "Missing option '--input'"),
        (["score", "{tmp}/no.yaml", "--target", NOWHERE], 2, "{tmp}/no.yaml: found no such file"),
        (["loadgen", NOWHERE], 2, "Missing option '--scenario'"),
        (["loadgen", NOWHERE, "-s", "feed"], 1, f"cannot reach {NOWHERE}"),
        (["loadgen", NOWHERE, "-s", "feed:x"], 2, "--scenario: found 'feed:x'"),
        (["loadgen", NOWHERE, "-s", "feed", "--rows", "0"], 2, "--rows: found '0'"),
        (["loadgen", NOWHERE, "-s", "feed", "--rows", "1.5"], 2, "--rows: found 1.5"),
        (["loadgen", NOWHERE, "-s", "feed", "--rate", "9", "--closed", "2"], 2, "--closed and --rate: a run has one"),
        (["loadgen", NOWHERE, "-s", "feed", "--input", "age"], 2, "--input: found 'age'; expected NAME="),
        (["loadgen", NOWHERE, "-s", "feed", "--input", "age=1..x"], 2, "expected numbers on both sides"),
        (["loadgen", NOWHERE, "-s", "feed", "--deadline-ms", "-1"], 2, "--deadline-ms: found '-1'"),
        (["loadgen", NOWHERE, "-s", "feed", "--plot", "a.txt"], 2, "expected a name that ends in .png"),
        (["loadgen", NOWHERE, "-s", "feed", "--tls-ca", "{tmp}/no.pem"], 2, "{tmp}/no.pem: No such file"),
        (["bench", "capacity", NOWHERE, "-s", "feed"], 1, f"cannot reach {NOWHERE}"),
        (["bench", "capacity", NOWHERE, "-s", "feed", "--plot", "a.gif"], 2, "expected a name that ends in .png"),
        (["bench", "nonsense"], 2, "No such command 'nonsense'"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["new-scenario", "Bad!", "-t", "{tmp}/template.yaml", "-d", "{tmp}"], 2, "'Bad!'"),
        (["new-scenario", "good", "-t", "{tmp}/template.yaml", "-d", "{tmp}/no"], 2, "{tmp}/no: found no such file"),
    ],
)
def test_errors(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    """One message on stderr, nothing on stdout, no stack trace; also with --json."""
    (tmp_path / "bad.yaml").write_text("nonsense: true\n")
    (tmp_path / "template.yaml").write_text(TEMPLATE_YAML)
    (tmp_path / "rows.csv").write_text("x\n1\n")
    (tmp_path / "d.csv").mkdir()
    words = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    for extra in ([], ["--json"]) if arguments[-1] != "nonsense" and arguments[0] != "serve" else ([],):
        result = invoke(*words, *extra)
        assert result.exit_code == status, result.output
        assert isinstance(result.exception, SystemExit)
        assert message.replace("{tmp}", str(tmp_path)) in result.stderr
        assert result.stdout == ""
        assert "Traceback" not in result.stderr


def test_errors_reach_a_program_as_exceptions(tmp_path: Path) -> None:
    from smt.training.config import ConfigError

    with pytest.raises(ConfigError):
        app(["train", str(tmp_path / "no.yaml")], standalone_mode=False)


def test_faults_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(self: Registry) -> list[str]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Registry, "scenarios", broken)
    assert isinstance(invoke("registry", "ls", "--registry", tmp_path).exception, ZeroDivisionError)


def test_from_data_to_a_scenario(tmp_path: Path) -> None:
    """new-scenario writes a YAML that validate accepts once it has a task."""
    shop = write_shop(tmp_path)
    out = tmp_path / "made.yaml"
    made = reported(
        "new-scenario", "made", "-t", tmp_path / "template.yaml", "-d", tmp_path / "train.parquet", "-o", out
    )
    assert made == {"scenario": "made", "path": str(out)}
    assert reported("validate", out)["tasks"][0]["name"] == "sent_back"
    again = invoke(
        "new-scenario", "made", "-t", tmp_path / "template.yaml", "-d", tmp_path / "train.parquet", "-o", out
    )
    assert again.exit_code == 1
    assert "exists already" in again.stderr

    report = reported("validate", shop)
    assert report["ok"]
    assert [task["name"] for task in report["tasks"]] == ["bought", "returned"]
    shown = invoke("validate", shop)
    assert shown.exit_code == 0
    assert "no mistake; next: smt train" in shown.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(shop.read_text().replace("inputs: [seller]", "inputs: [saler]"))
    failed = invoke("validate", wrong)
    assert failed.exit_code == 2
    assert "error" not in failed.stdout
    # Once, though neither split has the column.
    [line] = failed.stderr.splitlines()
    assert re.search(r"error: .*wrong\.yaml:9: features\[3\]\.inputs: .*'saler'.*'seller'.*train\.parquet", line)
    assert not json.loads(invoke("validate", wrong, "--json").stdout)["ok"]


def test_train_extend_and_publish(registry_folder: Path, tmp_path: Path) -> None:
    shop, run = write_shop(tmp_path), tmp_path / "run"
    first = reported("train", shop, "--run-dir", run, "--epochs", "1")
    assert first["epochs_completed"] == 1
    assert first["run_dir"] == str(run)
    published = reported("publish", run, "--registry", registry_folder)
    extended = invoke("train", shop, "--run-dir", run, "--extend", "1")
    assert extended.exit_code == 0, extended.output
    assert "shop, epoch 2" in extended.stdout
    second = invoke("publish", run, "--registry", registry_folder)
    assert second.exit_code == 0, second.output
    assert "relative change of NE: bought" in second.stderr
    listed = reported("registry", "ls", "--registry", registry_folder)
    assert [(s["scenario"], s["current"]) for s in listed["snapshots"]] == [("shop", False), ("shop", True)]
    assert listed["snapshots"][0]["version"] == published["version"] == listed["snapshots"][1]["parent"]
    missing = invoke("train", shop, "--run-dir", tmp_path / "other", "--resume")
    assert missing.exit_code == 1
    assert "no checkpoint" in missing.stderr


def test_compile_says_what_it_did(compiled: tuple[Path, BinaryInfo, list[str]], template: Template) -> None:
    folder, info, _ = compiled
    again = reported("compile", template.path, "--registry", folder)
    assert (again["compiled"], again["sha256"]) == (False, info.sha256)
    assert "compiled already" in invoke("compile", template.path, "--registry", folder).stdout


def test_registry_commands(registry_folder: Path, template: Template) -> None:
    at = ("--registry", registry_folder)
    registry = Registry(registry_folder)
    first = FEED.publish(registry, template, seed=1).version
    second = FEED.publish(registry, template, seed=2).version
    listed = reported("registry", "ls", *at)
    assert [binary["template"]["name"] for binary in listed["binaries"]] == ["small"]
    assert [s["version"] for s in listed["snapshots"]] == [first, second]
    text = invoke("registry", "ls", *at).stdout
    assert "current" in next(line for line in text.splitlines() if second in line)
    assert reported("registry", "verify", *at) == {"registry": str(registry_folder), "intact": 3, "faults": []}
    assert reported("registry", "promote", "feed", first, *at)["before"] == second
    assert registry.current("feed") == first
    weights = registry_folder / "scenarios/feed/versions" / second / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    damaged = invoke("registry", "verify", *at, "--json")
    assert damaged.exit_code == 1
    assert "weights.safetensors" in json.loads(damaged.stdout)["faults"][0]
    refused = invoke("registry", "promote", "feed", second, *at)
    assert refused.exit_code == 1
    assert registry.current("feed") == first


@pytest.mark.parametrize("content", ["garbage\n", "", "../x\n", "20200101-000000-000-00000000\n", None])
def test_a_damaged_pointer_can_be_seen_and_repaired(
    registry_folder: Path, template: Template, content: str | None
) -> None:
    at = ("--registry", registry_folder)
    version = FEED.publish(Registry(registry_folder), template, seed=1).version
    SEARCH.publish(Registry(registry_folder), template, seed=1)
    pointer = registry_folder / "scenarios/feed/current"
    pointer.unlink()
    if content is None:
        pointer.mkdir()
    else:
        pointer.write_text(content)
    listed = reported("registry", "ls", *at)
    assert [(s["scenario"], s["current"]) for s in listed["snapshots"]] == [("feed", False), ("search", True)]
    [fault] = listed["faults"]
    assert fault.startswith(f"{pointer}: ")
    assert fault in invoke("registry", "ls", *at).stdout
    damaged = invoke("registry", "verify", *at, "--json")
    assert damaged.exit_code == 1
    assert json.loads(damaged.stdout) == {"registry": str(registry_folder), "intact": 3, "faults": [fault]}
    used = invoke("registry", "promote", "feed", version, *at)
    assert used.exit_code == 0, used.output
    assert Registry(registry_folder).current("feed") == version
    assert invoke("registry", "verify", *at).exit_code == 0


def test_verify_reports_everything(registry_folder: Path, template: Template) -> None:
    """Each fault on its own line, those after the first too; leftovers of killed publications are none."""
    at = ("--registry", registry_folder)
    version = FEED.publish(Registry(registry_folder), template, seed=1).version
    scenarios = registry_folder / "scenarios"
    versions = scenarios / "feed/versions"
    (versions / ".tmp-left").mkdir()
    (scenarios / "search/versions/.tmp-left").mkdir(parents=True)
    assert invoke("registry", "verify", *at).exit_code == 0
    (versions / "v1").mkdir()
    (versions / "20200101-000000-000-00000000").mkdir()
    (scenarios / "Odd").mkdir()
    (scenarios / "feed/current").write_text("zz\n")
    [manifest] = registry_folder.glob("templates/small/*/cpu/manifest.json")
    manifest.write_bytes(b"\xffgarbage")
    (manifest.parent.parent / "gpu").mkdir()
    damaged = invoke("registry", "verify", *at)
    assert damaged.exit_code == 1
    first, *faults = damaged.stdout.splitlines()
    assert first == f"{registry_folder}: 1 snapshots and binaries intact"
    assert sorted(fault.split(": ")[0] for fault in faults) == sorted(
        str(path)
        for path in (
            versions / "v1",
            versions / "20200101-000000-000-00000000",
            scenarios / "Odd",
            scenarios / "feed/current",
            manifest,
            manifest.parent.parent / "gpu",
        )
    )
    listed = invoke("registry", "ls", *at)
    assert listed.exit_code == 0
    assert version in listed.stdout
    assert f"{manifest}: " in listed.stdout


def test_status_says_when_nothing_is_served(template: Template, tmp_path: Path) -> None:
    """A snapshot without its binary is refused."""
    registry = tmp_path / "registry"
    version = FEED.publish(Registry(registry), template, seed=1).version
    with RunningServer(registry, tmp_path) as server:
        shown = invoke("status", "--target", server.target)
        predicted = invoke("predict", "-s", "feed", "-i", tmp_path / "rows.csv", "--target", server.target)
    assert shown.exit_code == 0, shown.output
    assert f"feed: refused {version}: " in shown.stdout
    assert "note: none of the 1 scenarios is served" in shown.stderr
    assert predicted.exit_code == 1
    assert "cannot reach" not in predicted.stderr


def test_an_empty_registry(tmp_path: Path) -> None:
    assert reported("registry", "ls", "--registry", tmp_path)["snapshots"] == []
    assert "empty; `smt compile`" in invoke("registry", "ls", "--registry", tmp_path).stderr


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}}


# Finding the server


def test_the_server_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SMT_SERVER", str(tmp_path / "none"))
    with pytest.raises(ServeError, match=r"\$SMT_SERVER names .*/none, which does not exist.*pip install"):
        find_server()
    (tmp_path / "none").write_text("#!/bin/sh\n")
    with pytest.raises(ServeError, match="cannot be executed"):
        find_server()
    (tmp_path / "none").chmod(0o755)
    assert find_server() == tmp_path / "none"


def test_libraries_are_added_only_where_they_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\necho 1.0\n")
    server.chmod(0o755)
    assert server_environment(server)["LD_LIBRARY_PATH"] == "/before"
    missing = 'echo "server: error while loading shared libraries: libtorch.so" >&2; exit 127'
    server.write_text(f'#!/bin/sh\ncase "$LD_LIBRARY_PATH" in *torch/lib:/before) exit 0;; esac\n{missing}\n')
    assert server_environment(server)["LD_LIBRARY_PATH"].endswith("torch/lib:/before")
    server.write_text(f"#!/bin/sh\n{missing}\n")
    with pytest.raises(ServeError, match=r"cannot start: .*libtorch\.so"):
        server_environment(server)


def test_without_torchrec_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torchrec'] = None; from smt.serving.cli import main; main()"
    command = [sys.executable, "-c", program, "publish", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "pip install --no-deps torchrec==" in done.stderr
    assert "pip install '.[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
