"""A process that does jobs: folders come in, one JSON string a line; outcomes go out, one JSON object a line.

It ends when its input does, also in the middle of a job: nobody is left to be told of it.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from queue import Queue


def main() -> None:
    # Whatever prints, only answers go to the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    folders: Queue[str] = Queue()
    threading.Thread(target=_read, args=(folders,), daemon=True).start()
    import torch

    from smt.training.cycle.execute import execute

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    while True:
        folder = folders.get()
        error = ""
        try:
            execute(Path(folder))
        except Exception:
            error = traceback.format_exc()
        answers.write(json.dumps({"folder": folder, "error": error}) + "\n")


def _read(folders: "Queue[str]") -> None:
    for line in sys.stdin:
        folders.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
