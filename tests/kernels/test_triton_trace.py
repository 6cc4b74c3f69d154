"""torch.compile and torch.export see through the Triton ops, as on a GPU (triton_trace.py does it, on the CPU)."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_only_scratch_and_output_are_written() -> None:
    """Both directions of each op are in the graphs with the rows as a symbol, and no input would be copied."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "triton_trace.py"],
        env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    forward, backward = [["s_ptr", "y_ptr"]], [["s_ptr", "y_ptr"], ["out_ptr"]]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "mlp": [forward, backward],
        "cross": [forward, backward],
        "rank": [forward],
        "exported": 6,  # rows, row blocks, table rows, slots, ids, bags
    }
