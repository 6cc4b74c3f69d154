"""Generates the Python messages and stubs of protos/ into a folder of the package.

Run by the build as ``python -m smt.serving.protos.generate PROTO_DIR OUT_DIR`` (or as a plain script). protoc writes
``from smt.v1 import prediction_pb2``, and a path that mirrors the proto's; the stubs live flat in
``smt.serving.protos`` instead, so that the package ``smt`` has no folder the build owns. Hence the rewrite.
The Open Inference Protocol's messages also get a descriptor pool of their own: every client library of that protocol
brings messages of the same full names, which the default pool of a process takes only once.

grpc_tools is imported only when generating: a built installation does not need it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

PROTOS = ("smt/v1/prediction.proto", "smt/v1/control.proto", "inference/grpc_service.proto")

# The generators' output does not pass a strict type check; what imports it is checked against it all the same.
_HEADER = "# mypy: ignore-errors\n"
_IMPORT = re.compile(r"^from (?:smt\.v1|inference) import (\w+_pb2)", re.MULTILINE)
_POOL = "_descriptor_pool.Default()"
_OWN_POOL = "_descriptor_pool.DescriptorPool()"


def generate(proto_dir: Path, out_dir: Path) -> list[Path]:
    """Writes ``NAME_pb2.py``, ``NAME_pb2.pyi`` and ``NAME_pb2_grpc.py`` for every proto; returns their paths.

    A file whose content did not change keeps its time stamp. Raises FileNotFoundError when a proto is missing and
    RuntimeError when protoc fails (its own message is on stderr).
    """
    from grpc_tools import protoc

    for proto in PROTOS:
        if not (proto_dir / proto).is_file():
            raise FileNotFoundError(f"{proto_dir / proto}: no such proto file")
    # grpc_tools carries the well-known types; a proto of ours may import them.
    well_known = Path(protoc.__file__).parent / "_proto"
    written = []
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")]
        status = protoc.main(["protoc", f"-I{proto_dir}", f"-I{well_known}", *outputs, *PROTOS])
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status} for {', '.join(PROTOS)}")
        for source in sorted(Path(scratch).rglob("*.py*")):
            text = _HEADER + _IMPORT.sub(r"from smt.serving.protos import \1", source.read_text())
            if source.parent.name == "inference" and source.name.endswith("_pb2.py"):
                if text.count(_POOL) != 1:
                    raise RuntimeError(f"{source.name}: expected {_POOL!r} once in what protoc wrote")
                text = text.replace(_POOL, _OWN_POOL)
            target = out_dir / source.name
            if not target.is_file() or target.read_text() != text:
                target.write_text(text)
            written.append(target)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: generate.py PROTO_DIR OUT_DIR")
    for path in generate(Path(sys.argv[1]), Path(sys.argv[2])):
        print(path)
