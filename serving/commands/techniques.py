"""smt techniques: what a template can switch on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smt.serving.commands.output import RESULT, JsonOption, print_json, table

if TYPE_CHECKING:
    from smt.training.techniques.technique import Technique


def techniques(as_json: JsonOption = False) -> None:
    """List the techniques that a template can switch on: what serving them costs, their paper, what excludes them.

    One line of the template does it: `techniques: [ema, {name: pairwise_loss, weight: 0.1}]`.

    Example: `smt techniques --json`
    """
    from smt.training.techniques.technique import registered

    kinds = registered()
    # A conflict holds both ways, whichever of the two names it.
    excluded = {
        name: sorted(other for other in kinds if other in kind.conflicts or name in kinds[other].conflicts)
        for name, kind in kinds.items()
    }
    if as_json:
        listed = [
            {
                "name": name,
                "cost": kind.cost,
                "paper": kind.paper,
                "conflicts": excluded[name],
                "settings": _settings(kind),
            }
            for name, kind in kinds.items()
        ]
        print_json({"techniques": listed})
        return
    rows = [
        [
            name,
            kind.cost,
            ", ".join(f"{key}={'(required)' if value is None else value}" for key, value in _settings(kind).items()),
            ", ".join(excluded[name]),
            kind.paper,
        ]
        for name, kind in kinds.items()
    ]
    RESULT.print(table("Techniques", ["name", "serving cost", "settings", "conflicts", "paper"], rows))


def _settings(kind: type[Technique]) -> dict[str, Any]:
    """Settings and their defaults; None where one has to be given."""
    fields = {key: field for key, field in kind.model_fields.items() if key != "name"}
    return {key: None if field.is_required() else field.default for key, field in fields.items()}
