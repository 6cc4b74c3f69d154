"""Every peer computes the template's function before anybody measures how fast it does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.measure import difference
from bench.ours import FusedEngine
from bench.peer_build import ArtefactCache, NotBuilt, Problem
from bench.peer_net import PeerNet
from bench.peers import PEERS
from bench.result import device
from bench.shapes import Shape, random_arena, random_batch, random_table, reference
from smt.kernels.cpu import Precision
from smt.training.template import load_template
from tests.bench.support import KINDS, tiny_shape
from tests.serving.support import TEMPLATE_YAML

ALLOWED: dict[str, float] = {"fp32": 1e-5, "bf16": 3e-2, "int8": 0.15}
ISA = device()["isa"]
# Without VNNI, ONNX Runtime adds pairs of products in 16 bits, which saturate.
PEER_INT8 = ALLOWED["int8"] if "avx512_vnni" in ISA else 0.25
# max_autotune is the same call with one more setting, and takes a minute.
TESTED = [
    (peer, number) for peer, variants in PEERS.items() if "autotune" not in peer for number in range(len(variants))
]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    shape = tiny_shape(tmp_path_factory.mktemp("template"))
    return Problem(shape, random_arena(shape, 1)[0], random_table(shape))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ArtefactCache:
    return ArtefactCache(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(("peer", "number"), TESTED, ids=lambda value: str(value).replace(" ", "_"))
def test_a_peer_computes_the_templates_function(problem: Problem, cache: ArtefactCache, peer: str, number: int) -> None:
    variant = PEERS[peer][number]
    allowed = PEER_INT8 if peer.endswith("int8") else ALLOWED[peer[-4:]]
    if peer == "OpenVINO bf16" and "avx512_bf16" not in ISA and "amx_bf16" not in ISA:
        pytest.skip("OpenVINO multiplies in bf16 only where the CPU does; this one has neither AVX512-BF16 nor AMX")
    rng = np.random.default_rng(0)
    engine = None
    for rows in (1, 33):
        if engine is None or variant.fixed_rows:
            engine = variant.load(problem, rows, 1, cache)
        for _ in range(2):  # what an engine was given last must not stay
            batch = random_batch(problem.shape, rows, rng)
            expected = reference(problem.shape, problem.slab[None], problem.table, batch)
            assert difference(engine, batch, expected) <= allowed


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_ours_computes_each_row_with_its_scenarios_weights(
    problem: Problem, cache: ArtefactCache, precision: Precision
) -> None:
    shape, arena = problem.shape, random_arena(problem.shape, 3)
    engine = FusedEngine(shape.template, precision, arena, problem.table, 1, cache)
    batch = random_batch(shape, 48, np.random.default_rng(0), np.array([1, 2, 0], np.int32))
    expected = reference(shape, arena, problem.table, batch)
    assert difference(engine, batch, expected) <= ALLOWED[precision]
    alone = random_batch(shape, 48, np.random.default_rng(0))
    assert np.abs(reference(shape, arena, problem.table, alone) - expected).max() > 2 * ALLOWED[precision]


@pytest.mark.parametrize("kind", list(KINDS))
def test_merged_weights_are_the_same_function(tmp_path: Path, kind: str) -> None:
    shape = tiny_shape(tmp_path, kind)
    arena, table = random_arena(shape, 1), random_table(shape)
    batch = random_batch(shape, 65, np.random.default_rng(0))
    found = PeerNet(shape.template, arena[0])(table, batch.dense, batch.rows)
    np.testing.assert_allclose(found.numpy(), reference(shape, arena, table, batch), rtol=1e-5, atol=1e-6)


def test_a_component_that_peers_do_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(
        TEMPLATE_YAML.replace("{type: cross_low_rank, layers: 2, rank: 8}", "{type: cross_full, layers: 1}")
    )
    template = load_template(path)
    with pytest.raises(ValueError, match="template 'small': interaction cross_full with experts mmoe; the peers know"):
        PeerNet(template, random_arena(Shape("small", template, 10), 1)[0])


def test_a_file_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_text("content")

    for _ in range(2):
        path = ArtefactCache(tmp_path).file("key", "name", build, slow=True)
        assert path.read_text() == "content"
    assert len(built) == 1
    assert ArtefactCache(tmp_path, slow_builds=False).file("key", "name", build, slow=True) == path
    with pytest.raises(NotBuilt, match="other takes too long to build for a quick run"):
        ArtefactCache(tmp_path, slow_builds=False).file("key", "other", build, slow=True)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        ArtefactCache(tmp_path).file("key", "name", build)
    assert list((tmp_path / "key").iterdir()) == []


def test_files_are_kept_apart_by_weights_and_template(problem: Problem, tmp_path: Path) -> None:
    other = Problem(problem.shape, problem.slab + 1, problem.table)
    shared = tiny_shape(tmp_path, "shared")
    again = Problem(problem.shape, problem.slab.clone(), problem.table.clone())
    assert problem.digest == again.digest
    assert len({problem.digest, other.digest, Problem(shared, problem.slab, problem.table).digest}) == 3


def test_difference_is_infinite_for_what_is_no_probability(problem: Problem) -> None:
    class Wrong:
        def __init__(self, value: torch.Tensor) -> None:
            self.value = value

        def bind(self, batch: object) -> None: ...

        def run(self) -> None: ...

        def output(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            return self.value.numpy()

    batch = random_batch(problem.shape, 2, np.random.default_rng(0))
    expected = np.full((2, 3), 0.5)
    assert difference(Wrong(torch.full((2, 3), 0.25)), batch, expected) == 0.25
    assert difference(Wrong(torch.full((2, 3), torch.nan)), batch, expected) == float("inf")
    assert difference(Wrong(torch.full((1, 3), 0.5)), batch, expected) == float("inf")
