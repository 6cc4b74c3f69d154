"""Writes a synthetic ad ecosystem: rows, scenarios, their template, and the cross entropy of the best possible model.

    python -m examples.synthetic.generate --output build/synthetic --scenarios 8 --rows 60000 --seed 1

DIR/<surface>/{train,valid,test}.parquet, DIR/<surface>.yaml, DIR/template.yaml, DIR/bayes.json; and DIR/trunk.yaml, a
scenario of everybody's rows with both objectives, for models to start from. The true probabilities stand beside the
labels, in columns that no scenario reads. Rows are drawn and written block by block: the data may be larger than
memory. The same arguments give the same files.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from examples.synthetic.bayes import Bayes
from examples.synthetic.world import WINDOWS, Rows, Settings, Surface, World

FOLDER = Path(__file__).resolve().parent
BLOCK_ROWS = 65_536
# Which windows a split is of.
SPLITS = {"train": range(WINDOWS), "valid": range(WINDOWS, WINDOWS + 1), "test": range(WINDOWS + 1, WINDOWS + 2)}
OBJECTIVES = ("click", "conversion")
# Surface -> split -> objective -> figures, the content of bayes.json.
Found = dict[str, dict[str, dict[str, dict[str, float]]]]
# Objectives of surfaces 0, 1, 2 and so on, again and again.
_TASKS = (("click", "conversion"), ("click",), ("conversion",))
_SCENARIO = """\
# {what} of a synthetic ecosystem. Objectives: {objectives}.
scenario: {name}
template: template.yaml
data:
{files}
features:
  - {{inputs: [price, activity], type: number, dense: [log, normalise]}}
  - {{inputs: [age, position], type: number, dense: [normalise]}}
  - {{inputs: [price, activity], name: "{{input}}_bucket", type: number, encode: {{bucketise: {{quantiles: 24}}}}}}
  - {{inputs: [user_id, item_id], type: int, encode: {{vocabulary: {{min_count: 2}}}}}}
  - {{inputs: [advertiser, hour], type: int, encode: vocabulary}}
  - {{inputs: [segment, category, device], type: string, encode: vocabulary}}
  - {{inputs: [history], type: int, encode: {{vocabulary: {{min_count: 2}}}}, multi_valued: true, max_length: 8}}
tasks:
{tasks}
"""


def tasks_of(number: int) -> tuple[str, ...]:
    """The objectives of a surface."""
    return _TASKS[number % len(_TASKS)]


def blocks(surface: Surface, number: int, split: str, rows: int) -> Iterator[tuple[Rows, np.random.Generator]]:
    """Blocks of a split of a surface, and the generator that draws their labels.

    Each block has a seed of its own, and windows follow each other: of n rows, n / windows are of each.
    """
    windows = SPLITS[split]
    seed = [surface.world.settings.seed, 2, number, list(SPLITS).index(split)]
    for index, window in enumerate(windows):
        first, last = rows * index // len(windows), rows * (index + 1) // len(windows)
        for start in range(first, last, BLOCK_ROWS):
            rng = np.random.default_rng([*seed, window, start])
            yield surface.draw(window, min(BLOCK_ROWS, last - start), rng), rng


def table(rows: Rows, rng: np.random.Generator) -> pa.Table:
    """The columns with labels drawn for them, and the true probabilities. A conversion needs a click."""
    click = rng.random(len(rows.click)) < rows.click
    conversion = click & (rng.random(len(rows.click)) < rows.conversion / rows.click)
    columns = {name: _array(values) for name, values in rows.columns.items()}
    labels = {"click": click.astype(np.int8), "conversion": conversion.astype(np.int8)}
    return pa.table(columns | labels | {"true_click": rows.click, "true_conversion": rows.conversion})


def _array(values: np.ndarray[tuple[int, ...], np.dtype[np.int64 | np.float64 | np.str_]]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def write_split(surface: Surface, number: int, split: str, rows: int, file: Path) -> dict[str, Bayes]:
    """Writes the file, a row group for each block; returns what the best model reaches on each objective."""
    bayes = {name: Bayes() for name in OBJECTIVES}
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for drawn, rng in blocks(surface, number, split, rows):
        part = table(drawn, rng)
        writer = writer or pq.ParquetWriter(file, part.schema, compression="zstd")
        writer.write_table(part)
        for name, each in bayes.items():
            each.add(part[name].to_numpy(), part[f"true_{name}"].to_numpy())
    assert writer is not None, "a split has at least one row"
    writer.close()
    return bayes


def _scenario(what: str, name: str, surfaces: Sequence[str], tasks: Sequence[str]) -> str:
    """The YAML of a scenario of the rows of these surfaces."""
    files = "\n".join(f"  {split}: [{', '.join(f'{each}/{split}.parquet' for each in surfaces)}]" for split in SPLITS)
    lines = "\n".join(f"  - {{name: {task}, label: {task}}}" for task in tasks)
    return _SCENARIO.format(what=what, name=name, objectives=", ".join(tasks), files=files, tasks=lines)


def generate(output: Path, scenarios: int, rows: int, seed: int) -> Found:
    """Writes everything; returns the content of bayes.json.

    Args:
        rows: of the training split of each scenario; the others have a quarter of them each.

    Raises:
        ValueError: rows so few that a label has one class. OSError: a file cannot be written.
    """
    world = World(Settings(seed, users=max(rows // 50, 50), items=max(rows // 200, 50), surfaces=scenarios))
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER / "template.yaml", output / "template.yaml")
    found: Found = {}
    for number, surface in enumerate(world.surfaces):
        tasks = tasks_of(number)
        scenario = _scenario(f"Surface {number}", surface.name, [surface.name], tasks)
        (output / f"{surface.name}.yaml").write_text(scenario)
        found[surface.name] = {}
        for split in SPLITS:
            count = rows if split == "train" else max(rows // 4, 1)
            bayes = write_split(surface, number, split, count, output / surface.name / f"{split}.parquet")
            found[surface.name][split] = {task: bayes[task].to_json() for task in tasks}
    trunk = _scenario("Everybody's rows", "trunk", list(found), OBJECTIVES)
    (output / "trunk.yaml").write_text(trunk)
    (output / "bayes.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/synthetic"))
    parser.add_argument("--scenarios", type=int, default=8)
    parser.add_argument("--rows", type=int, default=60_000, help="training rows of each scenario")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.scenarios < 1 or arguments.rows < 1:
        parser.error("--scenarios and --rows: expected at least 1")
    try:
        found = generate(arguments.output, arguments.scenarios, arguments.rows, arguments.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name, splits in found.items():
        for task, figures in splits["valid"].items():
            rate = figures["positives"] / figures["rows"]
            print(f"{name}  {task:10}  label rate {rate:.4f}   NE of the best possible model {figures['ne']:.4f}")


if __name__ == "__main__":
    main()
