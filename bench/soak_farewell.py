"""The end of a soak: SIGTERM under load. Every call that was under way has to be answered."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from bench.fleet import Fleet
from bench.load import requests
from bench.servers import SmtServer
from bench.soak_traffic import POLITE, PREDICT
from smt.serving import loadgen

_SECONDS_BEFORE, _SECONDS_AFTER = 2.0, 3.0
_CALLERS = 8
_ROWS = 256
_WAIT_SECONDS = 60.0
# What the server says of itself when it turns a call away: only a call that it never had may end with other words.
_DRAINING = "the server is draining"
# Of the generator's calls: an answer that was begun and not finished.
_BROKEN = ("unfinished", "bad answer", "stream reset")


@dataclass(frozen=True)
class Ending:
    """One call: when it was sent, how it ended."""

    sent: float
    code: grpc.StatusCode
    words: str


class Farewell:
    """Ends a server that has plenty to do.

    Attributes, once it has run:
        status: the server's exit status; None: it did not end.
        seconds: that it took to end.
        lost: calls that were under way and got no answer, in words.
        endings: how many of the watched calls ended in which way.
        unanswered: calls that the server itself says it did not answer; None: it did not say.
    """

    def __init__(self, fleet: Fleet, server: SmtServer) -> None:
        self._fleet, self._server = fleet, server
        self._stop = threading.Event()
        self.status: int | None = None
        self.seconds = 0.0
        self.lost: list[str] = []
        self.endings: Counter[str] = Counter()
        self.unanswered: int | None = None

    def run(self) -> "Farewell":
        target = self._server.target
        streams = requests(self._fleet, target, dict.fromkeys(POLITE, 1.0), _ROWS, seed=1, payloads=8)
        source = loadgen.Source(loadgen.Closed(16), streams)
        seconds = _SECONDS_BEFORE + _SECONDS_AFTER
        plan = loadgen.Plan([target], [source], seconds=seconds, warm_up_seconds=0, drain_seconds=5)
        message = streams[0].payloads[0].message
        with ThreadPoolExecutor(_CALLERS + 1) as pool:
            load = pool.submit(loadgen.run, plan)
            callers = [pool.submit(self._call, target, message) for _ in range(_CALLERS)]
            time.sleep(_SECONDS_BEFORE)
            signalled = time.monotonic()
            self.status = self._server.terminate()
            self.seconds = time.monotonic() - signalled
            self._stop.set()
            endings = [ending for caller in callers for ending in caller.result()]
            outcomes = load.result().total.totals
        self._judge(endings, signalled)
        self.lost += [f"the generator: {count} x {name}" for name, count in outcomes.items() if name in _BROKEN]
        for line in map(json.loads, self._server.log_lines()):
            if line["event"] == "drained":
                self.unanswered = line["unanswered"]
        return self

    def _call(self, target: str, message: bytes) -> list[Ending]:
        """Call after call, without retries, until the server is gone."""
        endings = []
        with grpc.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel:
            predict: Any = channel.unary_unary(PREDICT)
            while not self._stop.is_set():
                sent = time.monotonic()
                try:
                    predict(message, timeout=_WAIT_SECONDS)
                    endings.append(Ending(sent, grpc.StatusCode.OK, ""))
                except grpc.RpcError as error:
                    endings.append(Ending(sent, error.code(), error.details() or ""))
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        break
        return endings

    def _judge(self, endings: list[Ending], signalled: float) -> None:
        for ending in endings:
            turned_away = ending.code is grpc.StatusCode.UNAVAILABLE
            by_server = turned_away and _DRAINING in ending.words
            answered = ending.code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.endings["turned away" if by_server else ending.code.name] += 1
            if answered or by_server or (turned_away and ending.sent >= signalled):
                continue
            when = f"{(ending.sent - signalled) * 1e3:+.1f} ms from the signal"
            self.lost.append(f"sent {when}: {ending.code.name} {ending.words}")
