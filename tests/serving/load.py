"""What the tests of load share."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.serving.support import RunningServer


def predicted(server: RunningServer) -> dict[str, float]:
    """The server's own counts of calls by status, all scenarios together."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(server.metrics()):
        for sample in family.samples:
            if sample.name == "smt_requests_total" and sample.value:
                found[sample.labels["code"]] = found.get(sample.labels["code"], 0) + sample.value
    return found
