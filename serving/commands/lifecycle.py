"""smt registry promote, rollback, canary, shadow, pin, unpin, gc: what changes which version is served, or kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands.output import (
    DEFAULT_REGISTRY,
    FAILED,
    NOTES,
    RESULT,
    WRONG_INPUT,
    CommandError,
    JsonOption,
    RegistryOption,
    print_error,
    print_json,
    table,
)

if TYPE_CHECKING:
    from smt.serving.labels import LabelName

ScenarioArgument = Annotated[str, typer.Argument(help="Scenario to change.")]
VersionArgument = Annotated[str, typer.Argument(help="A published version; see `smt registry ls`.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why: kept with the event.")]
PercentOption = Annotated[
    float | None, typer.Option("--percent", help="Share of the traffic. Default: 5 for canary, 100 for shadow.")
]
OffOption = Annotated[bool, typer.Option("--off", help="Take the label away.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def promote(
    scenario: ScenarioArgument,
    version: Annotated[str, typer.Argument(help="A published version, or `canary` or `shadow`: what that names.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a version current, after every file of it was verified. Servers take it as they take a new one.

    A label that named it is taken away.

    Example: `smt registry promote income_workers canary`
    """
    from smt.serving.labels import LABELS, read_label
    from smt.serving.lifecycle import promote as make_current
    from smt.serving.registry import Registry

    place = Registry(registry)
    for name in LABELS:
        if version == name:
            label = read_label(place, scenario, name)
            if label is None:
                raise CommandError(f"{place.root}: scenario {scenario!r} has no {name}")
            version = label.version
    before = place.replaceable(scenario)
    make_current(place, scenario, version, reason)
    _moved(place.root, scenario, version, before, as_json)


def rollback(
    scenario: ScenarioArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make the version current that was so before. Again: the one before that.

    Example: `smt registry rollback income_workers --reason "calibration fell"`
    """
    from smt.serving.lifecycle import rollback as go_back
    from smt.serving.registry import Registry

    place = Registry(registry)
    before = place.replaceable(scenario)
    manifest = go_back(place, scenario, reason)
    _moved(place.root, scenario, manifest.version, before, as_json)


def canary(
    scenario: ScenarioArgument,
    version: Annotated[str | None, typer.Argument(help="A published version.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    percent: PercentOption = None,
    off: OffOption = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a version answer a share of the requests; without a version, say which does.

    Example: `smt registry canary income_workers 20260102-030405-678-0123abcd --percent 5`
    """
    _label("canary", scenario, version, registry, percent, off, reason, as_json)


def shadow(
    scenario: ScenarioArgument,
    version: Annotated[str | None, typer.Argument(help="A published version.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    percent: PercentOption = None,
    off: OffOption = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a version score requests beside the current one without answering; without a version, say which does.

    Example: `smt registry shadow income_workers 20260102-030405-678-0123abcd`
    """
    _label("shadow", scenario, version, registry, percent, off, reason, as_json)


def pin(
    scenario: ScenarioArgument,
    version: VersionArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Keep a version, and what it is built on, from `smt registry gc`.

    Example: `smt registry pin income_workers 20260102-030405-678-0123abcd --reason audit`
    """
    from smt.serving.labels import pin as keep
    from smt.serving.registry import Registry

    place = Registry(registry)
    place.chain(scenario, version)  # it has to be there
    made = keep(place, scenario, version, reason)
    _say({"registry": place.root, "scenario": scenario, "version": version, **made.model_dump()}, as_json, "pinned")


def unpin(
    scenario: ScenarioArgument,
    version: VersionArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let `smt registry gc` have a pinned version.

    Example: `smt registry unpin income_workers 20260102-030405-678-0123abcd`
    """
    from smt.serving.labels import unpin as let_go
    from smt.serving.registry import Registry

    place = Registry(registry)
    let_go(place, scenario, version, reason)
    _say({"registry": place.root, "scenario": scenario, "version": version}, as_json, "no longer pinned")


def gc(
    registry: RegistryOption = DEFAULT_REGISTRY,
    scenario: Annotated[str | None, typer.Option("--scenario", "-s", help="Only this scenario.")] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, help="The newest versions of a scenario that stay.")] = 5,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Only versions older than this: 90m, 12h, 7d.", metavar="TIME")
    ] = "7d",
    apply: Annotated[bool, typer.Option("--apply", help="Remove it. Without, only print what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions, and what killed publications left behind. Prints what would go, unless --apply is given.

    Current, canary, shadow, pinned versions, what `rollback` goes back to, and what these are built on, stay.

    Example: `smt registry gc --keep 5 --older-than 7d --apply`
    """
    from smt.serving.gc import Policy, collect
    from smt.serving.registry import Registry, RegistryError

    place = Registry(registry)
    policy = Policy(keep, duration(older_than))
    found, faults = [], []
    for name in place.scenarios() if scenario is None else [scenario]:
        try:
            found.append(collect(place, name, policy, apply=apply))
        except RegistryError as error:  # the others can be cleaned up all the same
            faults.append(f"{name}: left alone: {error}")
    if as_json:
        print_json(
            {
                "registry": place.root,
                "applied": apply,
                "scenarios": [one.to_json() for one in found],
                "faults": faults,
            }
        )
    else:
        rows = [[one.scenario, len(one.removed), one.bytes, len(one.leftovers), len(one.kept)] for one in found]
        title = "Removed" if apply else "Would be removed"
        RESULT.print(table(title, ["scenario", "versions", "bytes", "leftovers", "stay"], rows, ["versions", "bytes"]))
        for one in found:
            for version in one.removed:
                RESULT.print(f"{one.scenario} {version}", markup=False)
        for fault in faults:
            print_error(fault)
        if not apply:
            NOTES.print("nothing was removed; --apply does it", markup=False)
    if faults:
        raise typer.Exit(FAILED)


def duration(text: str) -> timedelta:
    """'90m', '12h', '7d' as a time span. Raises CommandError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise CommandError(f"--older-than {text!r}: expected a number and one of s, m, h, d, w, as in 7d", WRONG_INPUT)
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def _label(
    name: LabelName,
    scenario: str,
    version: str | None,
    registry: str,
    percent: float | None,
    off: bool,
    reason: str,
    as_json: bool,
) -> None:
    from smt.serving.labels import clear_label, labelled, read_label
    from smt.serving.registry import Registry

    place = Registry(registry)
    if off:
        if version is not None:
            raise CommandError("--off takes the label away; it goes without a version", WRONG_INPUT)
        before = clear_label(place, scenario, name, reason)
    else:
        before = labelled(place, scenario, name)
        if version is not None:
            place.set_label(scenario, name, version, percent, reason)
        elif percent is not None:
            raise CommandError("--percent: needs the version that the share is for", WRONG_INPUT)
    label = read_label(place, scenario, name)
    if as_json:
        now = label.model_dump() if label else None
        print_json({"registry": place.root, "scenario": scenario, "label": name, "now": now, "before": before})
    elif label is None:
        RESULT.print(f"{scenario}: no {name} (before: {before or 'none'})", markup=False)
    else:
        RESULT.print(
            f"{scenario}: {label.version} is the {name}, {label.percent:g} % (before: {before or 'none'})", markup=False
        )


def _moved(root: str, scenario: str, version: str, before: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"registry": root, "scenario": scenario, "version": version, "before": before})
    else:
        RESULT.print(f"{scenario}: {version} is current (before: {before or 'none'})", markup=False)


def _say(report: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        print_json(report)
    else:
        RESULT.print(f"{report['scenario']}: {report['version']} is {what}", markup=False)


COMMANDS: dict[str, Callable[..., None]] = {
    "promote": promote,
    "rollback": rollback,
    "canary": canary,
    "shadow": shadow,
    "pin": pin,
    "unpin": unpin,
    "gc": gc,
}
