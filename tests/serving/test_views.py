"""Templates with a component that no tile program computes: compiled by Inductor as views of one slab, and served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import Client
from smt.serving.compile import MAX_DIFFERENCE, BinaryInfo, CompileError, compile_template, example_inputs
from smt.serving.fused import tile_program, without_tile_program
from smt.serving.registry import Registry
from smt.training.model import REFERENCE_INPUTS, abi_hash, serving_function, slab_layout
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer, copy_binaries, wait_for
from tests.training.components.variants import OTHERS, VARIANTS, with_components

# One of every slot: a compile takes half a minute, so that there is one of them.
CHANGES = (
    VARIANTS["finalmlp"]
    | OTHERS["ple"]
    | OTHERS["esmm"]
    | OTHERS["autodis"]
    | OTHERS["pepnet"]
    | OTHERS["din"]
    | {"branches": [{"type": "linear"}, {"type": "fm"}]}
)
UNFUSED = [
    "gates: pepnet",
    "sequence: din",
    "numeric: autodis",
    "interaction: finalmlp",
    "experts: ple",
    "heads: esmm",
    "branches[0]: linear",
    "branches[1]: fm",
]


@pytest.fixture(scope="module")
def views(template: Template) -> Template:
    return with_components(template, CHANGES)


@pytest.fixture(scope="module")
def made(views: Template, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BinaryInfo]:
    folder = tmp_path_factory.mktemp("views")
    return folder, compile_template(views, Registry(folder))


def test_each_component_is_named_that_has_no_tile_program(template: Template, views: Template) -> None:
    assert without_tile_program(template) == []
    assert without_tile_program(views) == UNFUSED
    with pytest.raises(ValueError, match="template 'small': no tile program for gates: pepnet, sequence: din, numeric"):
        tile_program(views, "fp32")


def test_views_have_one_precision(views: Template, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"template 'small' in bf16: .*interaction: finalmlp.*leave the precision"):
        compile_template(views, Registry(tmp_path), precision="bf16")
    assert Registry(tmp_path).binaries() == []


def test_binary_of_views_computes_the_reference(views: Template, made: tuple[Path, BinaryInfo]) -> None:
    folder, info = made
    manifest = info.manifest
    assert (manifest.kind, manifest.precision, manifest.program) == ("views", "fp32", [])
    assert manifest.packed_bytes == slab_layout(views).bytes
    assert [entry.name for entry in manifest.inputs] == list(REFERENCE_INPUTS)
    assert list(info.unfused) == UNFUSED
    assert set(manifest.parity) == {"aoti", "onnx"}
    runner = BinaryRunner.load(Registry(folder), views.name, abi_hash(views))
    assert runner.constants() == []
    for seed, shape in enumerate([(1, 2, 0, 2), (37, 50, 640, 449), (1000, 17, 100, 7001)]):
        inputs = example_inputs(views, *shape, seed=seed)
        slab, table, *features = inputs
        with torch.no_grad():
            expected = serving_function(views).eval()(*inputs)
        found = runner.score_tensors(Weights(slab, table), *features)
        torch.testing.assert_close(found, expected, rtol=0, atol=MAX_DIFFERENCE["fp32"])
        assert len(found) == 1 or found.std(0).min() > 1e-3


def test_compiled_once(views: Template, made: tuple[Path, BinaryInfo]) -> None:
    again = compile_template(views, Registry(made[0]))
    assert not again.compiled
    assert list(again.unfused) == UNFUSED


def test_served_and_swapped(views: Template, made: tuple[Path, BinaryInfo], tmp_path: Path) -> None:
    """Two scenarios in one call of the client and one queue each; a swap changes one of them alone."""
    registry = Registry(copy_binaries(made[0], tmp_path / "registry"))
    FEED.publish(registry, views, seed=1)
    SEARCH.publish(registry, views, seed=2)
    rows = [FEED.rows(70, seed=1), SEARCH.rows(70, seed=2)]

    def agree(found: Sequence[dict[str, np.ndarray]], seeds: Sequence[int]) -> bool:
        expected = [case.reference(views, s, r) for case, s, r in zip((FEED, SEARCH), seeds, rows, strict=True)]
        return all(
            np.allclose(prediction[task], scores, rtol=0, atol=2e-5)
            for prediction, reference in zip(found, expected, strict=True)
            for task, scores in reference.items()
        )

    with RunningServer(tmp_path / "registry", tmp_path) as server, Client(server.target, timeout=60) as client:

        def scores() -> list[dict[str, np.ndarray]]:
            found = [client.predict(case.name, part) for case, part in zip((FEED, SEARCH), rows, strict=True)]
            return [
                {task: prediction[task] for task in case.tasks}
                for case, prediction in zip((FEED, SEARCH), found, strict=True)
            ]

        assert agree(scores(), (1, 2))
        SEARCH.publish(registry, views, seed=5)
        wait_for(lambda: agree(scores(), (1, 5)), "the new version of search")
        assert server.metric("smt_requests_total", scenario="search", code="OK") >= 2
