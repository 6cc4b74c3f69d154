"""Template -> template binary: torch.export of its function, AOTInductor, ONNX, self-check, publication.

    compile_template(load_template("template.yaml"), Registry("build/registry"))

The binary is the template as one fused op of smt.kernels.cpu, which picks the CPU's best instructions when it runs
("fused"); where a component has no tile program, it is the reference compiled by Inductor ("views", see views.py). The
ONNX graph is the reference. The weights are inputs of both, so they hold none: that is asserted on the exported
programs and on the compiled package. Before anything is published, both forms are run against the reference on shapes
that include the smallest ones.
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.export import Dim, ExportedProgram

from smt.kernels import KERNEL_VERSION, cpu
from smt.kernels.cpu import Precision, TileProgram
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.fused import FusedFunction, fused_signature, tile_program, without_tile_program
from smt.serving.manifest import BINARY_FILE, ONNX_FILE, BinaryManifest, FileEntry
from smt.serving.quiet import quiet
from smt.serving.registry import Registry, RegistryError
from smt.serving.storage import LocalStorage
from smt.serving.views import INDUCTOR_CONFIGS, ISA
from smt.training.components.tower import TowerConfig
from smt.training.model import (
    REFERENCE_INPUTS,
    ServingFunction,
    TemplateNet,
    abi_hash,
    input_signature,
    serving_function,
    slab_layout,
)
from smt.training.template import Template

Target = Literal["cpu"]
TARGETS: tuple[Target, ...] = ("cpu",)

# Largest difference of a probability from the reference that is published. fp32 sums in another order: 1e-5 is a
# hundred times what that was seen to make. bf16 rounds weights and activations to 8 bits, int8 to 7 bits of their row's
# largest: that makes up to a third of these bounds on random weights, which are spread wider than trained ones. Whether
# it harms a trained model is the publish gate's to say.
MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 2e-2, "int8": 8e-2}

MAX_ROWS = 65536

# What is generated around the fused op is a few lines that check and pass tensors on: plain code, so that the binary
# runs on every CPU of the architecture, with no threads of its own.
_PLAIN: dict[str, str | int | None] = {
    "cpp.threads": 1,
    "cpp.simdlen": 1,
    "cpp.march": "x86-64" if platform.machine() == "x86_64" else None,
}

# Different odd sizes, so that no dimension is taken for another or for a constant.
_EXAMPLE = (67, 1009, 503, 401)
# (rows, table rows, ids, bags): the smallest of everything, odd sizes, no ids at all, more than one vector's width.
_CHECKED_SHAPES = ((1, 2, 0, 2), (1, 5, 1, 2), (3, 7, 10, 4), (17, 64, 0, 3), (200, 1000, 900, 333))


# Weights of the check: heads whose logits have this standard deviation over rows.
_LOGIT_STD, _LOGIT_ROWS = 0.5, 64
# Where they cannot be scaled exactly, between these.
_LEAST_STD, _MOST_STD = 0.02, 2.0
_CONSTANT = "some head answers the same whatever the features are"
# Tables of the check: a bag's few rows add up to about what one row of deviation 1 is, for which logits are scaled.
_TABLE_STD = 0.5


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
    # The components for whose sake the template is compiled as views; empty when it is fused.
    unfused: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


def compile_template(
    template: Template,
    registry: Registry,
    target: Target = "cpu",
    *,
    precision: Precision | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BinaryInfo:
    """Compiles the template for a target and publishes binary and ONNX graph, unless the registry has them.

    Args:
        precision: what the kernels multiply in; None is bf16, or fp32 where views are compiled, which have no other.
            A registry holds one binary per ABI and target: another precision replaces it.
        force: compile also when the registry has a binary of this ABI, torch and kernel version.
        progress: called with the name of each step as it begins: export, compile, onnx, check, publish.

    Raises:
        CompileError: torch cannot export or compile it, the result differs from the reference, or views are asked for
            in another precision than fp32.
        RegistryError: the registry cannot be read or written.
    """
    if target not in TARGETS:
        raise CompileError(f"target {target!r}: expected {' or '.join(TARGETS)}")
    started = time.monotonic()
    say = progress or (lambda step: None)
    unfused = tuple(without_tile_program(template))
    chosen = _precision(template, precision, unfused)
    program = None if unfused else tile_program(template, chosen)
    present, fault = _present(registry, template, target, chosen, _packed_bytes(template, program))
    if present is not None and not fault and not force:
        return BinaryInfo(present, False, time.monotonic() - started, unfused=unfused)
    function = serving_function(template).eval()
    with tempfile.TemporaryDirectory() as scratch:
        package, graph = Path(scratch) / BINARY_FILE, Path(scratch) / ONNX_FILE
        say("export")
        reference = export_serving_function(template, function)
        exported = reference if program is None else export_fused_function(template, program)
        say("compile")
        compile_package(exported, package, _PLAIN if program else INDUCTOR_CONFIGS)
        say("onnx")
        _write_onnx(reference, graph)
        say("check")
        draft = _draft(template, program, target)
        draft["parity"] = _check(template, function, _unpublished(draft, package), graph)
        say("publish")
        manifest = registry.publish_binary(draft, {BINARY_FILE: package, ONNX_FILE: graph})
    return BinaryInfo(manifest, True, time.monotonic() - started, fault, unfused)


def _precision(template: Template, asked: Precision | None, unfused: Sequence[str]) -> Precision:
    if not unfused:
        return asked or "bf16"
    if asked not in (None, "fp32"):
        raise CompileError(
            f"template {template.name!r} in {asked}: {', '.join(unfused)} has no tile program, so the template is "
            f"compiled by Inductor, in fp32 alone; leave the precision out, or use components that have one"
        )
    return "fp32"


def export_serving_function(template: Template, function: ServingFunction) -> ExportedProgram:
    """The reference as a graph of (weights, features), dynamic in rows, table rows, ids and bags.

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
    return _export(template, function, example_inputs(template, *_EXAMPLE), dynamic)


def export_fused_function(template: Template, program: TileProgram) -> ExportedProgram:
    """The fused form as a graph of (packed weights, features), dynamic in slots, pool rows, rows, ids and bags.

    Raises CompileError when it cannot be exported or would hold weights.
    """
    slots, rows = Dim("slots", min=1), Dim("rows", min=1, max=MAX_ROWS)
    dynamic = {
        "arena": {0: slots},
        "block_slot": {0: Dim("blocks", min=1)},
        "pool": {0: Dim("pool_rows", min=2)},
        "pool_base": {0: slots},
        "dense": {0: rows},
        "ids": {0: Dim("n_ids", min=0)},
        "offsets": {0: Dim("bags_plus_1", min=3)},
        "bag_index": {0: rows},
    }
    slab, table, *features = example_inputs(template, *_EXAMPLE)
    arena = cpu.pack(slab, program).repeat(3, 1)
    example = (arena, cpu.block_slots(len(features[0])), table, torch.zeros(3, dtype=torch.int64), *features)
    return _export(template, FusedFunction(program), example, dynamic)


def _export(
    template: Template, function: torch.nn.Module, example: tuple[Tensor, ...], dynamic: dict[str, Any]
) -> ExportedProgram:
    try:
        with quiet():
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
        _TABLE_STD * torch.randn(table_rows, slots.dim, generator=generator),
        torch.randn(rows, slots.dense, generator=generator),
        torch.randint(0, table_rows, (ids,), generator=generator),
        torch.cat([torch.tensor([0]), inner, torch.tensor([ids])]),
        torch.randint(0, bags, (rows, slots.categorical), generator=generator),
    )


def example_slab(template: Template, seed: int = 0) -> Tensor:
    """[elements] float32: random weights whose scores differ from row to row, and are not near 0 or 1.

    A fresh network answers 0.5 to everything, give or take a thousandth: forms that compute different things would
    agree on that. One that is merely scaled up answers 0 and 1, and rounding alone moves some of its scores far. So
    layers are drawn to keep the variance of their input, and each head's logits are scaled.
    """
    function, slots = serving_function(template).eval(), template.slots
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = TemplateNet(template, serving=True)
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 and not name.startswith("interaction."):
                parameter.normal_(0, (2 / parameter.shape[-1]) ** 0.5)
        slab = function.layout.pack(dict(net.named_parameters()))
        features = (
            torch.randn(_LOGIT_ROWS, slots.dim, dtype=torch.float64),
            torch.randn(_LOGIT_ROWS, slots.dense, dtype=torch.float64),
            torch.arange(_LOGIT_ROWS),
            torch.arange(_LOGIT_ROWS + 1),
            torch.randint(0, _LOGIT_ROWS, (_LOGIT_ROWS, slots.categorical)),
        )
        weights = function.layout.views(slab)
        # Before they are scaled, scores may be so near 0 or 1 that a float32 is.
        logits = function(slab.double(), *features).logit()
        if not isinstance(template.components.heads, TowerConfig) or template.components.branches:
            # Logits that are not linear in the last layer: all matrices shrink until they vary little enough.
            while not logits.std(dim=0).max() < _MOST_STD:
                for weight in weights.values():
                    weight.mul_(0.8 if weight.dim() > 1 else 1)
                logits = function(slab.double(), *features).logit()
            if logits.std(dim=0).min() < _LEAST_STD:
                raise CompileError(f"template {template.name!r}: {_CONSTANT}")
            return slab
        scale = (_LOGIT_STD / logits.std(dim=0)).float()
        if not torch.isfinite(scale).all():
            raise CompileError(f"template {template.name!r}: {_CONSTANT}")
        weights["heads.out_weight"].mul_(scale.unsqueeze(1))
        bias = weights["heads.out_bias"]
        bias.copy_((bias - logits.mean(dim=0).float()) * scale)
    return slab


def _packed_bytes(template: Template, program: TileProgram | None) -> int:
    return slab_layout(template).bytes if program is None else cpu.packed_bytes(program)


def _present(
    registry: Registry, template: Template, target: str, precision: Precision, packed_bytes: int
) -> tuple[BinaryManifest | None, str]:
    """The binary that the registry has, and what is wrong with it (empty: nothing)."""
    try:
        manifest = registry.binary(template.name, abi_hash(template), target)
        if manifest is None:
            return None, ""
        registry.verify_binary(manifest)
    except RegistryError as error:
        return None, str(error)
    if manifest.precision != precision:
        return manifest, f"it computes in {manifest.precision}; {precision} was asked for"
    made = (manifest.torch, manifest.kernel_version, manifest.kernel_abi)
    if made != (torch.__version__, KERNEL_VERSION, cpu.FORMAT):
        found = f"torch {manifest.torch}, kernel version {manifest.kernel_version}, kernel ABI {manifest.kernel_abi}"
        return manifest, (
            f"it was made with {found}; here is torch {torch.__version__}, {KERNEL_VERSION}, {cpu.FORMAT}"
        )
    if manifest.packed_bytes != packed_bytes:
        return manifest, f"its packed weights have {manifest.packed_bytes} bytes; the kernels here need {packed_bytes}"
    return manifest, ""


def compile_package(
    program: ExportedProgram, package: Path, configs: Mapping[str, str | int | None] = MappingProxyType(_PLAIN)
) -> None:
    """AOTInductor's package (.pt2) of an exported program. Raises CompileError.

    One at a time on a machine: AOTInductor names the files in its cache by their content and writes them in place, so
    that of two processes which compile one template at once, one packs what the other has not written yet.
    """
    try:
        with quiet(), LocalStorage(Path(cache_dir())).lock(""):
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=dict(configs))
    except Exception as error:
        raise CompileError(f"AOTInductor cannot compile the template: {error}") from error


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    from smt.serving.onnx_ops import TRANSLATIONS

    names: dict[str, Any] = {"input_names": list(REFERENCE_INPUTS), "output_names": ["probabilities"]}
    try:
        with quiet():
            graph: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, custom_translation_table=TRANSLATIONS, **names
            )
            graph.save(str(path))
    except Exception as error:
        raise CompileError(f"the template cannot be exported to ONNX: {error}") from error


def _draft(template: Template, program: TileProgram | None, target: str) -> dict[str, Any]:
    layout = slab_layout(template)
    packed_bytes = _packed_bytes(template, program)
    return {
        "template": {"name": template.name, "version": template.version},
        "abi_hash": abi_hash(template),
        "target": target,
        "kind": "views" if program is None else "fused",
        "isa": ISA if program is None else "scalar",
        "inputs": input_signature(template) if program is None else fused_signature(template, packed_bytes),
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["rows", template.tasks]}],
        "layout": layout.to_json(),
        "slab_elements": layout.elements,
        "dim": template.slots.dim,
        "tasks": template.tasks,
        "dense_slots": template.slots.dense,
        "categorical_slots": template.slots.categorical,
        "torch": torch.__version__,
        "kernel_version": KERNEL_VERSION,
        "kernel_abi": cpu.FORMAT,
        "precision": "fp32" if program is None else program.precision,
        "program": [] if program is None else program.values(),
        "packed_bytes": packed_bytes,
    }


def _unpublished(draft: dict[str, Any], package: Path) -> BinaryRunner:
    manifest = BinaryManifest(**draft, files={BINARY_FILE: FileEntry(bytes=0, sha256="0" * 64)})
    return BinaryRunner(manifest, package)


def _check(template: Template, function: ServingFunction, binary: BinaryRunner, graph: Path) -> dict[str, float]:
    """Largest difference of each form from the reference. Raises CompileError above MAX_DIFFERENCE."""
    constants = binary.constants()
    if constants:
        raise CompileError(f"the compiled package holds constants, and so may hold weights: {constants}")

    def aoti(inputs: Sequence[Tensor]) -> Tensor:
        slab, table, *features = inputs
        return binary.score_tensors(Weights(slab, table), *features)

    forms: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"aoti": aoti}
    allowed = {"aoti": MAX_DIFFERENCE[binary.manifest.precision], "onnx": MAX_DIFFERENCE["fp32"]}
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
            if not difference <= allowed[name]:
                what = dict(zip(("rows", "table_rows", "ids", "bags"), shape, strict=True))
                raise CompileError(
                    f"the {name} form differs from the reference by {difference:.3g} on {what}; "
                    f"at most {allowed[name]:g} is published"
                )
    return largest


def _onnx_form(graph: Path) -> Callable[[Sequence[Tensor]], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(REFERENCE_INPUTS, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, feeds)[0]))

    return run
