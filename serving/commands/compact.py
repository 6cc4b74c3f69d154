"""smt registry compact: a chain of deltas becomes one whole version."""

from __future__ import annotations

from typing import Annotated

import typer

from smt.serving.commands.output import DEFAULT_REGISTRY, RESULT, JsonOption, RegistryOption, print_json


def compact(
    scenario: Annotated[str, typer.Argument(help="Scenario whose current version is a delta.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Publish the current version, if it is a delta, as a whole one with the same weights.

    What it was built on can be removed afterwards, and a server that starts reads one file. Does nothing for a whole
    version.

    Example: `smt registry compact income_workers`
    """
    from smt.serving.delta import compact as compact_current
    from smt.serving.registry import Registry

    place = Registry(registry)
    before = place.snapshot(scenario)
    after = compact_current(place, scenario)
    if as_json:
        print_json(
            {
                "registry": place.root,
                "scenario": scenario,
                "version": (after or before).version,
                "compacted": before.version if after else None,
                "chain": before.chain,
            }
        )
    elif after is None:
        RESULT.print(f"{scenario}: {before.version} is whole already", markup=False)
    else:
        RESULT.print(
            f"{scenario}: {after.version} is current, with the weights of {before.version} ({before.chain} deltas)",
            markup=False,
        )
