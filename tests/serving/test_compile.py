"""The template binary, its ONNX form and the reference compute the same; the binary holds no weights."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from smt.kernels import cpu
from smt.kernels.cpu import Precision
from smt.serving import compile as compile_module
from smt.serving import fused
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.compile import BinaryInfo, CompileError, compile_template, example_inputs, export_serving_function
from smt.serving.registry import Registry, RegistryError
from smt.training.model import REFERENCE_INPUTS, ServingFunction, TemplateNet, abi_hash, serving_function
from smt.training.template import Template, load_template
from tests.serving.support import TEMPLATE_YAML
from tests.training.support import replaced

Compiled = tuple[Path, BinaryInfo, list[str]]

BF16 = compile_module.MAX_DIFFERENCE["bf16"]


def score(binary: BinaryRunner, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The binary on the reference's inputs."""
    slab, table, *features = inputs
    return binary.score_tensors(Weights(slab, table), *features)


@pytest.fixture(scope="module")
def onnx_session(compiled: Compiled) -> onnxruntime.InferenceSession:
    folder, info, _ = compiled
    path = Registry(folder).fetch_binary_file(info.manifest, "model.onnx", folder)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("rows", "table_rows", "ids", "bags"),
    [
        (1, 2, 0, 2),
        (1, 2, 1, 2),
        (1, 1000, 0, 3),
        (2, 3, 5, 2),
        (5, 7, 1, 11),
        (31, 123, 123, 37),
        (64, 50, 640, 449),
        (257, 1009, 3001, 1800),
        (4096, 17, 100, 28673),
    ],
)
def test_binary_onnx_and_reference_agree(
    runner: BinaryRunner,
    onnx_session: onnxruntime.InferenceSession,
    template: Template,
    rows: int,
    table_rows: int,
    ids: int,
    bags: int,
) -> None:
    inputs = example_inputs(template, rows, table_rows, ids, bags, seed=rows)
    with torch.no_grad():
        expected = serving_function(template).eval()(*inputs).numpy()
    served = score(runner, inputs).numpy()
    feeds = {name: tensor.numpy() for name, tensor in zip(REFERENCE_INPUTS, inputs, strict=True)}
    portable = onnx_session.run(None, feeds)[0]
    assert expected.shape == served.shape == portable.shape == (rows, template.tasks)
    assert expected.dtype == served.dtype == portable.dtype == np.float32
    np.testing.assert_allclose(served, expected, rtol=0, atol=BF16)
    np.testing.assert_allclose(portable, expected, rtol=1e-4, atol=2e-5)
    assert rows < 3 or expected.std(0).min() > 0.005  # what is compared does depend on the row


def test_onnx_of_sum_pooling(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE_YAML.replace("pooling: mean", "pooling: sum"))
    template = load_template(path)
    function = serving_function(template).eval()
    compile_module._write_onnx(export_serving_function(template, function), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for ids in (0, 1, 300):
        inputs = example_inputs(template, 33, 20, ids, 71, seed=3)
        with torch.no_grad():
            expected = function(*inputs).numpy()
        found = session.run(
            None, {name: tensor.numpy() for name, tensor in zip(REFERENCE_INPUTS, inputs, strict=True)}
        )[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_template_without_cross_layers_and_experts(tmp_path: Path) -> None:
    """Dot interaction, shared bottom and layer normalisation: the compiled forms agree with the reference too."""
    path = tmp_path / "template.yaml"
    changes = {
        "units: [16]}": "units: [16, 4], layer_norm: true}",
        "{type: cross_low_rank, layers: 2, rank: 8}": "{type: dot}",
        "units: [32, 16]}": "units: [32, 16], layer_norm: true, activation: gelu}",
        "{type: mmoe, count: 2, units: [8]}": "{type: shared_bottom}",
    }
    path.write_text(replaced(TEMPLATE_YAML, changes))
    template = load_template(path)
    registry = Registry(tmp_path / "registry")
    # Compiling checks both forms on several shapes and publishes nothing that differs.
    manifest = compile_template(template, registry).manifest
    assert set(manifest.parity) == {"aoti", "onnx"}
    binary = BinaryRunner.load(registry, template.name, abi_hash(template))
    assert binary.constants() == []
    inputs = example_inputs(template, 37, 50, 640, 449, seed=7)
    with torch.no_grad():
        expected = serving_function(template).eval()(*inputs)
    torch.testing.assert_close(score(binary, inputs), expected, rtol=0, atol=BF16)
    assert expected.std(0).min() > 0.005


def test_reference_is_the_training_forward(template: Template) -> None:
    """The serving function with a packed slab is TemplateNet with the same parameters and bags pooled by hand."""
    torch.manual_seed(5)
    net = TemplateNet(template).eval()
    _, table, dense, ids, offsets, bag_index = example_inputs(template, 9, 40, 77, 23, seed=5)
    slab = serving_function(template).layout.pack(dict(net.named_parameters()))
    bags = [table[ids[a:b]].mean(0) if b > a else table.new_zeros(4) for a, b in itertools.pairwise(offsets)]
    with torch.no_grad():
        expected = torch.sigmoid(net(dense, torch.stack(bags)[bag_index]))
        found = serving_function(template).eval()(slab, table, dense, ids, offsets, bag_index)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_scores_follow_the_weights(runner: BinaryRunner, template: Template) -> None:
    """One loaded binary serves any weights: nothing of the first call stays."""
    first = example_inputs(template, 8, 100, 50, 57, seed=1)
    other = example_inputs(template, 8, 300, 50, 57, seed=2)
    mixed = (other[0], other[1], *first[2:])
    before = score(runner, first)
    function = serving_function(template).eval()
    with torch.no_grad():
        torch.testing.assert_close(score(runner, mixed), function(*mixed), rtol=0, atol=BF16)
    assert not torch.allclose(score(runner, mixed), before, atol=2 * BF16)
    assert torch.equal(score(runner, first), before)


def test_rows_of_many_scenarios_in_one_call(runner: BinaryRunner, template: Template) -> None:
    """An arena of three scenarios, tables of their own: each block of rows gets what a call of its own gets."""
    scenarios = [example_inputs(template, 16 * n, 50 * n, 40 * n, 31, seed=n) for n in (1, 2, 3)]
    alone = torch.cat([score(runner, inputs) for inputs in scenarios])
    slabs, tables, dense, ids, offsets, bag_index = zip(*scenarios, strict=True)
    arena = torch.stack([runner.pack(slab) for slab in slabs])
    block_slot = torch.tensor([0, 1, 1, 2, 2, 2], dtype=torch.int32)
    base = torch.tensor([0, 50, 150])
    ends = torch.cumsum(torch.tensor([0, *(len(part) for part in ids)]), 0)
    bags = torch.cumsum(torch.tensor([0, *(len(part) - 1 for part in offsets)]), 0)
    starts = [part[:-1] + end for part, end in zip(offsets, ends, strict=False)]
    together = runner(
        arena,
        block_slot,
        torch.cat(tables),
        base,
        torch.cat(dense),
        torch.cat(ids),
        torch.cat([*starts, ends[-1:]]),
        torch.cat([part + bag for part, bag in zip(bag_index, bags, strict=False)]),
    )
    assert torch.equal(together, alone)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_precisions(compiled: Compiled, template: Template, tmp_path: Path, precision: Precision) -> None:
    """The same op with another program: asking for another precision compiles anew."""
    shutil.copytree(compiled[0] / "templates", tmp_path / "templates")
    info = compile_template(template, Registry(tmp_path), precision=precision)
    assert info.compiled
    assert f"it computes in bf16; {precision} was asked for" in info.replaced
    assert info.manifest.precision == precision
    assert info.manifest.parity["aoti"] <= compile_module.MAX_DIFFERENCE[precision]


def test_binary_holds_no_weights(compiled: Compiled, runner: BinaryRunner, template: Template) -> None:
    folder, info, _ = compiled
    assert runner.constants() == []
    package = Registry(folder).fetch_binary_file(info.manifest, "model.pt2", folder)
    slab = serving_function(template).layout.elements * 4
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        assert not [name for name in names if "constants" in name or "weights" in name]
        [library] = [name for name in names if name.endswith(".so")]
        code = archive.read(library)
    # No parameter of a freshly initialised net is in there either.
    assert example_inputs(template, 1, 2, 0, 2)[0].numpy().tobytes()[: slab // 4] not in code
    graph = onnx.load(Registry(folder).fetch_binary_file(info.manifest, "model.onnx", folder))
    assert sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer) < 200


def test_manifest(compiled: Compiled, template: Template) -> None:
    folder, info, steps = compiled
    assert info.compiled
    assert steps == ["export", "compile", "onnx", "check", "publish"]
    manifest = info.manifest
    assert Registry(folder).binaries() == [manifest]
    Registry(folder).verify_binary(manifest)
    assert manifest.abi_hash == abi_hash(template)
    assert (manifest.tasks, manifest.dense_slots, manifest.categorical_slots, manifest.dim) == (3, 5, 7, 4)
    assert [entry.name for entry in manifest.inputs] == list(fused.INPUTS)
    assert manifest.slab_elements * 4 == serving_function(template).layout.bytes
    assert manifest.torch == torch.__version__
    assert set(manifest.parity) == {"aoti", "onnx"}
    assert manifest.parity["onnx"] <= compile_module.MAX_DIFFERENCE["fp32"]
    assert manifest.parity["aoti"] <= BF16
    assert (manifest.precision, manifest.kernel_abi, manifest.isa) == ("bf16", cpu.FORMAT, "scalar")
    assert manifest.program == fused.tile_program(template, "bf16").values()


def test_one_package_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AOTInductor's cache is shared by the processes of a machine, and written in place."""
    monkeypatch.setattr(compile_module, "cache_dir", lambda: str(tmp_path / "cache"))
    began, go_on, order = threading.Event(), threading.Event(), []

    def package(program: object, *, package_path: str, inductor_configs: object) -> None:
        order.append(f"{package_path} begins")
        if package_path == "first":
            began.set()
            assert go_on.wait(30)
        order.append(f"{package_path} ends")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    program: Any = None
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compile_module.compile_package, program, Path("first"))
        assert began.wait(30)
        second = pool.submit(compile_module.compile_package, program, Path("second"))
        with pytest.raises(TimeoutError):
            second.result(0.2)
        go_on.set()
        first.result(30)
        second.result(30)
    assert order == ["first begins", "first ends", "second begins", "second ends"]


def test_compiled_once(compiled: Compiled, template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, info, _ = compiled

    def never(*arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compile_module, "compile_package", never)
    again = compile_template(template, Registry(folder))
    assert not again.compiled
    assert again.manifest == info.manifest
    with pytest.raises(AssertionError, match="compiled again"):
        compile_template(template, Registry(folder), force=True)


@pytest.mark.parametrize("damage", ["truncated", "torch", "kernel ABI", "packed weights"])
def test_a_binary_that_cannot_be_used_is_compiled_again(
    compiled: Compiled, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Only the decision is tested here: the compiler is replaced by the first binary's files."""
    folder, _, _ = compiled
    shutil.copytree(folder / "templates", tmp_path / "templates")
    [package] = (tmp_path / "templates").rglob("model.pt2")
    original = package.read_bytes()
    graph = package.with_name("model.onnx").read_bytes()
    manifest = package.with_name("manifest.json")
    if damage == "truncated":
        package.write_bytes(original[:1000])
    elif damage == "torch":
        manifest.write_text(manifest.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0.0"'))
        manifest.write_text(manifest.read_text().replace(f'"torch":"{torch.__version__}"', '"torch":"1.0.0"'))
    else:
        change = {"kernel ABI": {"kernel_abi": 7}, "packed weights": {"packed_bytes": 64}}[damage]
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    monkeypatch.setattr(compile_module, "compile_package", lambda program, path, configs: path.write_bytes(original))
    monkeypatch.setattr(compile_module, "_write_onnx", lambda program, path: path.write_bytes(graph))
    again = compile_template(template, Registry(tmp_path))
    assert again.compiled
    reason = {"truncated": "1000 bytes; the manifest says", "torch": "torch 1.0.0", "kernel ABI": "kernel ABI 7"}
    reason["packed weights"] = "packed weights have 64 bytes"
    assert reason[damage] in again.replaced
    Registry(tmp_path).verify_binary(again.manifest)
    assert package.read_bytes() == original


def test_a_wrong_binary_is_not_published(compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary of a template with other pooling has the same inputs and other scores."""
    folder, info, _ = compiled
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE_YAML.replace("pooling: mean", "pooling: sum"))
    package = Registry(folder).fetch_binary_file(info.manifest, "model.pt2", folder)
    graph = Registry(folder).fetch_binary_file(info.manifest, "model.onnx", folder)
    monkeypatch.setattr(compile_module, "compile_package", lambda program, out, configs: shutil.copy(package, out))
    monkeypatch.setattr(compile_module, "_write_onnx", lambda program, out: shutil.copy(graph, out))
    registry = Registry(tmp_path / "registry")
    with pytest.raises(CompileError, match=r"the aoti form differs from the reference by .* on \{'rows'"):
        compile_template(load_template(path), registry)
    assert registry.binaries() == []


def test_weights_inside_the_function_are_refused(template: Template) -> None:
    class WithWeights(ServingFunction):
        def __init__(self, template: Template) -> None:
            super().__init__(template)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(
            self,
            slab: torch.Tensor,
            table: torch.Tensor,
            dense: torch.Tensor,
            ids: torch.Tensor,
            offsets: torch.Tensor,
            bag_index: torch.Tensor,
        ) -> torch.Tensor:
            return super().forward(slab, table, dense, ids, offsets, bag_index) * self.scale

    with pytest.raises(CompileError, match=r"holds tensors of its own, which are no inputs: \['scale'\]"):
        export_serving_function(template, WithWeights(template).eval())


def test_missing_binary_is_explained(compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no binary of template 'small' .*there are: none\. `smt compile"):
        BinaryRunner.load(Registry(tmp_path), "small", "0" * 64)
    with pytest.raises(RegistryError, match=r"there are: small 1\.0\.0 \(ABI [0-9a-f]{12}\)"):
        BinaryRunner.load(Registry(compiled[0]), "small", "0" * 64)
