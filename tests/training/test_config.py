"""YAML files: syntax, and every kind of mistake with its line, field, what was found and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt.training.config import ConfigError, load_yaml
from smt.training.scenario import load_scenario
from smt.training.template import load_template
from tests.training.support import SCENARIO, TEMPLATE, make_scenario, replaced


def line_of(text: str, part: str) -> int:
    """Number of the first line that holds `part`."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def errors_of_template(folder: Path, text: str) -> list[str]:
    path = folder / "template.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_template(path)
    return str(caught.value).splitlines()


def errors_of_scenario(folder: Path, text: str) -> list[str]:
    (folder / "template.yaml").write_text(TEMPLATE)
    (folder / "shop.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_scenario(folder / "shop.yaml")
    return str(caught.value).splitlines()


TEMPLATE_MISTAKES = [
    # what is replaced, by what, field, found, allowed
    ("template: small", "template: Small One", "template", "'Small One'", "lower-case letters"),
    ("version: 1.0.0", "version: 1.0", "version", "1.0", "three numbers with dots"),
    ("  dense: 4", "  dense: 0", "slots.dense", "0", "an integer from 1 to 65536"),
    ("  dense: 4", '  dense: "4"', "slots.dense", "'4'", "an integer"),
    ("  dim: 4", "  dim: 6", "slots.dim", "6", "a multiple of 4"),
    ("  pooling: mean", "  pooling: max", "slots.pooling", "'max'", "sum, mean"),
    ("  pooling: mean", "  pooling: meen", "slots.pooling", "'meen' (did you mean 'mean'?)", "sum, mean"),
    ("  categorical: 6\n", "", "slots.categorical", "nothing", "an integer from 1 to 4096 (required)"),
    ("  dim: 4", "  dims: 4", "slots.dims", "an unknown key (did you mean 'dim'?)", "dense, categorical, dim, pooling"),
    ("units: [8]}\n  inter", "units: []}\n  inter", "components.dense_arch.units", "[]", "a list of 1 to 16 integers"),
    ("units: [16, 8]", "units: [16, eight]", "components.deep.units[1]", "'eight'", "an integer from 1 to 65536"),
    ("type: mmoe", "type: moe", "components.experts.type", "'moe' (did you mean 'mmoe'?)", "mmoe, ple, shared_bottom"),
    ("type: mmoe", "type: shared_bottom", "components.experts.count", "an unknown key", "type"),
    ("units: [16, 8]", "units: [16, 8], layer_norm: 1", "components.deep.layer_norm", "1", "true or false"),
    ("units: [16, 8]", "units: [16, 8], layer_nrom: true", "components.deep.layer_nrom", "'layer_norm'?", "layer_norm"),
    ("type: cross_low_rank", "type: dot", "components.interaction.rank", "an unknown key", "type"),
    (
        "type: cross_low_rank",
        "type: cross",
        "components.interaction.type",
        "'cross'",
        "concat, cross_full, cross_low_rank, cross_mixture, dhen, dot, final, finalmlp, inner_product, masknet, "
        "rankmixer, wukong",
    ),
    ("rank: 4", "rnak: 4", "components.interaction.rank", "nothing", "an integer from 1 to 65536 (required)"),
    ("rank: 4", "rank: 4, rnak: 4", "components.interaction.rnak", "did you mean 'rank'?", "type, layers, rank"),
    ("tasks: 3", "tasks: -1", "components.heads.tasks", "-1", "an integer from 1 to 256"),
    ("epochs: 3", "epochs: 2.5", "recipe.epochs", "2.5", "an integer from 1 to 10000"),
    ("epochs: 3", "epochs: true", "recipe.epochs", "true", "an integer"),
    ("dropout: 0.1", "dropout: 1", "recipe.dropout", "1", "at least 0 and less than 1"),
    ("dropout: 0.1", "dropout: .nan", "recipe.dropout", "nan", "a number"),
    ("type: adamw", "type: sgd", "recipe.dense_optimizer.type", "'sgd'", "adam, adamw"),
    ("lr: 0.005", "lr: fast", "recipe.dense_optimizer.lr", "'fast'", "a number greater than 0 and at most 10"),
    ("lr_decay: cosine", "lr_decay: linear", "recipe.lr_decay", "'linear'", "none, cosine"),
    ("{patience: 5}", "55", "recipe.early_stopping", "55", "a mapping with patience"),
    ("recipe:", "recipes:", "recipe", "nothing", "a mapping with batch_size"),
    (
        "recipe:",
        "recipes:",
        "recipes",
        "did you mean 'recipe'?",
        "template, version, parent, slots, components, recipe, capacity",
    ),
    ("  seed: 7", "  seed: 7\n  seed: 8", "recipe.seed", "a second time (first in line 17)", "each key once"),
    (
        "flops_per_row: 100000",
        "flops_per_row: 100",
        "capacity.flops_per_row",
        "the components need",
        "smaller components",
    ),
    ("slab_bytes: 100000", "slab_bytes: 100", "capacity.slab_bytes", "a budget of 100", "at least"),
]


@pytest.mark.parametrize(("old", "new", "field", "found", "allowed"), TEMPLATE_MISTAKES)
def test_template_mistakes(tmp_path: Path, old: str, new: str, field: str, found: str, allowed: str) -> None:
    text = replaced(TEMPLATE, {old: new})
    lines = errors_of_template(tmp_path, text)
    matching = [line for line in lines if f": {field}: found" in line]
    assert len(matching) == 1, lines
    head, _, message = matching[0].partition(f": {field}: found ")
    assert found in message.partition("; allowed: ")[0]
    assert allowed in message.partition("; allowed: ")[2]
    path, _, number = head.rpartition(":")
    assert path == str(tmp_path / "template.yaml")
    if field not in ("slots.categorical", "components.interaction.rank", "recipe", "recipe.seed"):
        assert int(number) == line_of(text, new.splitlines()[0].strip())


def test_dot_needs_a_dense_arch_as_wide_as_the_embeddings(tmp_path: Path) -> None:
    dot = {"{type: cross_low_rank, layers: 2, rank: 4}": "{type: dot}"}
    text = replaced(TEMPLATE, {**dot, "units: [8]}": "units: [4, 8]}"})
    [line] = errors_of_template(tmp_path, text)
    number = line_of(text, "dense_arch")
    assert line == (
        f"{tmp_path}/template.yaml:{number}: components.dense_arch.units[1]: found 8 outputs of the last layer, "
        "which the interaction dot multiplies with embeddings; allowed: 4, the value of slots.dim"
    )
    fitting = tmp_path / "fitting.yaml"
    fitting.write_text(replaced(TEMPLATE, {**dot, "units: [8]}": "units: [8, 4]}"}))
    assert load_template(fitting).components.interaction.type == "dot"


SCENARIO_MISTAKES = [
    ("scenario: shop", "scenario: a/b", "scenario", "'a/b'", "lower-case letters"),
    ("template: template.yaml", "template: other.yaml", "template", "no such file", "relative to this file"),
    ("template: template.yaml\n", "", "template", "nothing", "text (required)"),
    ("tasks:", "recipe: {epochs: 6}\ntasks:", "recipe", "'recipe' in a scenario", "belong to the template"),
    ("tasks:", "components: {}\ntasks:", "components", "'components' in a scenario", "belong to the template"),
    ("  train: train.parquet", "  train: 7", "data.train", "7", "the path of a parquet file"),
    ("  train: train.parquet", "  trian: train.parquet", "data.train", "nothing", "the path of a parquet file"),
    ("  train: train.parquet", "  trian: train.parquet", "data.trian", "did you mean 'train'?", "train, valid, test"),
    ("  valid: valid.parquet", "  valid: []", "data.valid", "[]", "the path of a parquet file"),
    ("valid.parquet", "valid.parquet\n  filter: age >", "data.filter", "a syntax error", "columns, literals"),
    ("valid.parquet", "valid.parquet\n  filter: age = 3", "data.filter", "did you mean == ?", "columns, literals"),
    ("[log, normalise]", "[logg]", "features[0].dense", "step 'logg' (did you mean 'log'?)", "log, normalise"),
    ("[log, normalise]", "log", "features[0].dense", "'log'", "a list of log"),
    ("[log, normalise]", "[normalise, normalise]", "features[0].dense", "normalise twice", "at most one"),
    ("[log, normalise]", "[{clip: [5, 1]}]", "features[0].dense", "[5, 1] for clip", "the lower number first"),
    ("[log, normalise]", "[{clip: 5}]", "features[0].dense", "5 for clip", "two numbers"),
    ("[log, normalise]", "[{normalise: {mean: 1}}]", "features[0].dense", "mapping with mean", "mean and std"),
    ("[log, normalise]", "[{normalise: {mean: 1, std: 0}}]", "features[0].dense", "for normalise", "std above 0"),
    ("[log, normalise]", "[{normalise: {avg: 1}}]", "features[0].dense", "the unknown key 'avg'", "mean, std"),
    ("quantiles: 8", "quantiles: 1", "features[2].encode", "1 for quantiles", "an integer from 2"),
    ("{quantiles: 8}", "[3, 2]", "features[2].encode", "[3, 2] for bucketise", "strictly increase"),
    ("hash: 50", "hash: many", "features[4].encode", "'many' for hash", "a size from 1"),
    ("{hash: 50}", "{hsh: 50}", "features[4].encode", "did you mean 'hash'?", "vocabulary"),
    ("encode: vocabulary}", "encode: {vocabulary: {min_cuont: 2}}}", "features[3].encode", "did you mean", "min_count"),
    ("encode: vocabulary}", "encode: {vocabulary: {min_count: 0}}}", "features[3].encode", "0 for min_count", "from 1"),
    (
        "type: number, dense: [normalise]",
        "type: float, dense: []",
        "features[1].type",
        "'float'",
        "number, int, string",
    ),
    (
        "type: number, dense: [normalise]",
        "type: string, dense: []",
        "features[1]",
        "dense feature of type",
        "type number",
    ),
    (
        "{inputs: [country], type: string",
        "{inputs: [country], type: number",
        "features[3]",
        "vocabulary of type number",
        "int or string",
    ),
    ("default: 40", "default: forty", "features[1]", "the default 'forty' of type number", "default of type number"),
    ("default: 40", "default: [1]", "features[1].default", "[1]", "a value of the feature's type"),
    ("default: 40", "encode: vocabulary", "features[1]", "both dense and encode", "either"),
    (", dense: [log, normalise]", "", "features[0]", "neither dense nor encode", "either"),
    ("[price]", "price", "features[0].inputs", "'price'", "a list of 1 or more texts"),
    ("[price]", "[]", "features[0].inputs", "[]", "a list of 1 or more texts"),
    ("tasks:", "tasks: []\nothers:", "tasks", "[]", "a list of 1 or more mappings with name, label"),
    ("[price]", "[price, age]", "features[1]", "the feature 'age' a second time", "different names"),
    ("[country]", "[price]", "features[3].type", "type string for the input 'price'", "one type for an input"),
    (
        "[country], type: string",
        "[country, city], name: x, type: string",
        "features[3]",
        "the name 'x' for 2",
        "{input}",
    ),
    (
        "[country], type: string",
        "[country, city], slot: 1, type: string",
        "features[3]",
        "slot 1 for 2",
        "single input",
    ),
    (
        "[country], type: string",
        "[country], slot: 6, type: string",
        "features[3].slot",
        "6",
        "0 to 5: the template has 6",
    ),
    ("[country], type: string", "[country], slot: -1, type: string", "features[3].slot", "-1", "an integer at least 0"),
    ("max_length: 3", "max_length: 0", "features[5].max_length", "0", "from 1 to 65536"),
    (
        "multi_valued: true, max_length: 3",
        "max_length: 3",
        "features[5]",
        "max_length without multi_valued",
        "multi_valued",
    ),
    ("multi_valued: true", "multi_valued: true, default: x", "features[5]", "a default of a multi_valued", "empty one"),
    ("multi_valued: true", "multi_valued: yes", "features[5].multi_valued", "'yes'", "true or false"),
    ("[price]", "[p1, p2, p3, p4]", "features", "5 dense features", "at most 4, the dense slots of template small"),
    ("[country]", "[c1, c2, c3, c4, c5]", "features", "8 categorical features", "at most 6"),
    ("label: clicked == 1", "label: clicked == 1 + ", "tasks[0].label", "a syntax error", "columns, literals"),
    ("label: clicked == 1", "label: abs(clicked)", "tasks[0].label", "call syntax", "columns, literals"),
    ("label: clicked == 1", "label: 1 == 1", "tasks[0].label", "no column", "a label of the data"),
    ("label: clicked == 1", "label: age > 50", "features[1].inputs", "a label leak: 'age'", "no label is made of"),
    ("name: buy", "name: click", "tasks[1].name", "a second time", "different names"),
    ("name: buy", "name: ''", "tasks[1].name", "''", "lower-case letters"),
    ("weight: 0.5", "weight: 0", "tasks[1].weight", "0", "greater than 0"),
    ("weight: 0.5", "weight: .inf", "tasks[1].weight", "inf", "a number"),
    ("weight: 0.5", "weights: 1", "tasks[1].weights", "did you mean 'weight'?", "name, label, weight"),
    ("  - {name: buy", "  - 5\n  - {name: buy", "tasks[1]", "5", "a mapping with name, label, weight"),
    (
        "  - {name: buy",
        "  - {name: b, label: b}\n  - {name: c, label: c}\n  - {name: buy",
        "tasks",
        "4 tasks",
        "at most 3",
    ),
]


@pytest.mark.parametrize(("old", "new", "field", "found", "allowed"), SCENARIO_MISTAKES)
def test_scenario_mistakes(tmp_path: Path, old: str, new: str, field: str, found: str, allowed: str) -> None:
    text = replaced(SCENARIO, {old: new})
    lines = errors_of_scenario(tmp_path, text)
    matching = [line for line in lines if f": {field}: found" in line]
    assert matching, lines
    head, _, message = matching[0].partition(f": {field}: found ")
    assert found in message.partition("; allowed: ")[0]
    assert allowed in message.partition("; allowed: ")[2]
    path, _, number = head.rpartition(":")
    assert path == str(tmp_path / "shop.yaml")
    block = field.partition("[")[0].partition(".")[0]
    assert line_of(text, block) <= int(number) <= len(text.splitlines()) if block != "template" else True


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = replaced(
        SCENARIO,
        {
            "template: template.yaml": "template: none.yaml",
            "train: train.parquet": "train: 1",
            "[price]": "price",
            "hash: 50": "hash: 0",
            "name: click": "name: Click",
            "bought": "import os",
        },
    )
    lines = errors_of_scenario(tmp_path, text)
    fields = [line.split(": ")[1] for line in lines]
    expected = ["template", "data.train", "features[0].inputs", "features[4].encode", "tasks[0].name", "tasks[1].label"]
    assert fields == expected
    numbers = [int(line.split(":")[1]) for line in lines]
    assert numbers == sorted(numbers)
    assert numbers[1] == line_of(text, "train: 1")


def test_mistakes_of_the_template_are_reported_with_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_scenario(tmp_path, template={"dim: 4": "dim: five"}, train=10, valid=10)
    assert str(caught.value).startswith(f"{tmp_path}/template.yaml:6: slots.dim: found 'five'")


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", 3, "a syntax error"),
        (b"a: 1\n\tb: 2\n", 2, "a syntax error"),
        (b"a: 1\nb: \xff\n", 2, "the byte 0xff"),
        (b"", 1, "an empty file"),
        (b"# only a comment\n", 1, "an empty file"),
        (b"- 1\n- 2\n", 1, "no mapping"),
        (b"a: 1\n---\na: 2\n", 1, "2 documents"),
        (b"a: *missing\n", 1, "a syntax error"),
    ],
)
def test_files_that_are_no_yaml_mapping(tmp_path: Path, content: bytes, line: int, found: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.file) == (line, str(path))
    assert found in problem.found


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: found no such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="found an unreadable file"):
        load_yaml(tmp_path)


def test_values_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: [no, off, NO, yes, 1e-3, 0x10, 1_000, 2024-01-01, 1:30, null, ~, true, -7, .5, 0o17, 012]\n")
    data = load_yaml(path).data["a"]
    assert data == [
        "no",
        "off",
        "NO",
        "yes",
        1e-3,
        16,
        "1_000",
        "2024-01-01",
        "1:30",
        None,
        None,
        True,
        -7,
        0.5,
        15,
        12,
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: !!python/object/apply:os.system [ls]\n", "the tag tag:yaml.org,2002:python"),
        ("a: !!python/name:os.system x\n", "the tag"),
        ("a: !secret x\n", "the tag !secret"),
        ("a: !!int x\n", "tagged"),
        ("a: &x [*x]\n", "an alias inside the value"),
        ("[1, 2]: 3\n", "a key that is a list"),
        ("a: 1\nb: 2\na: 3\n", "a second time (first in line 1)"),
    ],
)
def test_odd_yaml_is_harmless_and_reported(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    problems = load_yaml(path).problems
    assert found in problems[0].found


def test_a_file_of_nested_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path = tmp_path / "file.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load_yaml(path)
