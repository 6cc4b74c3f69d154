"""Template -> template binary: torch.export of the serving function, AOTInductor, ONNX, self-check, publication.

    compile_template(load_template("template.yaml"), Registry("build/registry"))

The weights are inputs of the exported function, so the binary holds none: that is asserted on the exported program
and on the compiled package. Before anything is published, both compiled forms are run against the reference on
shapes that include the smallest ones.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._inductor.cpu_vec_isa import pick_vec_isa, valid_vec_isa_list
from torch.export import Dim, ExportedProgram

from smt.kernels import KERNEL_VERSION
from smt.serving.binary import INPUTS, BinaryRunner
from smt.serving.manifest import BINARY_FILE, ONNX_FILE, BinaryManifest, FileEntry
from smt.serving.registry import Registry, RegistryError
from smt.training.model import ServingFunction, TemplateNet, abi_hash, input_signature, serving_function
from smt.training.template import Template

Target = Literal["cpu"]
TARGETS: tuple[Target, ...] = ("cpu",)

# Largest difference of a probability from the reference that is published. The compiled code sums in another
# order than the reference; 1e-5 is a hundred times what that was seen to make.
MAX_DIFFERENCE = 1e-5

MAX_ROWS = 65536

# The compiler's name for no more than the instructions that a server checks for before it loads a binary.
_MARCH = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}

# (rows, table rows, ids, bags): the smallest of everything, odd sizes, no ids at all, more than one vector's width.
_CHECKED_SHAPES = ((1, 2, 0, 2), (1, 5, 1, 2), (3, 7, 10, 4), (17, 64, 0, 3), (200, 1000, 900, 333))


# Weights of the check: heads whose scores have this standard deviation over rows, reached in steps of 10 %.
_SPREAD, _SPREAD_STEPS, _SPREAD_ROWS = 0.1, 100, 64


class CompileError(RuntimeError):
    """The template could not be compiled, or its compiled form does not compute what the template says."""


@dataclass(frozen=True)
class BinaryInfo:
    """The outcome of `compile_template`."""

    manifest: BinaryManifest
    # False: the registry had this binary already, and nothing was done.
    compiled: bool
    seconds: float
    # Why a binary that was there was not kept; empty otherwise.
    replaced: str = ""

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


def compile_template(
    template: Template,
    registry: Registry,
    target: Target = "cpu",
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BinaryInfo:
    """Compiles the template for a target and publishes binary and ONNX graph, unless the registry has them.

    Args:
        force: compile also when the registry has a binary of this ABI, torch and kernel version.
        progress: called with the name of each step as it begins: export, compile, onnx, check, publish.

    Raises:
        CompileError: torch cannot export or compile it, or the result differs from the reference.
        RegistryError: the registry cannot be read or written.
    """
    if target not in TARGETS:
        raise CompileError(f"target {target!r}: expected {' or '.join(TARGETS)}")
    started = time.monotonic()
    say = progress or (lambda step: None)
    present, fault = _present(registry, template, target)
    if present is not None and not fault and not force:
        return BinaryInfo(present, False, time.monotonic() - started)
    function = serving_function(template).eval()
    with tempfile.TemporaryDirectory() as scratch:
        package, graph = Path(scratch) / BINARY_FILE, Path(scratch) / ONNX_FILE
        say("export")
        program = export_serving_function(template, function)
        say("compile")
        _compile(program, package)
        say("onnx")
        _write_onnx(program, graph)
        say("check")
        draft = _draft(template, function, target)
        draft["parity"] = _check(template, function, _unpublished(draft, package), graph)
        say("publish")
        manifest = registry.publish_binary(draft, {BINARY_FILE: package, ONNX_FILE: graph})
    return BinaryInfo(manifest, True, time.monotonic() - started, fault)


def export_serving_function(template: Template, function: ServingFunction) -> ExportedProgram:
    """The serving function as a graph of (weights, features), dynamic in rows, table rows, ids and bags.

    Raises CompileError when it cannot be exported or would hold weights.
    """
    rows = Dim("rows", min=1, max=MAX_ROWS)
    dynamic = {
        "slab": None,
        "table": {0: Dim("table_rows", min=2)},
        "dense": {0: rows},
        "ids": {0: Dim("n_ids", min=0)},
        "offsets": {0: Dim("bags_plus_1", min=3)},
        "bag_index": {0: rows},
    }
    # Different odd sizes, so that no dimension is taken for another or for a constant.
    example = example_inputs(template, 67, 1009, 503, 401)
    try:
        with _quiet():
            program = torch.export.export(function, example, dynamic_shapes=dynamic)
    except Exception as error:
        raise CompileError(f"template {template.name!r} cannot be exported: {error}") from error
    held = sorted({*program.state_dict, *program.constants})
    if held:
        raise CompileError(f"template {template.name!r} holds tensors of its own, which are no inputs: {held}")
    return program


def example_inputs(
    template: Template, rows: int, table_rows: int, ids: int, bags: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs of the serving function in their order: spread weights, random features, ragged bags (some empty)."""
    slots = template.slots
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randint(0, ids + 1, (bags - 1,), generator=generator).sort().values
    return (
        example_slab(template, seed),
        torch.randn(table_rows, slots.dim, generator=generator),
        torch.randn(rows, slots.dense, generator=generator),
        torch.randint(0, table_rows, (ids,), generator=generator),
        torch.cat([torch.tensor([0]), inner, torch.tensor([ids])]),
        torch.randint(0, bags, (rows, slots.categorical), generator=generator),
    )


def example_slab(template: Template, seed: int = 0) -> Tensor:
    """[elements] float32: initial weights, scaled up until scores differ from row to row.

    A fresh network answers 0.5 to everything, give or take a thousandth: forms that compute different things would
    agree on that. Each head's bias keeps its median score at 0.5: behind layer normalisation, the scaled logits of all
    rows may lie on one side, and would all end at 0 or 1.
    """
    function = serving_function(template).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        slab = function.layout.pack(dict(TemplateNet(template).named_parameters()))
        slots = template.slots
        features = (
            torch.randn(_SPREAD_ROWS, slots.dim),
            torch.randn(_SPREAD_ROWS, slots.dense),
            torch.arange(_SPREAD_ROWS),
            torch.arange(_SPREAD_ROWS + 1),
            torch.randint(0, _SPREAD_ROWS, (_SPREAD_ROWS, slots.categorical)),
        )
    with torch.no_grad():
        for _ in range(_SPREAD_STEPS):
            scores = function(slab, *features)
            if scores.std(dim=0).min() > _SPREAD:
                return slab
            function.layout.views(slab)["heads.out_bias"] -= scores.logit().median(dim=0).values
            slab = slab * 1.1
    raise CompileError(f"template {template.name!r}: some head answers the same whatever the features are")


def _present(registry: Registry, template: Template, target: str) -> tuple[BinaryManifest | None, str]:
    """The binary that the registry has, and what is wrong with it (empty: nothing)."""
    try:
        manifest = registry.binary(template.name, abi_hash(template), target)
        if manifest is None:
            return None, ""
        registry.verify_binary(manifest)
    except RegistryError as error:
        return None, str(error)
    if (manifest.torch, manifest.kernel_version) != (torch.__version__, KERNEL_VERSION):
        found = f"torch {manifest.torch}, kernel version {manifest.kernel_version}"
        return manifest, f"it was made with {found}; here is torch {torch.__version__}, {KERNEL_VERSION}"
    if not _runs_here(manifest.isa):
        return manifest, f"it was made for {manifest.isa}, which this machine does not have"
    return manifest, ""


def _isa() -> str:
    """The widest vector instructions that the compiler uses here: avx512, avx2, ...; "scalar" without any."""
    return (str(pick_vec_isa()).split() or ["scalar"])[0] if pick_vec_isa() else "scalar"


def _runs_here(isa: str) -> bool:
    return isa == "scalar" or any(isa in str(valid).split() for valid in valid_vec_isa_list())


def _compile(program: ExportedProgram, package: Path) -> None:
    # The number of OpenMP threads is baked in: a worker of the server computes on its own thread alone. The default
    # -march=native would use whatever this machine has, where the manifest promises to need no more than its `isa`.
    configs = {"cpp.threads": 1, "cpp.march": _MARCH.get(_isa())}
    try:
        with _quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=configs)
    except Exception as error:
        raise CompileError(f"AOTInductor cannot compile the template: {error}") from error


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    from smt.serving.onnx_ops import TRANSLATIONS

    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": ["probabilities"]}
    try:
        with _quiet():
            graph: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, custom_translation_table=TRANSLATIONS, **names
            )
            graph.save(str(path))
    except Exception as error:
        raise CompileError(f"the template cannot be exported to ONNX: {error}") from error


def _draft(template: Template, function: ServingFunction, target: str) -> dict[str, Any]:
    return {
        "template": {"name": template.name, "version": template.version},
        "abi_hash": abi_hash(template),
        "target": target,
        "isa": _isa(),
        "inputs": input_signature(template),
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["rows", template.tasks]}],
        "layout": function.layout.to_json(),
        "slab_elements": function.layout.elements,
        "dim": template.slots.dim,
        "tasks": template.tasks,
        "dense_slots": template.slots.dense,
        "categorical_slots": template.slots.categorical,
        "torch": torch.__version__,
        "kernel_version": KERNEL_VERSION,
    }


def _unpublished(draft: dict[str, Any], package: Path) -> BinaryRunner:
    manifest = BinaryManifest(**draft, files={BINARY_FILE: FileEntry(bytes=0, sha256="0" * 64)})
    return BinaryRunner(manifest, package)


def _check(template: Template, function: ServingFunction, binary: BinaryRunner, graph: Path) -> dict[str, float]:
    """Largest difference of each compiled form from the reference. Raises CompileError above MAX_DIFFERENCE."""
    constants = binary.constants()
    if constants:
        raise CompileError(f"the compiled package holds constants, and so may hold weights: {constants}")
    forms: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"aoti": lambda inputs: binary(*inputs)}
    # ONNX Runtime is no dependency of ours: where it is missing, the graph is written but not run.
    with contextlib.suppress(ImportError):
        forms["onnx"] = _onnx_form(graph)
    largest = dict.fromkeys(forms, 0.0)
    for seed, shape in enumerate(_CHECKED_SHAPES):
        inputs = example_inputs(template, *shape, seed=seed)
        with torch.no_grad():
            expected = function(*inputs)
        for name, form in forms.items():
            found = form(inputs)
            difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
            largest[name] = max(largest[name], difference)
            if not difference <= MAX_DIFFERENCE:
                what = dict(zip(("rows", "table_rows", "ids", "bags"), shape, strict=True))
                raise CompileError(
                    f"the {name} form differs from the reference by {difference:.3g} on {what}; "
                    f"at most {MAX_DIFFERENCE:g} is published"
                )
    return largest


def _onnx_form(graph: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, feeds)[0]))

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' notes (missing torchvision, folding that was skipped) off the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
