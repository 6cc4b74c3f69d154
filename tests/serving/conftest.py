"""Fixtures of the serving tests: one template, compiled once per session; servers on top of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from smt.serving.binary import BinaryRunner
from smt.serving.client import Client
from smt.serving.compile import BinaryInfo, compile_template
from smt.serving.registry import Registry
from smt.training.model import abi_hash
from smt.training.scenario import load_scenario
from smt.training.template import Template, load_template
from smt.training.trainer import train
from tests.serving.data import write_shop
from tests.serving.support import FEED, SEARCH, TEMPLATE_YAML, VIDEO, RunningServer, copy_binaries


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    path = tmp_path_factory.mktemp("template") / "template.yaml"
    path.write_text(TEMPLATE_YAML)
    return load_template(path)


@pytest.fixture(scope="session")
def compiled(template: Template, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BinaryInfo, list[str]]:
    """A registry with the template's binary, what compiling said, and the steps it reported."""
    folder = tmp_path_factory.mktemp("compiled")
    steps: list[str] = []
    return folder, compile_template(template, Registry(folder), progress=steps.append), steps


@pytest.fixture(scope="session")
def runner(compiled: tuple[Path, BinaryInfo, list[str]], template: Template) -> BinaryRunner:
    return BinaryRunner.load(Registry(compiled[0]), template.name, abi_hash(template))


@pytest.fixture
def registry_folder(compiled: tuple[Path, BinaryInfo, list[str]], tmp_path: Path) -> Path:
    """A registry of one's own with the binary and no snapshot."""
    return copy_binaries(compiled[0], tmp_path / "registry")


@pytest.fixture
def three(registry_folder: Path, template: Template) -> Path:
    """A registry of one's own with the scenarios feed, search and video (seeds 1, 2, 3)."""
    for seed, case in enumerate((FEED, SEARCH, VIDEO), start=1):
        case.publish(Registry(registry_folder), template, seed)
    return registry_folder


@pytest.fixture(scope="module")
def server(
    compiled: tuple[Path, BinaryInfo, list[str]], template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with the scenarios feed (seed 1) and search (seed 2), shared by tests that change nothing."""
    folder = tmp_path_factory.mktemp("shared_server")
    registry = copy_binaries(compiled[0], folder / "registry")
    FEED.publish(Registry(registry), template, seed=1)
    SEARCH.publish(Registry(registry), template, seed=2)
    with RunningServer(registry, folder, max_rows=300) as running:
        yield running
        assert running.process.poll() is None, "the server died under a test"


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target, timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scenario of the test template and its trained run directory; not to be changed."""
    scenario = write_shop(tmp_path_factory.mktemp("shop"))
    run = scenario.parent / "run"
    train(load_scenario(scenario), run, epochs=2, progress=False)
    return scenario, run
