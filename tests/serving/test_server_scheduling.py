"""The scheduling file of a running smt-server: what it grants each scenario, and what becomes of it when it changes."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from smt.serving import loadgen
from smt.serving.client import Client, PredictError, Prediction
from smt.serving.loadgen import Closed, LoadResult, Plan, Source
from tests.serving.support import FEED, SANITIZED, SEARCH, RunningServer, failed_start, wait_for

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
ROWS = FEED.rows(40)
ROOT = Path(__file__).resolve().parents[2]
# So slow a server refuses by how long others have to be computed; these tests are of who goes first.
PATIENT = {"queue_ms": 60_000} if SANITIZED else {}


def write(folder: Path, content: Any) -> Path:
    """The scheduling file, replaced as a whole."""
    path = folder / "scheduling.json"
    made = folder / "scheduling.new"
    made.write_text(content if isinstance(content, str) else json.dumps(content))
    made.replace(path)
    return path


def compete(server: RunningServer, scenarios: list[str], seconds: float = 1.5) -> LoadResult:
    """All of them with more callers than the server can serve."""
    streams = {name: loadgen.smt_streams(server.target, {name: 1.0}, {256: 1.0}, payloads=4) for name in scenarios}
    sources = [Source(Closed(16), streams[name]) for name in scenarios]
    return loadgen.run(Plan([server.target], sources, seconds=seconds, warm_up_seconds=0.5))


def ok_rows(result: LoadResult) -> dict[str, int]:
    return {name: stream.ok_rows for name, stream in result.streams.items()}


# Starting


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "scheduling.json"),
        ('{"scenarios": {"feed": {"wieght": 2}}}', "field 'scenarios.feed.wieght': unknown; expected one of: weight"),
        ('{"default": {"queue_ms": 0}}', "field 'default.queue_ms': found 0; expected an integer 1..3600000"),
        ("[]", "scheduling.json"),
        ("", "scheduling.json"),
    ],
)
def test_a_file_that_is_not_well_formed_keeps_the_server_from_starting(
    three: Path, tmp_path: Path, content: str, words: str
) -> None:
    status, said = failed_start(three, "--scheduling", write(tmp_path, content))
    assert status == 1
    assert words in said


def test_a_file_that_is_not_there(three: Path, tmp_path: Path) -> None:
    status, said = failed_start(three, "--scheduling", tmp_path / "nowhere.json")
    assert status == 2
    assert "--scheduling" in said
    assert "nowhere.json" in said


# What is granted


def test_weights(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMT_KERNELS", "portable")  # slower than the clients, so that there is a queue
    granted = write(tmp_path, {"default": PATIENT, "scenarios": {"feed": {"weight": 3}}})
    with RunningServer(three, tmp_path, workers=1, scheduling=granted) as server:
        result = compete(server, ["feed", "search"])
    assert result.total.errors == 0
    rows = ok_rows(result)
    assert 2.2 < rows["feed"] / rows["search"] < 3.8


def test_priorities(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is work of a higher one, a lower one's waits."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    granted = write(tmp_path, {"default": {"priority": -1, **PATIENT}, "scenarios": {"feed": {"priority": 0}}})
    with RunningServer(three, tmp_path, workers=1, scheduling=granted) as server:
        result = compete(server, ["feed", "search"])
    rows = ok_rows(result)
    assert rows["search"] < rows["feed"] / 20
    assert result.total.errors == 0
    assert result.streams["search"].totals["OK"] > 0  # in the end


def test_quotas(three: Path, tmp_path: Path) -> None:
    """Rows per second, with a burst of one second's; refused with the time after which to come again."""
    rate = 2000
    granted = write(tmp_path, {"scenarios": {"feed": {"rows_per_second": rate}}})
    with RunningServer(three, tmp_path, scheduling=granted) as server, Client(server.target, timeout=60) as client:
        rows, refused = 0, []
        table = FEED.rows(250)
        began = time.monotonic()
        while time.monotonic() - began < 2:
            try:
                rows += client.predict("feed", table).rows
            except PredictError as error:
                refused.append(error)
                assert client.predict("search", SEARCH.rows(250)).rows == 250
        seconds = time.monotonic() - began
        error = refused[-1]
        assert error.code is EXHAUSTED
        assert error.retry_after is not None
        assert 0.001 <= error.retry_after <= 250 / rate + 0.001
        advice = round(error.retry_after * 1e3)
        assert error.message == (
            f"scenario 'feed': its quota of rows per second is used up; retry after {advice} ms, and longer with each "
            "attempt"
        )
        assert rate * (seconds - 0.5) < rows <= rate * (1 + seconds) + 250
        # Advice that is followed leads to an answer.
        time.sleep(error.retry_after)
        assert client.predict("feed", table).rows == 250
        assert server.metric("smt_requests_total", scenario="feed", code="RESOURCE_EXHAUSTED") == len(refused)
        assert server.metric("smt_rows_total", scenario="feed") == rows + 250


def test_a_quota_s_refusal_is_one_scenario_s_of_a_multi_predict(three: Path, tmp_path: Path) -> None:
    granted = write(tmp_path, {"scenarios": {"feed": {"rows_per_second": 50}}})
    with RunningServer(three, tmp_path, scheduling=granted) as server, Client(server.target, timeout=60) as client:
        assert all(isinstance(a, Prediction) for a in client.multi_predict(["feed", "search"], ROWS).values())
        answers = client.multi_predict(["feed", "search"], ROWS)
        failure = answers["feed"]
        assert isinstance(failure, PredictError)
        assert failure.code is EXHAUSTED
        assert "quota" in failure.message
        assert failure.retry_after is not None
        assert 0.1 < failure.retry_after <= 0.6
        assert isinstance(answers["search"], Prediction)


def test_more_rows_than_a_second_s_quota(three: Path, tmp_path: Path) -> None:
    """Are let in when the quota is whole, and paid for afterwards."""
    granted = write(tmp_path, {"default": {"rows_per_second": 100}})
    with RunningServer(three, tmp_path, scheduling=granted) as server, Client(server.target, timeout=60) as client:
        assert client.predict("feed", FEED.rows(200)).rows == 200
        with pytest.raises(PredictError, match="quota") as failure:
            client.predict("feed", FEED.rows(1))
        assert failure.value.retry_after is not None
        assert 0.5 < failure.value.retry_after <= 1.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue_requests": 2}, "scenario 'feed': its queue is full; retry after "),
        ({"queue_ms": 1}, "scenario 'feed': its queue is full; retry after "),
    ],
)
def test_queues_are_bounded(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], words: str
) -> None:
    """A flood is refused at once, with advice; another scenario's calls are not."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    granted = write(tmp_path, {"scenarios": {"feed": options}})
    with RunningServer(three, tmp_path, workers=1, scheduling=granted) as server:
        flood = loadgen.smt_streams(server.target, {"feed": 1.0}, {1024: 1.0}, payloads=4)
        steady = loadgen.smt_streams(server.target, {"search": 1.0}, {16: 1.0}, payloads=4)
        plan = Plan([server.target], [Source(Closed(32), flood), Source(Closed(1), steady)], seconds=1.5)
        found: list[PredictError] = []
        with refusals(server, found):
            result = loadgen.run(plan)
    assert set(result.streams["feed"].totals) == {"OK", "RESOURCE_EXHAUSTED"}
    assert set(result.streams["search"].totals) == {"OK"}
    assert found, "no call of the client beside the flood was refused"
    for error in found:
        assert error.code is EXHAUSTED
        assert words in error.message
        assert error.retry_after is not None
        assert f"retry after {round(error.retry_after * 1e3)} ms" in error.message


def test_the_server_s_memory_is_bounded(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond --queue-bytes the scenario with the most bytes pays, not the one that comes by."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    patient = write(tmp_path, {"default": {"queue_ms": 3_600_000, "queue_requests": 1 << 20}})
    with RunningServer(three, tmp_path, workers=1, scheduling=patient, queue_bytes=1 << 20) as server:
        flood = loadgen.smt_streams(server.target, {"feed": 1.0}, {1024: 1.0}, payloads=4)
        steady = loadgen.smt_streams(server.target, {"search": 1.0}, {16: 1.0}, payloads=4)
        plan = Plan([server.target], [Source(Closed(32), flood), Source(Closed(1), steady)], seconds=1.5)
        found: list[PredictError] = []
        with refusals(server, found):
            result = loadgen.run(plan)
    assert result.streams["feed"].totals["RESOURCE_EXHAUSTED"] > 0
    assert set(result.streams["search"].totals) == {"OK"}
    assert found, "no call of the client beside the flood was refused"
    for error in found:
        assert "the server's queues are full, and that of scenario 'feed' is the longest; retry after " in error.message
        assert error.retry_after is not None


class refusals:
    """A client of `feed` beside a flood: what it is refused with."""

    def __init__(self, server: RunningServer, found: list[PredictError]) -> None:
        self._server, self._found = server, found
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Client(self._server.target, timeout=60) as client:
            table = FEED.rows(1024)
            while not self._stop.is_set():
                try:
                    client.predict("feed", table)
                except PredictError as error:
                    self._found.append(error)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)


# Changes


def test_changes_under_traffic(three: Path, tmp_path: Path) -> None:
    """Each is taken while calls run; a file that is not well-formed changes nothing but the log."""
    path = write(tmp_path, {})
    with RunningServer(three, tmp_path, scheduling=path) as server, Client(server.target, timeout=60) as client:
        results: list[LoadResult] = []
        streams = loadgen.smt_streams(server.target, {"search": 1.0, "video": 1.0}, {16: 1.0}, payloads=4)
        plan = Plan([server.target], [Source(Closed(2), streams)], seconds=4, warm_up_seconds=0)
        load = threading.Thread(target=lambda: results.append(loadgen.run(plan)))
        load.start()

        def change(content: Any, event: str) -> list[dict[str, Any]]:
            seen = len(server.events(event))
            write(tmp_path, content)
            wait_for(lambda: len(server.events(event)) > seen, f"{event} in the log")
            return server.events(event)[seen:]

        client.predict("feed", ROWS)
        change({"scenarios": {"feed": {"rows_per_second": 50}}}, "scheduling_changed")
        client.predict("feed", ROWS)
        with pytest.raises(PredictError, match="quota"):
            client.predict("feed", ROWS)
        for content, words in (
            ("{", "not valid JSON"),
            ({"scenarios": {"feed": {"weight": -1}}}, "field 'scenarios.feed.weight': found -1"),
            ({"scenarios": {"feed": {}}, "quotas": {}}, "field 'quotas': unknown"),
            (json.dumps({"default": {}}) + "\0", "not valid JSON"),
        ):
            [event] = change(content, "scheduling_refused")
            assert event["level"] == "error"
            assert str(path) in event["reason"]
            assert words in event["reason"]
            with pytest.raises(PredictError, match="quota"):  # what was granted before stays
                client.predict("feed", FEED.rows(300))
        seen = len(server.events("scheduling_refused"))
        path.unlink()
        wait_for(lambda: len(server.events("scheduling_refused")) > seen, "the log to say that the file is gone")
        with pytest.raises(PredictError, match="quota"):
            client.predict("feed", FEED.rows(300))
        [event] = change({}, "scheduling_changed")
        assert event["file"] == str(path)
        for _ in range(20):
            client.predict("feed", ROWS)
        load.join(60)
    [result] = results
    assert set(result.total.totals) == {"OK"}
    assert len(server.events("scheduling_refused")) == seen + 1  # told once, not at every look


def test_the_documented_file(three: Path, tmp_path: Path) -> None:
    """The example of the documentation is taken, and its table has the keys that there are."""
    text = (ROOT / "docs/operations.md").read_text()
    [example] = re.findall(r"## Scheduling.*?```json\n(.*?)```.*?## Health", text, re.DOTALL)
    with RunningServer(three, tmp_path, scheduling=write(tmp_path, example)) as server:
        assert json.loads(example)["scenarios"].keys() >= {"feed"}
        write(tmp_path, {"default": {"all": 1}})
        wait_for(lambda: server.events("scheduling_refused"), "the log to name the keys")
        [event] = server.events("scheduling_refused")
    keys = event["reason"].rpartition("expected one of: ")[2].split(", ")
    section = text[text.index("## Scheduling") : text.index("## Health")]
    assert [key for key in keys if f"`{key}`" not in section and f"`{key} " not in section] == []
    assert len(keys) == 5
