"""Small settings of every component that has no tile program, to be put into the tests' template."""

from __future__ import annotations

from smt.training.template import Template

INTERACTIONS: dict[str, dict[str, object]] = {
    "concat": {},
    "cross_mixture": {"layers": 2, "experts": 3, "rank": 4},
    "dhen": {"layers": 2, "modules": ["dot", "linear", "cross", "mlp"], "hidden": 6},
    "final": {"units": [12, 8]},
    "finalmlp": {"first": [12, 8], "second": [6], "groups": 2, "gates": 5},
    "inner_product": {},
    "masknet": {"blocks": 2, "units": 6, "hidden": 5},
    "rankmixer": {"layers": 2, "tokens": 4, "dim": 8, "hidden": 12},
    "wukong": {"layers": 2, "fm": 3, "linear": 2, "rank": 4, "units": [8]},
}
OTHERS: dict[str, dict[str, object]] = {
    "deep identity": {"deep": {"type": "identity"}},
    "ple": {"experts": {"type": "ple", "shared": 2, "own": 1, "units": 6, "levels": 2}},
    "esmm": {"heads": {"type": "esmm", "tasks": 3, "parents": [-1, 0, 1], "units": [4]}},
    "autodis": {"numeric": {"type": "autodis", "buckets": 5}},
    "piecewise_linear": {"numeric": {"type": "piecewise_linear", "bins": 4}},
    "linear": {"branches": [{"type": "linear"}]},
    "fm": {"branches": [{"type": "fm"}]},
    "din": {"sequence": {"type": "din", "target": 1, "first": 4, "length": 2, "units": [6]}},
    "pepnet": {"gates": {"type": "pepnet", "slots": [0, 2], "hidden": 6}},
}
VARIANTS: dict[str, dict[str, object]] = {
    **{name: {"interaction": {"type": name, **config}} for name, config in INTERACTIONS.items()},
    **OTHERS,
}


def with_components(template: Template, changes: dict[str, object]) -> Template:
    """The template with other components in some slots, checked as its YAML would be."""
    components = {**template.components.model_dump(), **changes}
    return template.model_copy(update={"components": type(template.components).model_validate(components)})
