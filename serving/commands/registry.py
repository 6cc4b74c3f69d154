"""smt registry: what is published and whether it is intact; commands that change something are in lifecycle.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands import lifecycle
from smt.serving.commands.output import (
    DEFAULT_REGISTRY,
    FAILED,
    NOTES,
    RESULT,
    CommandError,
    JsonOption,
    RegistryOption,
    print_json,
    table,
)

if TYPE_CHECKING:
    from smt.serving.registry import Registry

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a registry, and choose what is served: promote, roll back, canary, shadow; remove what is old.",
    rich_markup_mode="markdown",
)

ScenarioArgument = Annotated[str, typer.Argument(help="Scenario.")]
VersionArgument = Annotated[str | None, typer.Argument(help="A version. Default: the current one.")]


@app.command("ls")
def ls(
    registry: RegistryOption = DEFAULT_REGISTRY,
    scenario: Annotated[str | None, typer.Option("--scenario", "-s", help="Only this scenario's versions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List template binaries and every scenario's versions, newest last.

    Example: `smt registry ls --registry build/registry`
    """
    from smt.serving.integrity import Integrity, pointer_faults, read_binaries
    from smt.serving.registry import Registry

    place = Registry(registry)
    damage = Integrity()
    names = place.scenarios() if scenario is None else [scenario]
    if scenario is not None and not place.versions(scenario):
        raise CommandError(
            f"{place.root}: no scenario {scenario!r}; there are: {', '.join(place.scenarios()) or 'none'}"
        )
    found: list[dict[str, Any]] = []
    for name in names:
        damage.faults += pointer_faults(place, name)
        found += _versions(place, name)
    binaries = [binary for _, binary in read_binaries(place, damage) if binary is not None] if scenario is None else []
    if as_json:
        print_json(
            {
                "registry": place.root,
                "binaries": [binary.model_dump(mode="json", exclude={"layout", "program"}) for binary in binaries],
                "snapshots": found,
                "faults": damage.faults,
            }
        )
        return
    if binaries:
        rows = [
            [
                b.template.name,
                b.template.version,
                b.target,
                b.precision,
                b.torch,
                b.abi_hash[:12],
                b.files["model.pt2"].sha256[:12],
            ]
            for b in binaries
        ]
        columns = ["template", "version", "target", "precision", "torch", "ABI", "sha256"]
        RESULT.print(table("Template binaries", columns, rows))
    snapshots = [
        [r["scenario"], r["version"], ", ".join(r["labels"]), r.get("template"), r.get("abi_hash", "")[:12],
         ", ".join(r.get("tasks", [])) or r.get("error"), r.get("base"), r.get("bytes")]
        for r in found
    ]  # fmt: skip
    if not (binaries or snapshots or damage.faults):
        NOTES.print(f"{place.root}: empty; `smt compile` and `smt publish` fill it", markup=False)
        return
    columns = ["scenario", "version", "", "template", "ABI", "tasks", "built on", "bytes"]
    RESULT.print(table("Snapshots", columns, snapshots, numbers=["bytes"]))
    for fault in damage.faults:
        RESULT.print(fault, style="red", markup=False)


def _versions(place: Registry, scenario: str) -> list[dict[str, Any]]:
    from smt.serving.labels import LABELS, labelled, read_pins
    from smt.serving.registry import RegistryError

    named: dict[str, list[str]] = {}
    current = place.replaceable(scenario)
    for label, version in [("current", current), *((label, labelled(place, scenario, label)) for label in LABELS)]:
        if version is not None:
            named.setdefault(version, []).append(label)
    for version in read_pins(place, scenario):
        named.setdefault(version, []).append("pinned")
    rows = []
    for version in place.versions(scenario):
        row: dict[str, Any] = {
            "scenario": scenario,
            "version": version,
            "current": version == current,
            "labels": named.get(version, []),
        }
        try:
            manifest = place.snapshot(scenario, version)
            row |= {
                "template": f"{manifest.template.name} {manifest.template.version}",
                "abi_hash": manifest.abi_hash,
                "tasks": manifest.task_names(),
                "bytes": manifest.bytes,
                "base": manifest.base,
                "parent": manifest.lineage.get("parent"),
            }
        except RegistryError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


@app.command("show")
def show(
    scenario: ScenarioArgument,
    version: VersionArgument = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    events: Annotated[int, typer.Option(min=0, help="How many of the last events to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show one version: lineage, the gate's figures, what it is built on, what names it; and what was done lately.

    Example: `smt registry show income_workers`
    """
    from smt.serving.events import read_events
    from smt.serving.lifecycle import rollback_target
    from smt.serving.registry import Registry

    place = Registry(registry)
    chain = place.chain(scenario, version)
    manifest = chain[0]
    [row] = [row for row in _versions(place, scenario) if row["version"] == manifest.version] or [{"labels": []}]
    happened = read_events(place, scenario, newest=events) if events else []
    report = {
        "registry": place.root,
        "labels": row["labels"],
        "chain": [built_on.version for built_on in chain[1:]],
        "rollback_to": rollback_target(place, scenario),
        **manifest.model_dump(mode="json", exclude={"features"}),
        "features": len(manifest.features.get("features", [])),
        "events": [event.model_dump(mode="json") for event in happened],
    }
    if as_json:
        print_json(report)
        return
    facts = [
        [key, ", ".join(value) if isinstance(value, list) else value]
        for key, value in {
            "version": manifest.version,
            "named": row["labels"],
            "template": f"{manifest.template.name} {manifest.template.version}",
            "ABI": manifest.abi_hash[:12],
            "tasks": manifest.task_names(),
            "bytes": manifest.bytes,
            "built on": report["chain"],
            **manifest.lineage,
        }.items()
    ]
    RESULT.print(table(scenario, ["", ""], facts))
    for kind in ("ne_change", "calibration_change"):
        if kind in manifest.metrics:
            RESULT.print(f"{kind}: {manifest.metrics[kind]}", markup=False)
    forced = manifest.metrics.get("gate", {}).get("forced")
    if forced:
        RESULT.print(f"published against the gate: {forced}", style="yellow", markup=False)
    history = [[e.at, e.what, e.version, e.previous, e.label, e.by, e.forced or e.reason] for e in happened]
    if history:
        RESULT.print(table("Events", ["at", "what", "version", "before", "label", "by", "reason"], history))


@app.command("diff")
def diff(
    scenario: ScenarioArgument,
    a: Annotated[str, typer.Argument(help="The earlier version.")],
    b: Annotated[str | None, typer.Argument(help="The later one. Default: the current one.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: lineage, metrics, features and vocabularies, weights.

    Example: `smt registry diff income_workers 20260102-030405-678-0123abcd`
    """
    from smt.serving.diff import compare_versions
    from smt.serving.registry import Registry

    place = Registry(registry)
    found = compare_versions(place, scenario, a, b)
    if as_json:
        print_json(found.to_json())
        return
    for title, pairs in (("Lineage", found.lineage), ("Metrics", found.metrics)):
        if pairs:
            RESULT.print(table(title, ["", found.a, found.b], [[key, *pair] for key, pair in pairs.items()]))
    rows = [
        [f.name, f.change, f.values_added, f.values_removed, f.rows_compared, f.rows_changed, f.mean, f.largest]
        for f in found.features
    ]
    columns = ["feature", "", "values +", "values -", "rows", "changed", "mean |b - a|", "largest"]
    RESULT.print(table("Features and their embeddings", columns, rows, numbers=columns[2:]))
    slab = found.slab
    RESULT.print(
        f"dense weights: {slab}"
        if isinstance(slab, str)
        else f"dense weights: mean |b - a| {slab.mean:.3g}, largest "
        f"{slab.largest:.3g}, {slab.changed:,} of {slab.count:,} changed",
        markup=False,
    )


@app.command("verify")
def verify(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Check every file of a registry against its checksums, and what names versions; exit status 1 if one is wrong.

    Example: `smt registry verify --registry build/registry`
    """
    from smt.serving.integrity import check_registry
    from smt.serving.registry import Registry

    place = Registry(registry)
    found = check_registry(place)
    if as_json:
        print_json({"registry": place.root, "intact": found.intact, "faults": found.faults})
    else:
        RESULT.print(f"{place.root}: {found.intact} snapshots and binaries intact", markup=False)
        for fault in found.faults:
            RESULT.print(fault, style="red", markup=False)
    if found.faults:
        raise typer.Exit(FAILED)


for _name, _command in lifecycle.COMMANDS.items():
    app.command(_name)(_command)
