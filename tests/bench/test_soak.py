"""What a soak is judged by: that miscounts and leaks show, and nothing else does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench.soak_changes import Repeated, counts
from bench.soak_counters import ClientCounts, differences, trend
from smt.serving.loadgen import StreamResult


def stream(**totals: int) -> StreamResult:
    """Outcomes of its calls; those that are no status are written with a space for an underscore."""
    named = {name if name.isupper() else name.replace("_", " "): count for name, count in totals.items()}
    return StreamResult("s", {}, {}, named, 1.0, 0, 0, 0, 0, 0.0)


def clients(*parts: tuple[list[str], StreamResult]) -> ClientCounts:
    made = ClientCounts()
    for scenarios, part in parts:
        made.add(scenarios, part)
    return made


def test_counters_that_add_up() -> None:
    sent = clients(
        (["a"], stream(OK=10, RESOURCE_EXHAUSTED=2)),
        (["a"], stream(OK=5, no_connection=7, not_sent=1)),
        (["b", "c"], stream(OK=6)),
        (["d"], stream(OK=3, client_cancelled=4, connection_lost=2, DEADLINE_EXCEEDED=5)),
    )
    server = Counter(
        {("a", "OK"): 15, ("a", "RESOURCE_EXHAUSTED"): 2, ("b", "OK"): 6, ("c", "OK"): 2, ("c", "NOT_FOUND"): 4}
    )
    for counted in ({"OK": 3}, {"OK": 5, "CANCELLED": 4}, {"OK": 14}, {"OK": 3, "DEADLINE_EXCEEDED": 11}):
        found = server + Counter({("d", code): count for code, count in counted.items()})
        assert differences(found, sent) == []


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({("a", "OK"): 9, ("b", "OK"): 6}, ["a OK: 9 counted; clients have 10 such answers", "a: 9 counted; clients"]),
        ({("a", "OK"): 11, ("b", "OK"): 6}, ["a: 11 counted; clients made 10"]),
        ({("a", "OK"): 9, ("a", "INTERNAL"): 1, ("b", "OK"): 6}, ["a OK: 9 counted; clients have 10 such answers"]),
        ({("a", "OK"): 10, ("b", "OK"): 5}, ["b OK: 5 counted", "b: 5 counted; clients made 6..8"]),
        ({("a", "OK"): 10, ("b", "OK"): 9}, ["b: 9 counted; clients made 6..8"]),
        ({("a", "OK"): 10, ("b", "OK"): 6, ("c", "OK"): 1}, ["c: 1 counted; clients made 0"]),
    ],
)
def test_counters_that_do_not(server: dict[tuple[str, str], int], words: list[str]) -> None:
    sent = clients((["a"], stream(OK=10)), (["b"], stream(OK=6, client_deadline=2)))
    found = differences(Counter(server), sent)
    assert len(found) == len(words)
    for line, word in zip(found, words, strict=True):
        assert word in line


def test_a_leak_shows_through_what_comes_and_goes() -> None:
    seconds = np.arange(1200.0)
    random = np.random.default_rng(3)
    busy = 200 + 100 * random.random(1200) ** 4 + 150 * (seconds % 17 < 3)
    assert trend(seconds, busy).least < 1
    leaking = trend(seconds, busy + 40 * seconds / 3600)
    assert 30 < leaking.per_hour < 50
    assert leaking.least > 20
    # A level that is reached in the first half is no leak.
    assert abs(trend(seconds, busy + 100 * np.minimum(seconds, 500) / 500).per_hour) < 5
    with pytest.raises(ValueError, match="found 12 samples; expected at least 40"):
        trend(list(range(12)), [0.0] * 12)


def test_requests_of_metrics() -> None:
    text = (
        "# TYPE smt_requests_total counter\n"
        'smt_requests_total{code="OK",scenario="a"} 12\n'
        'smt_requests_total{code="NOT_FOUND",scenario="_unknown"} 3\n'
        'smt_requests_total{code="INTERNAL",scenario="a"} 0\n'
        "# TYPE smt_rows_total counter\n"
        'smt_rows_total{scenario="a"} 99\n'
    )
    assert counts(text) == {("a", "OK"): 12, ("_unknown", "NOT_FOUND"): 3}


def test_what_fails_in_the_background_is_raised() -> None:
    def fail() -> None:
        raise ValueError("the registry is full")

    with pytest.raises(ValueError, match="the registry is full"), Repeated(fail, 0.0):
        pass
