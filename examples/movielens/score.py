"""Scores ratings, held-back ones for instance, through a running server: each row by the scenario of the user's age.

    smt train examples/movielens/under_25.yaml               # and the other two
    smt compile examples/movielens/template.yaml
    smt publish build/runs/under_25                          # and the other two
    smt serve
    python -m examples.movielens.score --data DIR --ratings test.parquet --output scores.parquet

DIR has users.parquet and movies.parquet. The ratings file has user_id and movie_id; with the column `rating` too, AUC
and logloss are reported for each scenario and for all rows. --output: a probability per row of the file, in its order.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from examples.movielens.rows import SCENARIOS, ratings_of, read_catalogue
from smt.serving.client import Client, PredictError
from smt.training.metrics import task_metrics

TASK = "liked"


def score(client: Client, rows: pa.Table) -> NDArray[np.float32]:
    """[n] probabilities of rows with the features of all scenarios, each by the scenario in its column `scenario`.

    Raises:
        PredictError: the server refused something.
    """
    scores = np.full(rows.num_rows, np.nan, dtype=np.float32)
    group = rows["scenario"].to_numpy()
    for i, name in enumerate(SCENARIOS):
        mine = np.flatnonzero(group == i)
        if len(mine):
            scores[mine] = client.predict_table(name, rows.take(mine))[TASK]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with users.parquet and movies.parquet")
    parser.add_argument("--ratings", type=Path, required=True, help="parquet file of rows to score")
    parser.add_argument("--target", default="127.0.0.1:8500", help="host:port of the server")
    parser.add_argument("--output", type=Path, help="parquet file to write the scores to")
    arguments = parser.parse_args()
    try:
        table = pq.read_table(arguments.ratings)
        rows = read_catalogue(arguments.data).features(table["user_id"], table["movie_id"])
        with Client(arguments.target, timeout=60) as client:
            scores = score(client, rows)
        if arguments.output is not None:
            pq.write_table(pa.table({TASK: scores}), arguments.output)
    except (PredictError, OSError, KeyError, ValueError, pa.ArrowException) as error:
        sys.exit(f"error: {error}")
    summary: dict[str, Any] = {"rows": len(scores)}
    if "rating" in table.column_names:
        liked, group = ratings_of(table).liked.to_numpy(), rows["scenario"].to_numpy()
        summary["all"] = task_metrics(liked, scores).to_json()
        for i, name in enumerate(SCENARIOS):
            summary[name] = task_metrics(liked[group == i], scores[group == i]).to_json()
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
