"""smt registry: what is published, whether it is intact, and going back to an earlier version."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a registry: list, verify, go back to an earlier version.",
    rich_markup_mode="markdown",
)


@app.command("ls")
def ls(
    registry: RegistryOption = DEFAULT_REGISTRY,
    scenario: Annotated[str | None, typer.Option("--scenario", "-s", help="Only this scenario's versions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List template binaries and every scenario's versions, newest last.

    Example: `smt registry ls --registry build/registry`
    """
    from smt.serving.integrity import Integrity, pointer_fault, read_binaries
    from smt.serving.registry import Registry, RegistryError

    place = Registry(registry)
    damage = Integrity()
    names = place.scenarios() if scenario is None else [scenario]
    if scenario is not None and not place.versions(scenario):
        raise CommandError(
            f"{place.root}: no scenario {scenario!r}; there are: {', '.join(place.scenarios()) or 'none'}"
        )
    found: list[dict[str, Any]] = []
    for name in names:
        fault = pointer_fault(place, name)
        damage.faults += [fault] if fault else []
        current = None if fault else place.current(name)
        for version in place.versions(name):
            row: dict[str, Any] = {"scenario": name, "version": version, "current": version == current}
            try:
                manifest = place.snapshot(name, version)
                row |= {
                    "template": f"{manifest.template.name} {manifest.template.version}",
                    "abi_hash": manifest.abi_hash,
                    "tasks": manifest.task_names(),
                    "bytes": sum(file.bytes for file in manifest.files.values()),
                    "parent": manifest.lineage.get("parent"),
                }
            except RegistryError as error:
                row["error"] = str(error)
            found.append(row)
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
        [r["scenario"], r["version"], "current" if r["current"] else "", r.get("template"), r.get("abi_hash", "")[:12],
         ", ".join(r.get("tasks", [])) or r.get("error"), r.get("bytes")]
        for r in found
    ]  # fmt: skip
    if not (binaries or snapshots or damage.faults):
        NOTES.print(f"{place.root}: empty; `smt compile` and `smt publish` fill it", markup=False)
        return
    columns = ["scenario", "version", "", "template", "ABI", "tasks", "bytes"]
    RESULT.print(table("Snapshots", columns, snapshots, numbers=["bytes"]))
    for fault in damage.faults:
        RESULT.print(fault, style="red", markup=False)


@app.command("verify")
def verify(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Check every file of a registry against its checksums, and every `current`; exit status 1 if one is wrong.

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


@app.command("use")
def use(
    scenario: Annotated[str, typer.Argument(help="Scenario to change.")],
    version: Annotated[str, typer.Argument(help="A published version; see `smt registry ls`.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Make a published version current again. Servers take it as they take a new one.

    Example: `smt registry use income_workers 20260102-030405-678-0123abcd`
    """
    from smt.serving.registry import Registry

    place = Registry(registry)
    before = place.replaceable(scenario)
    place.set_current(scenario, version)
    if as_json:
        print_json({"registry": place.root, "scenario": scenario, "version": version, "before": before})
    else:
        RESULT.print(f"{scenario}: {version} is current (before: {before or 'none'})", markup=False)
