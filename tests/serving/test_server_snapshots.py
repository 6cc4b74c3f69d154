"""Snapshots of a running server: damaged ones are refused, good ones are taken under load, none is lost or mixed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save

from smt.serving import storage
from smt.serving.binary import BinaryRunner
from smt.serving.client import AsyncClient, Client, PredictError
from smt.serving.compile import BinaryInfo
from smt.serving.registry import Registry
from smt.serving.snapshot import publish_weights
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, VIDEO, RunningServer, copy_binaries, wait_for

Compiled = tuple[Path, BinaryInfo, list[str]]
ROWS = FEED.rows(30)


def served(client: Client, scenario: str) -> str:
    """The version that a server reports for a scenario; empty without one."""
    return next((s.version for s in client.list_scenarios() if s.scenario == scenario), "")


def wait_for_version(client: Client, scenario: str, version: str) -> None:
    wait_for(lambda: served(client, scenario) == version, f"{scenario} to be served as {version}")


def wait_for_more(answers: list[Any], count: int) -> None:
    seen = len(answers)
    wait_for(lambda: len(answers) > seen + count, "the load to go on")


# Damage: what is done to a complete version folder, and what the reason must hold.

Damage = Callable[[Path], None]


def _flip(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(share * (len(content) - 1))] ^= 0x10
        (folder / name).write_bytes(content)

    return damage


def _cut(name: str, size: int) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


def _manifest(**changes: Any) -> Damage:
    """Another manifest, with the checksum that belongs to it."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        for key, value in changes.items():
            manifest[key] = value(manifest[key]) if callable(value) else value
        content = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")

    return damage


def _weights(make: Callable[[Path], bytes]) -> Damage:
    """Other weights, with checksums that belong to them: only their content is wrong."""

    def damage(folder: Path) -> None:
        content = make(folder)
        (folder / "weights.safetensors").write_bytes(content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _manifest(files={"weights.safetensors": entry})(folder)

    return damage


def _tensors(slab: int, table: int, fill: float = 0.1, dtype: torch.dtype = torch.float32) -> Damage:
    return _weights(
        lambda folder: save({"slab": torch.full((slab,), fill, dtype=dtype), "table": torch.full((table, 4), 0.1)})
    )


SLAB, TABLE = 4224, FEED.features["table_rows"]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "bit flipped in the weights": (_flip("weights.safetensors", 0.7), r"weights\.safetensors.*xxh3 checksum"),
    "bit flipped in the weights' header": (_flip("weights.safetensors", 0.0), r"weights\.safetensors.*xxh3 checksum"),
    "truncated weights": (_cut("weights.safetensors", 5000), r"weights\.safetensors.*5000"),
    "empty weights": (_cut("weights.safetensors", 0), r"weights\.safetensors"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors"),
    "bit flipped in the manifest": (_flip("manifest.json", 0.5), r"manifest\.json.*sha-?256"),
    "truncated manifest": (_cut("manifest.json", 100), r"manifest\.json"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json"),
    "no checksum": (lambda folder: (folder / "manifest.sha256").unlink(), r"manifest\.sha256"),
    "no version folder": (shutil.rmtree, r"versions/"),
    "another ABI": (_manifest(abi_hash="0" * 64), r"ABI|abi_hash"),
    "another format": (_manifest(format=3), r"format"),
    "a delta without a base": (_manifest(format=2), r"field 'base'"),
    "another scenario": (_manifest(scenario="search"), r"scenario.*search"),
    "another version": (_manifest(version="20200101-000000-000-00000000"), r"version.*20200101"),
    "a head that is not there": (_manifest(tasks=[{"name": "click", "head": 3}]), r"head"),
    "a task twice": (_manifest(tasks=[{"name": "click", "head": 0}, {"name": "click", "head": 1}]), r"click|task"),
    "no task": (_manifest(tasks=[]), r"task"),
    "features that are none": (_manifest(features={"format": 1}), r"feature"),
    "features of other slots": (_manifest(features=lambda f: {**f, "dense_slots": 6}), r"dense_slots|dense"),
    "weights that are no safetensors": (_weights(lambda folder: b"\xff" * 4096), r"weights\.safetensors"),
    "a header as long as the address space": (
        _weights(lambda folder: b"\xff\xff\xff\xff\xff\xff\xff\x7f{}" + b"\0" * 100),
        r"weights\.safetensors",
    ),
    "a slab that is too short": (_tensors(SLAB - 16, TABLE), r"slab.*4208"),
    "a table with too few rows": (_tensors(SLAB, TABLE - 1), rf"table.*{TABLE - 1}"),
    "a slab of another type": (_tensors(SLAB, TABLE, dtype=torch.float64), r"slab.*F64"),
    "weights that are NaN": (_tensors(SLAB, TABLE, fill=float("nan")), r"finite|NaN"),
    "weights that are Inf": (_tensors(SLAB, TABLE, fill=float("inf")), r"finite|Inf"),
}


@pytest.fixture(scope="module")
def changing(
    compiled: Compiled, template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server whose scenario `feed` gets new versions, good and bad ones."""
    folder = tmp_path_factory.mktemp("changing_server")
    registry = copy_binaries(compiled[0], folder / "registry")
    FEED.publish(Registry(registry), template, seed=1)
    with RunningServer(registry, folder) as running:
        yield running
        assert running.process.poll() is None


def refused_count(server: RunningServer) -> float:
    pattern = r'^smt_snapshot_refused_total\{[^}]*scenario="feed"[^}]*\} (\S+)$'
    return sum(float(value) for value in re.findall(pattern, server.metrics(), re.MULTILINE))


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_snapshots_are_refused(changing: RunningServer, template: Template, tmp_path: Path, name: str) -> None:
    """With a log line and a metric; the old version goes on serving, and the next good one is taken."""
    damage, reason = DAMAGES[name]
    root = changing.registry.local_root
    assert root is not None
    # Made elsewhere and damaged before the server can see it.
    bad = FEED.publish(Registry(tmp_path), template, seed=50)
    source = tmp_path / "scenarios/feed/versions" / bad.version
    damage(source)
    with Client(changing.target, timeout=60) as client:
        before = client.predict("feed", ROWS)
        refused, logged = refused_count(changing), len(changing.events("snapshot_refused"))
        if source.exists():
            shutil.copytree(source, root / "scenarios/feed/versions" / bad.version)
        point_to(root, bad.version)
        wait_for(lambda: len(changing.events("snapshot_refused")) > logged, "the refusal in the log")
        event = changing.events("snapshot_refused")[-1]
        assert (event["scenario"], event["version"], event["level"]) == ("feed", bad.version, "error")
        assert re.search(reason, event["reason"], re.IGNORECASE), event["reason"]
        assert refused_count(changing) == refused + 1
        [status] = client.list_scenarios()
        assert (status.state, status.version) == ("SERVING", before.version)
        assert (status.refused_version, status.refused_reason) == (bad.version, event["reason"])
        after = client.predict("feed", ROWS)
        assert after.version == before.version
        np.testing.assert_array_equal(after["click"], before["click"])
        assert client.health("feed") == "SERVING"

        good = FEED.publish(changing.registry, template, seed=2)
        wait_for_version(client, "feed", good.version)
        assert not client.list_scenarios()[0].refused_version
        assert not np.array_equal(client.predict("feed", ROWS)["click"], before["click"])
        back = FEED.publish(changing.registry, template, seed=1)
        wait_for_version(client, "feed", back.version)
    assert refused_count(changing) == refused + 1  # looked at once, not at every poll


def test_a_version_is_loaded_while_it_is_published(
    changing: RunningServer, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers as soon as `current` names it, and not before, and was read once."""
    commit = storage.LocalStage.commit
    before = changing.registry.current("feed")

    def loaded(version: str) -> bool:
        steps = [event["state"] for event in changing.events("version_state") if event["version"] == version]
        return bool(steps) and steps[-1] == "warm"

    with Client(changing.target, timeout=60) as client:

        def wait_and_commit(stage: storage.LocalStage, name: str, **how: bool) -> None:
            wait_for(lambda: loaded(name), "what is announced to be loaded")
            assert client.predict("feed", ROWS).version == before
            assert changing.metric("smt_snapshot_loads_total") == loads
            commit(stage, name, **how)

        monkeypatch.setattr(storage.LocalStage, "commit", wait_and_commit)
        for seed in (60, 1):
            loads = changing.metric("smt_snapshot_loads_total")
            manifest = FEED.publish(changing.registry, template, seed=seed)
            wait_for_version(client, "feed", manifest.version)
            scores = client.predict("feed", ROWS)
            expected = FEED.reference(template, seed, ROWS)
            np.testing.assert_allclose(scores["click"], expected["click"], atol=2e-3)
            event = changing.events("snapshot_loaded")[-1]
            assert (event["version"], event["ahead"]) == (manifest.version, True)
            assert changing.metric("smt_snapshot_loads_total") == loads + 1
            before = manifest.version


@pytest.mark.parametrize("content", ["../../templates\n", "", "\0\0\0", "20200101-000000-000-00000000\n"])
def test_a_damaged_pointer_is_refused(changing: RunningServer, content: str) -> None:
    root = changing.registry.local_root
    assert root is not None
    good = changing.registry.current("feed")
    assert good is not None
    with Client(changing.target, timeout=60) as client:
        logged = len(changing.events("snapshot_refused"))
        point_to(root, content)
        wait_for(lambda: len(changing.events("snapshot_refused")) > logged, "the refusal in the log")
        assert client.predict("feed", ROWS).version == good
        point_to(root, good)
        wait_for(lambda: not client.list_scenarios()[0].refused_reason, "the pointer to be accepted again")


def test_what_disappears_goes_on_serving(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    version = FEED.publish(Registry(registry_folder), template, seed=1).version
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        shutil.rmtree(registry_folder / "scenarios")
        shutil.rmtree(registry_folder / "templates")
        wait_for(lambda: server.events("pointer_missing") or server.events("registry_unreadable"), "the log to say so")
        assert client.predict("feed", ROWS).version == version


def test_a_snapshot_before_its_binary(compiled: Compiled, template: Template, tmp_path: Path) -> None:
    """Refused with the reason, then taken once the binary is there."""
    registry = tmp_path / "registry"
    version = FEED.publish(Registry(registry), template, seed=1).version
    with RunningServer(registry, tmp_path) as server, Client(server.target, timeout=60) as client:
        with pytest.raises(PredictError) as failure:
            client.predict("feed", ROWS.to_pydict())
        assert failure.value.code is grpc.StatusCode.UNAVAILABLE
        assert "templates/small" in failure.value.message
        assert client.health("feed") == "NOT_SERVING"
        # As `smt compile` does it: a complete folder, renamed into place.
        shutil.copytree(compiled[0] / "templates", tmp_path / "aside")
        (tmp_path / "aside").rename(registry / "templates")
        wait_for_version(client, "feed", version)
        assert client.predict("feed", ROWS).version == version


OTHER_BINARIES: dict[str, tuple[dict[str, Any], str]] = {
    "of an older format": ({"format": 1}, r"field 'format': found 1; expected 2.*compile the template again"),
    "of other kernels": ({"kernel_abi": 2}, r"field 'kernel_abi': found 2; expected 1"),
    "with a damaged program": ({"program": [1, 1, 5]}, r"field 'program': tile program, integer 3 \(groups"),
    "with another precision": ({"precision": "int8"}, r"field 'precision': found 'int8'; expected 'bf16'"),
    "for a shorter slab": ({"slab_elements": 16}, r"field 'slab_elements': found 16; expected at least"),
}


@pytest.mark.parametrize("name", OTHER_BINARIES)
def test_a_binary_that_does_not_fit_is_refused(
    registry_folder: Path, template: Template, tmp_path: Path, name: str
) -> None:
    """And taken once it is compiled again."""
    changes, reason = OTHER_BINARIES[name]
    version = FEED.publish(Registry(registry_folder), template, seed=1).version
    [path] = registry_folder.glob("templates/*/*/cpu/manifest.json")
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | changes))
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        [status] = client.list_scenarios()
        assert (status.state, status.refused_version) == ("UNAVAILABLE", version)
        assert re.search(reason, status.refused_reason), status.refused_reason
        path.write_text(good)
        wait_for_version(client, "feed", version)


# Swaps


def test_hot_swap_under_load(registry_folder: Path, runner: BinaryRunner, template: Template, tmp_path: Path) -> None:
    """Many versions, four clients on two scenarios: no failed request, every answer is of the version it names."""
    registry = Registry(registry_folder)
    seeds = [1, 2, 3]
    expected = {seed: FEED.scored(runner, template, seed, ROWS) for seed in seeds}
    steady = SEARCH.rows(30)
    search = SEARCH.scored(runner, template, 5, steady)
    seed_of = {FEED.publish(registry, template, seed=1).version: 1}
    SEARCH.publish(registry, template, seed=5)
    answers: list[tuple[str, Any]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def load(number: int) -> None:
        with Client(server.target, timeout=60) as client:
            while not stop.is_set():
                try:
                    if number % 2:
                        np.testing.assert_allclose(client.predict("search", steady)["open"], search["open"], atol=2e-5)
                    prediction = client.predict("feed", ROWS)
                    answers.append((prediction.version, dict(prediction)))
                except Exception as error:
                    failures.append(error)
                    return

    with RunningServer(registry_folder, tmp_path) as server, ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, number) for number in range(4)]
        try:
            with Client(server.target, timeout=60) as client:
                wait_for_more(answers, 20)
                for step in range(1, 13):
                    seed = seeds[step % 3]
                    version = FEED.publish(registry, template, seed=seed).version
                    seed_of[version] = seed
                    wait_for_version(client, "feed", version)
                    wait_for_more(answers, 20)
                    assert not failures
        finally:
            stop.set()
        for future in loads:
            future.result(60)
        assert server.terminate() == 0
    assert failures == []
    assert {version for version, _ in answers} == set(seed_of)
    # Any two versions differ by far more than the tolerance below, so an answer mixed of two would show.
    for one, other in ((1, 2), (2, 3), (1, 3)):
        assert np.abs(expected[one]["click"] - expected[other]["click"]).max() > 0.01
    for version, scores in answers:
        for task in FEED.tasks:
            np.testing.assert_allclose(scores[task], expected[seed_of[version]][task], rtol=1e-4, atol=2e-5)


def test_scenarios_keep_apart_through_many_swaps(
    registry_folder: Path, runner: BinaryRunner, template: Template, tmp_path: Path
) -> None:
    """Three scenarios whose tables differ in size take each other's places in memory, and each scores as if alone."""
    registry = Registry(registry_folder)
    cases = (FEED, SEARCH, VIDEO)
    seeds = [1, 1, 1]
    for case in cases:
        case.publish(registry, template, seed=1)
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        for which in [0, 1, 0, 2, 2, 1] * 3:
            seeds[which] += 1
            version = cases[which].publish(registry, template, seeds[which]).version
            wait_for_version(client, cases[which].name, version)
            for case, seed in zip(cases, seeds, strict=True):
                found = client.predict(case.name, case.rows(30))
                for task, expected in case.scored(runner, template, seed, case.rows(30)).items():
                    np.testing.assert_array_equal(found[task], expected)


def test_another_set_of_inputs_and_tasks_after_a_swap(
    registry_folder: Path, runner: BinaryRunner, template: Template, tmp_path: Path
) -> None:
    """A client that knows the old version's inputs asks for the new ones and goes on."""
    registry = Registry(registry_folder)
    FEED.publish(registry, template, seed=1)
    rows = VIDEO.rows(10)
    wide = rows.append_column("income", FEED.rows(10).column("income"))
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        assert list(client.predict("feed", wide)) == ["click", "like"]
        # `feed` comes to read what `video` reads: no income any more, which would be an unknown feature.
        weights = VIDEO.weights(template, 6)
        version = publish_weights(registry, template, "feed", VIDEO.tasks, VIDEO.features, weights).version
        wait_for_version(client, "feed", version)
        prediction = client.predict("feed", wide)
        assert list(prediction) == ["play", "finish", "share"]
        expected = VIDEO.scored(runner, template, 6, rows)
        np.testing.assert_allclose(prediction["share"], expected["share"], rtol=1e-4, atol=2e-5)


# The end


def test_drain_answers_what_is_waiting(
    registry_folder: Path, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM with a long queue: all that has arrived is answered, later requests are turned away."""
    monkeypatch.setenv("SMT_KERNELS", "portable")  # slower than the client, so that there is a queue
    FEED.publish(Registry(registry_folder), template, seed=1)
    rows = FEED.rows(4096)

    async def run(server: RunningServer) -> None:
        async with AsyncClient(server.target, timeout=120) as client:
            expected = await client.predict("feed", rows)
            calls = [asyncio.create_task(client.predict("feed", rows)) for _ in range(60)]
            # Those that wait have arrived, whatever becomes of the others until the signal does.
            while (arrived := waiting(server)) < 20:
                assert not all(call.done() for call in calls), "the queue never grew"
                await asyncio.sleep(0.001)
            server.process.terminate()
            results = await asyncio.gather(*calls, return_exceptions=True)
        good = [result for result in results if not isinstance(result, BaseException)]
        assert len(good) >= arrived
        assert all(np.array_equal(answer["click"], expected["click"]) for answer in good)
        for refusal in (result for result in results if isinstance(result, BaseException)):
            assert isinstance(refusal, PredictError)
            assert refusal.code is grpc.StatusCode.UNAVAILABLE

    patient = tmp_path / "scheduling.json"
    patient.write_text('{"default": {"queue_ms": 3600000}}')
    with RunningServer(registry_folder, tmp_path, workers=1, scheduling=patient) as server:
        asyncio.run(run(server))
        assert server.join() == 0
        [event] = server.events("drained")
        assert event["unanswered"] == 0


def waiting(server: RunningServer) -> int:
    [found] = re.findall(r"^smt_queue_depth (\S+)$", server.metrics(), re.MULTILINE)
    return int(float(found))


def test_drain_under_load_fails_no_request_but_by_unavailable(
    registry_folder: Path, runner: BinaryRunner, template: Template, tmp_path: Path
) -> None:
    FEED.publish(Registry(registry_folder), template, seed=1)
    expected = FEED.scored(runner, template, 1, ROWS)
    codes: Counter[grpc.StatusCode] = Counter()
    enough = threading.Event()

    def load() -> None:
        with Client(server.target, timeout=60) as client:
            while True:
                try:
                    scores = client.predict("feed", ROWS)
                    np.testing.assert_allclose(scores["click"], expected["click"], rtol=1e-4, atol=2e-5)
                    codes[grpc.StatusCode.OK] += 1
                    if codes[grpc.StatusCode.OK] > 200:
                        enough.set()
                except PredictError as error:
                    codes[error.code] += 1
                    return

    with RunningServer(registry_folder, tmp_path) as server, ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        assert enough.wait(60)
        assert server.terminate() == 0
        for future in loads:
            future.result(60)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes[grpc.StatusCode.UNAVAILABLE] == 4


def point_to(root: Path, content: str) -> None:
    """Replaces `current` of feed atomically."""
    temporary = root / "scenarios/feed/.current-of-test"
    temporary.write_text(content if content.endswith("\n") or not content else content + "\n")
    temporary.replace(root / "scenarios/feed/current")
