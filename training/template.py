"""Template: a versioned architecture and training recipe with fixed dense shapes and a capacity budget.

    template = load_template(Path("template.yaml"))

A template knows no data and no task: scenarios fill its slots. See docs/ARCHITECTURE.md for the YAML.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from smt.training.components.config import Components
from smt.training.config import ConfigError, Problem, StrictModel, YamlDocument, load_yaml, validate
from smt.training.techniques.technique import Technique, TechniqueError, by_name, union

if TYPE_CHECKING:
    AnyTechnique = Technique
else:
    AnyTechnique = union()

NAME_PATTERN = r"^[a-z0-9_-]{1,64}$"
Name = Annotated[
    str,
    Field(pattern=NAME_PATTERN, description="1 to 64 lower-case letters, digits, - and _ (the name of a folder)"),
]
VERSION_PATTERN = r"^\d{1,9}\.\d{1,9}\.\d{1,9}$"
_VERSION = "three numbers with dots, as in 1.0.0"
Rate = Annotated[float, Field(gt=0, le=10)]


class Slots(StrictModel):
    """What a scenario can fill: the width of the dense input, and embeddings."""

    dense: Annotated[int, Field(ge=1, le=65536)]
    categorical: Annotated[int, Field(ge=1, le=4096)]
    # fbgemm's table-batched embeddings want rows of whole 16 bytes.
    dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)]
    pooling: Literal["sum", "mean"]


class DenseOptimizer(StrictModel):
    """Optimizer of everything but the embedding tables."""

    type: Literal["adam", "adamw", "cadam", "shampoo"]
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class EmbeddingOptimizer(StrictModel):
    """Optimizer of the embedding tables.

    rowwise_adagrad is fused into their backward pass. adam is not: tables are then replicated instead of sharded, and
    each step moves all of their rows.
    """

    type: Literal["rowwise_adagrad", "adam"]
    lr: Rate
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # of adam, decoupled


class EarlyStopping(StrictModel):
    """Stops after `patience` epochs without a new best mean validation NE over the tasks."""

    patience: Annotated[int, Field(ge=1, le=1000)]


class Recipe(StrictModel):
    """How every scenario of the template is trained."""

    batch_size: Annotated[int, Field(ge=1, le=1 << 20)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dense_optimizer: DenseOptimizer
    embedding_optimizer: EmbeddingOptimizer
    lr_decay: Literal["none", "cosine"] = "none"
    early_stopping: EarlyStopping | None = None


class Capacity(StrictModel):
    """What serving a row may cost; a template that costs more is refused."""

    flops_per_row: Annotated[int, Field(ge=1)]
    slab_bytes: Annotated[int, Field(ge=1)]


class Template(StrictModel):
    """One template. `name` is the key `template` of the YAML."""

    name: Annotated[Name, Field(alias="template")]
    version: Annotated[str, Field(pattern=VERSION_PATTERN, description=_VERSION)]
    # The version that this one was made of, by a cycle or by hand.
    parent: Annotated[str | None, Field(pattern=VERSION_PATTERN, description=_VERSION)] = None
    slots: Slots
    components: Components
    recipe: Recipe
    capacity: Capacity
    techniques: Annotated[
        list[AnyTechnique], BeforeValidator(by_name), Field(description="a list of names, or mappings with a name")
    ] = Field(default_factory=list)

    _document: YamlDocument = PrivateAttr()

    @property
    def tasks(self) -> int:
        """Number of heads; a scenario of n tasks uses the first n."""
        return self.components.heads.tasks

    @property
    def path(self) -> Path:
        """The YAML file it was loaded from."""
        return self._document.path

    @property
    def sha256(self) -> str:
        """Of the YAML file's bytes."""
        return self._document.sha256


def load_template(path: Path | str) -> Template:
    """Reads and checks a template.

    Raises:
        ConfigError: every mistake in the file; among them components that do not fit each other, techniques that
            exclude each other, and a cost above the capacity budget.
    """
    return template_of(load_yaml(Path(path)))


def template_of(document: YamlDocument) -> Template:
    """The template that a document describes. Raises ConfigError, see `load_template`."""
    template = validate(document, Template)
    template._document = document
    template = _with_techniques(template, document)
    problems = _mismatched(template, document) or _over_budget(template, document)
    if problems:
        raise ConfigError(problems)
    return template


def _with_techniques(template: Template, document: YamlDocument) -> Template:
    techniques = template.techniques
    template = template.model_copy(update={"techniques": []})
    for i, technique in enumerate(techniques):
        try:
            template = technique.apply(template)
        except TechniqueError as error:
            raise document.fail(("techniques", i), str(error), "techniques that go together, each once") from error
    return template


def _mismatched(template: Template, document: YamlDocument) -> list[Problem]:
    problems = []
    components, slots = template.components, template.slots
    units = components.dense_arch.units
    if components.interaction.name == "dot" and units[-1] != slots.dim:
        found = f"{units[-1]} outputs of the last layer, which the interaction dot multiplies with embeddings"
        where = ("components", "dense_arch", "units", len(units) - 1)
        problems.append(document.problem(where, found, f"{slots.dim}, the value of slots.dim"))
    for i, slot in enumerate(getattr(components.gates, "slots", [])):
        if slot >= slots.categorical:
            allowed = f"0 to {slots.categorical - 1}, the template's categorical slots"
            problems.append(document.problem(("components", "gates", "slots", i), str(slot), allowed))
    if components.sequence is not None:
        first, length, target = (getattr(components.sequence, key) for key in ("first", "length", "target"))
        if first + length > slots.categorical:
            allowed = f"at most {slots.categorical - length}: {length} of the template's {slots.categorical} slots"
            problems.append(document.problem(("components", "sequence", "first"), str(first), allowed))
        if target >= slots.categorical or first <= target < first + length:
            allowed = f"one of the template's {slots.categorical} categorical slots that is not of the sequence"
            problems.append(document.problem(("components", "sequence", "target"), str(target), allowed))
    return problems


def _over_budget(template: Template, document: YamlDocument) -> list[Problem]:
    # Imported here, because the model needs the template's types and because torch takes seconds to import.
    from smt.training.model import flops_per_row, slab_layout

    problems = []
    for key, cost in (("flops_per_row", flops_per_row(template)), ("slab_bytes", slab_layout(template).bytes)):
        budget = getattr(template.capacity, key)
        if cost > budget:
            found = f"a budget of {budget}, but the components need {cost}"
            problems.append(document.problem(("capacity", key), found, f"at least {cost}, or smaller components"))
    return problems
