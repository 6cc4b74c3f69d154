"""Full disks, flipped bits, remote file systems that fail: tried again or refused with a reason, nothing half done."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bench.faulty import FaultyFileSystem, disk_full, failing
from smt.serving.gc import Policy, collect
from smt.serving.integrity import check_registry
from smt.serving.lifecycle import promote, rollback
from smt.serving.mirror import Mirror, MirrorError
from smt.serving.registry import Registry, RegistryError
from smt.serving.remote_storage import RemoteStorage
from smt.serving.retry import Patience
from tests.serving.test_registry import draft

FILES = {"weights.safetensors": b"one"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(RemoteStorage, "patience", Patience(tries=4, first_wait=0.001, longest_wait=0.002))
    yield Registry(f"faulty://{uuid.uuid4().hex}/registry")
    FaultyFileSystem.fault = staticmethod(lambda operation, path: None)


def test_what_fails_now_and_then_is_tried_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """One operation in ten fails: all that is asked for happens all the same."""
    FaultyFileSystem.fault = failing(0.1, 1)
    versions = [registry.publish_snapshot(draft(), FILES).version for _ in range(5)]
    assert rollback(registry, "feed").version == versions[3]
    assert promote(registry, "feed", versions[1]).version == registry.current("feed") == versions[1]
    assert check_registry(registry).faults == []
    assert "trying again, 3 times at most" in caplog.text


@pytest.mark.parametrize("seed", range(8))
def test_what_fails_half_of_the_time_leaves_nothing_half_done(registry: Registry, seed: int) -> None:
    """Whatever was returned as published stands; the rest is refused with a reason, and is no fault afterwards."""
    FaultyFileSystem.fault = failing(0.5, seed)
    published, reasons = [], []
    for _ in range(12):
        try:
            published.append(registry.publish_snapshot(draft(), FILES).version)
        except RegistryError as error:
            reasons.append(str(error))
    assert reasons
    assert all("the last of 4 tries in " in reason and "registry/scenarios/feed" in reason for reason in reasons)
    FaultyFileSystem.fault = staticmethod(lambda operation, path: None)
    assert set(published) <= set(registry.versions("feed"))
    if registry.versions("feed"):
        assert registry.current("feed") in (None, *registry.versions("feed"))
    last = registry.publish_snapshot(draft(), FILES).version
    assert registry.current("feed") == last == registry.versions("feed")[-1]
    faults = check_registry(registry).faults
    assert all("no manifest.sha256; expected a complete version" in fault for fault in faults)  # unfinished uploads


@pytest.mark.parametrize("error", [PermissionError(13, "Access Denied"), OSError(30, "Read-only file system")])
def test_what_will_not_change_is_refused_at_once(registry: Registry, error: OSError) -> None:
    asked = []

    def fault(operation: str, path: str) -> None:
        asked.append(operation)
        raise error

    FaultyFileSystem.fault = fault
    with pytest.raises(RegistryError, match=error.strerror):
        registry.publish_snapshot(draft(), FILES)
    assert len(asked) == 1


def test_a_full_store_is_named_with_the_way_out(registry: Registry) -> None:
    first = registry.publish_snapshot(draft(), FILES)
    FaultyFileSystem.fault = disk_full
    with pytest.raises(RegistryError, match="No space left on device; `smt registry gc` removes old versions"):
        registry.publish_snapshot(draft(), FILES)
    FaultyFileSystem.fault = staticmethod(lambda operation, path: None)
    assert registry.verify("feed") == first
    assert check_registry(registry).faults == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_and_leaves_what_was(small_disk: Path) -> None:
    registry = Registry(small_disk)
    block = {"weights.safetensors": bytes(300_000)}
    versions = [registry.publish_snapshot(draft(), block).version for _ in range(2)]
    for _ in range(3):
        with pytest.raises(RegistryError, match="No space left on device; `smt registry gc` removes old versions"):
            registry.publish_snapshot(draft(), {"weights.safetensors": bytes(600_000)})
    assert registry.versions("feed") == versions
    assert registry.verify("feed").version == versions[1]
    assert not list(small_disk.rglob(".tmp-*"))
    third = registry.publish_snapshot(draft(), {"weights.safetensors": bytes(200_000)})  # there was room for it
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(RegistryError, match="No space left on device"):
        rollback(registry, "feed")
    assert registry.current("feed") == third.version
    collect(registry, "feed", Policy(keep=1), apply=True)  # nothing is old enough, but it does not fail
    assert check_registry(registry).faults == []


def test_a_mirror_says_what_it_could_not_copy_and_goes_on(registry: Registry, tmp_path: Path) -> None:
    bad, good = registry.publish_snapshot(draft("bad"), FILES), registry.publish_snapshot(draft("good"), FILES)

    def fault(operation: str, path: str) -> None:
        if "/bad/versions/" in path:
            raise TimeoutError("timed out")

    FaultyFileSystem.fault = fault
    mirror = Mirror(registry.root, tmp_path)
    with pytest.raises(MirrorError, match=r"scenarios/bad: .*timed out \(the last of 4 tries in"):
        mirror.sync()
    assert Registry(tmp_path).verify("good") == good
    FaultyFileSystem.fault = staticmethod(lambda operation, path: None)
    mirror.sync()
    assert Registry(tmp_path).verify("bad") == bad


def test_a_bit_flipped_anywhere_is_noticed(tmp_path: Path) -> None:
    """In any file of a version, at 500 random places: verification names the file, or what it read is unchanged."""
    generator = random.Random(3)
    registry = Registry(tmp_path)
    manifest = registry.publish_snapshot(draft(), {"weights.safetensors": generator.randbytes(2000)})
    folder = tmp_path / "scenarios/feed/versions" / manifest.version
    files = sorted(folder.iterdir())
    named = set()
    for _ in range(500):
        path = generator.choice(files)
        content = path.read_bytes()
        place, bit = generator.randrange(len(content)), generator.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        try:
            registry.verify("feed")
            # White space after the checksum says nothing.
            assert (path.name, place) == ("manifest.sha256", 64)
        except RegistryError as error:
            named.add(path.name if str(folder) in str(error) else str(error))
        path.write_bytes(content)
    assert named == {path.name for path in files}
    assert registry.verify("feed") == manifest


def test_of_two_publishers_of_an_object_store_both_stand(registry: Registry) -> None:
    def publish(number: int) -> list[str]:
        weights = {"weights.safetensors": str(number).encode()}
        return [Registry(registry.root).publish_snapshot(draft(), weights).version for _ in range(10)]

    FaultyFileSystem.fault = staticmethod(lambda operation, path: time.sleep(0.0005))  # so that they take turns
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(publish, (1, 2))
    assert registry.versions("feed") == sorted([*first, *second])
    assert (first, second) == (sorted(first), sorted(second))
    assert registry.current("feed") in (first[-1], second[-1])
    assert check_registry(registry).faults == []


def test_a_mirror_copies_large_files_in_pieces(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece that fails is asked for again, and none of those before it."""
    monkeypatch.setattr("smt.serving.remote_storage.PIECE_BYTES", 1000)
    content = random.Random(5).randbytes(10_500)
    manifest = registry.publish_snapshot(draft(), {"weights.safetensors": content})
    read, whole = [], MemoryFileSystem.cat_file

    def cat_file(self: FaultyFileSystem, path: str, **part: int) -> bytes:
        read.append((path.rsplit("/", 1)[-1], part.get("start", 0)))
        if read.count(("weights.safetensors", 5000)) == 1 and part.get("start") == 5000:
            raise TimeoutError("timed out")
        return bytes(whole(self, path, **part))

    monkeypatch.setattr(FaultyFileSystem, "cat_file", cat_file)
    Mirror(registry.root, tmp_path).sync()
    assert Registry(tmp_path).verify("feed") == manifest
    starts = [start for name, start in read if name == "weights.safetensors"]
    assert starts == [*range(0, 6000, 1000), *range(5000, 11_000, 1000)]
