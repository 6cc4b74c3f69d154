"""The registry: what is published is complete, verified and ordered, whatever happens beside it."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import xxhash

from smt.serving import places, storage
from smt.serving.integrity import check_registry
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry, RegistryError

ABI = "ab" * 32


def draft(scenario: str = "feed", **changes: Any) -> dict[str, Any]:
    return {
        "scenario": scenario,
        "template": {"name": "base", "version": "1.0.0"},
        "abi_hash": ABI,
        "dim": 8,
        "tasks": [{"name": "click", "head": 0}],
        "features": {"format": 1},
        "lineage": {"epoch": 3},
        **changes,
    }


def delta_draft(base: SnapshotManifest) -> dict[str, Any]:
    return draft(base.scenario, format=2, base=base.version, chain=base.chain + 1)


def binary_draft() -> dict[str, Any]:
    return {
        "template": {"name": "base", "version": "1.0.0"},
        "abi_hash": ABI,
        "target": "cpu",
        "isa": "scalar",
        "inputs": [{"name": "dense", "dtype": "float32", "shape": ["rows", 4]}],
        "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["rows", 2]}],
        "layout": [{"name": "w", "dtype": "float32", "shape": [4, 2], "offset": 0}],
        "slab_elements": 16,
        "dim": 8,
        "tasks": 2,
        "dense_slots": 4,
        "categorical_slots": 3,
        "torch": "2.13.0",
        "kernel_version": 1,
        "kernel_abi": 1,
        "precision": "bf16",
        "program": [1, 1, 4, 1],
        "packed_bytes": 64,
    }


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "registry") if request.param == "local" else f"memory://{uuid.uuid4().hex}/registry"


def test_content_may_lie_in_parts_and_is_written_piece_by_piece(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CHUNK_BYTES", 7)
    monkeypatch.setattr(storage, "_FLUSH_BYTES", 20)
    content = [b"header", b"", bytes(range(100)), b"x" * 7]
    manifest = Registry(url).publish_snapshot(draft(), {"weights.safetensors": [memoryview(part) for part in content]})
    whole = b"".join(content)
    assert Registry(url).read_snapshot_file(manifest, "weights.safetensors") == whole
    assert manifest.files["weights.safetensors"].model_dump() == {
        "bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
        "xxh3": xxhash.xxh3_128_hexdigest(whole),
    }


def test_what_is_published_is_announced_until_it_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    announcement = tmp_path / "scenarios/feed/next"
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    commit, seen = storage.LocalStage.commit, []

    def look(stage: storage.LocalStage, name: str, **how: bool) -> None:
        version, folder = announcement.read_text().split()
        # All of it is there to be read, and `current` names what it named before.
        there = {path.name: path.read_bytes() for path in (tmp_path / "scenarios/feed/versions" / folder).iterdir()}
        assert there["weights.safetensors"] == b"two"
        assert hashlib.sha256(there["manifest.json"]).hexdigest() == there["manifest.sha256"].decode().strip()
        assert registry.current("feed") == first.version
        assert version == name
        seen.append(version)
        commit(stage, name, **how)

    monkeypatch.setattr(storage.LocalStage, "commit", look)
    second = registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert seen == [second.version]
    assert not announcement.exists()


def test_a_version_is_seen_once_the_disk_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the system calls: what a power cut in between would leave is not complete, or not seen."""
    registry = Registry(tmp_path)
    registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    fsync, rename, replace = os.fsync, Path.rename, Path.replace
    done: list[tuple[str, str]] = []

    def synced(descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
        done.append(("sync", name))

    def renamed(path: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return rename(path, target)

    def replaced(path: Path, target: Path) -> Path:
        done.append(("replace", target.name))
        return replace(path, target)

    monkeypatch.setattr(storage, "CHUNK_BYTES", 100)
    monkeypatch.setattr(storage, "_FLUSH_BYTES", 250)
    monkeypatch.setattr(storage.os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    version = registry.publish_snapshot(draft(), {"weights.safetensors": bytes(1000)}).version
    seen, current = done.index(("rename", version)), done.index(("replace", "current"))
    files = {name for what, name in done[:seen] if what == "sync"}
    assert files > {"weights.safetensors", "manifest.json", "manifest.sha256"}
    assert any(name.startswith(storage.TEMP_PREFIX) for name in files), "the folder itself"
    assert ("sync", "versions") in done[seen:current]
    assert ("sync", "feed") in done[current:]


def test_what_is_not_approved_is_not_published(url: str) -> None:
    registry = Registry(url)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"}, approve=lambda: None)

    def refuse() -> None:
        assert registry.versions("feed") == [first.version]
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        registry.publish_snapshot(draft(), {"weights.safetensors": b"two"}, approve=refuse)
    assert registry.versions("feed") == [registry.current("feed")] == [first.version]
    assert check_registry(registry).faults == []


@pytest.mark.parametrize("label", ["canary", "shadow"])
def test_only_what_becomes_current_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: Any) -> None:
    registry = Registry(tmp_path)
    registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    monkeypatch.setattr(storage.LocalStage, "announced", None)
    registry.publish_snapshot(draft(), {"weights.safetensors": b"two"}, label=label)


def test_a_publication_that_fails_takes_its_announcement_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage.os, "fsync", full)
        with pytest.raises(RegistryError, match="No space left"):
            registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert sorted(path.name for path in (tmp_path / "scenarios/feed").iterdir()) == [
        ".lock",
        "current",
        "events",
        "versions",
    ]
    assert registry.versions("feed") == [registry.current("feed")] == [first.version]


def test_files_of_older_publishers_have_one_digest(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    manifest = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    folder = tmp_path / "scenarios/feed/versions" / manifest.version
    entry = manifest.files["weights.safetensors"]
    _reseal(folder, files={"weights.safetensors": {"bytes": entry.bytes, "sha256": entry.sha256}})
    assert registry.verify("feed").files["weights.safetensors"].xxh3 is None
    _flip(folder / "weights.safetensors")
    with pytest.raises(RegistryError, match=r"weights\.safetensors: sha256 is .*; the manifest says"):
        registry.verify("feed")


def test_what_is_used_is_held_against_xxh3_and_a_check_against_both(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    manifest = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    entry = manifest.files["weights.safetensors"].model_dump()
    folder = tmp_path / "scenarios/feed/versions" / manifest.version
    _reseal(folder, files={"weights.safetensors": {**entry, "sha256": "0" * 64}})
    assert registry.read_snapshot_file(registry.verify("feed"), "weights.safetensors") == b"one"
    [fault] = check_registry(registry).faults
    assert "weights.safetensors: sha256 is " in fault
    assert "the manifest says 0000" in fault


def test_publish_and_read(url: str) -> None:
    registry = Registry(url)
    assert registry.scenarios() == []
    assert registry.current("feed") is None
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    second = registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert registry.scenarios() == ["feed"]
    assert registry.versions("feed") == [first.version, second.version]
    assert registry.current("feed") == second.version
    assert registry.verify("feed") == second
    assert registry.verify("feed", first.version) == first
    assert first.lineage["parent"] is None
    assert second.lineage["parent"] == first.version
    assert second.lineage["epoch"] == 3
    assert registry.read_snapshot_file(first, "weights.safetensors") == b"one"


def test_publishing_the_same_content_again_is_a_new_version(url: str) -> None:
    registry = Registry(url)
    versions = [registry.publish_snapshot(draft(), {"weights.safetensors": b"same"}) for _ in range(3)]
    assert registry.versions("feed") == [manifest.version for manifest in versions]
    assert len({manifest.version for manifest in versions}) == 3
    assert len({manifest.files["weights.safetensors"].sha256 for manifest in versions}) == 1


def test_versions_increase_when_the_clock_goes_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(url)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})

    class EarlierClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=40)

    monkeypatch.setattr(places, "datetime", EarlierClock)
    second = registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert second.version > first.version
    assert registry.current("feed") == second.version


def test_going_back_to_an_old_version(url: str) -> None:
    registry = Registry(url)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    registry.set_current("feed", first.version)
    assert registry.current("feed") == first.version
    with pytest.raises(RegistryError, match="no such file"):
        registry.set_current("feed", "20200101-000000-000-00000000")
    assert registry.current("feed") == first.version


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: _flip(folder / "weights.safetensors"),
            r"weights\.safetensors: xxh3 is .*; the manifest says",
        ),
        (lambda folder: _truncate(folder / "weights.safetensors"), r"weights\.safetensors: 2 bytes; .* says 3"),
        (lambda folder: _flip(folder / "manifest.json"), r"manifest\.json: SHA-256 is .*; manifest\.sha256 says"),
        (lambda folder: _truncate(folder / "manifest.json"), r"manifest\.json: SHA-256 is"),
        (lambda folder: _flip(folder / "manifest.sha256"), r"manifest\.json: SHA-256 is"),
        (lambda folder: os.unlink(folder / "manifest.json"), r"manifest\.json: no such file"),
        (lambda folder: os.unlink(folder / "weights.safetensors"), r"weights\.safetensors: no such file"),
        (lambda folder: _reseal(folder, abi_hash="zz"), r"manifest\.json: abi_hash: .*'zz' is not a SHA-256"),
        (lambda folder: _reseal(folder, format=3), r"manifest\.json: format: "),
        (
            lambda folder: _reseal(folder, format=2),
            r"manifest\.json: .*expected format 1 alone, or format 2 with a base",
        ),
        (lambda folder: _reseal(folder, scenario="other"), r"manifest\.json: is of other/.*; its place says feed/"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    registry = Registry(tmp_path)
    manifest = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    damage(tmp_path / "scenarios/feed/versions" / manifest.version)
    with pytest.raises(RegistryError, match=message):
        registry.verify("feed")


def test_damaged_current_is_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    (tmp_path / "scenarios/feed/current").write_text("../../etc\n")
    with pytest.raises(RegistryError, match=r"current: found '../../etc'; expected a version"):
        registry.current("feed")


@pytest.mark.parametrize("content", ["garbage\n", "", "../x\n", None], ids=["word", "empty", "path", "folder"])
def test_a_damaged_current_is_repaired_by_use_and_publish(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """`content` None: a folder, with something in it, stands where the pointer should."""
    registry = Registry(tmp_path)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    pointer = tmp_path / "scenarios/feed/current"

    def spoil() -> None:
        pointer.unlink()
        if content is None:
            pointer.mkdir()
            (pointer / "kept").write_text("somebody's")
        else:
            pointer.write_text(content)

    spoil()
    assert registry.replaceable("feed") is None
    assert "scenarios/feed/current: " in caplog.text
    registry.set_current("feed", first.version)
    assert registry.current("feed") == first.version
    spoil()
    second = registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert registry.current("feed") == second.version
    assert second.lineage["parent"] is None
    assert len(list(tmp_path.rglob("kept"))) == (2 if content is None else 0)


@pytest.mark.parametrize("scenario", ["", "Feed", "a/b", "..", "a" * 65, "a b", "é"])
def test_names_are_checked(tmp_path: Path, scenario: str) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(RegistryError, match="expected 1 to 64 of the characters"):
        registry.publish_snapshot(draft(scenario), {"weights.safetensors": b"one"})
    assert list(tmp_path.iterdir()) == []


def test_unknown_url() -> None:
    with pytest.raises(RegistryError, match="nosuch"):
        Registry("nosuch://somewhere")


def test_read_only_registry_is_named(tmp_path: Path) -> None:
    (tmp_path / "scenarios").write_text("a file where a folder should be")
    with pytest.raises(RegistryError, match="scenarios"):
        Registry(tmp_path).publish_snapshot(draft(), {"weights.safetensors": b"one"})


@pytest.mark.parametrize("last_step", ["add", "commit", "current"])
def test_killed_publication_leaves_nothing_that_counts(tmp_path: Path, last_step: str) -> None:
    registry = Registry(tmp_path)
    first = registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    process = multiprocessing.get_context("spawn").Process(target=_publish_and_die, args=(str(tmp_path), last_step))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert registry.current("feed") == first.version
    complete = 2 if last_step == "current" else 1  # renamed, but `current` was not reached yet
    assert len(registry.versions("feed")) == complete
    for version in registry.versions("feed"):
        registry.verify("feed", version)
    # The lock died with its holder, and the next publication goes through.
    second = registry.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert registry.current("feed") == second.version == registry.versions("feed")[-1]
    assert not (tmp_path / "scenarios/feed/next").exists()


def test_old_leftovers_are_removed_and_young_ones_kept(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    versions = tmp_path / "scenarios/feed/versions"
    for name, age in ((".tmp-old", 2 * storage.STALE_SECONDS), (".tmp-young", 60.0)):
        (versions / name).mkdir(parents=True)
        (versions / name / "weights.safetensors").write_bytes(b"half")
        moment = datetime.now(UTC).timestamp() - age
        os.utime(versions / name, (moment, moment))
    registry.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    assert [path.name for path in versions.glob(".tmp-*")] == [".tmp-young"]


def test_two_publishers_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    publishers = [context.Process(target=_publish_many, args=(str(tmp_path), name, start)) for name in ("a", "b")]
    for process in publishers:
        process.start()
    for process in publishers:
        process.join(120)
    assert [process.exitcode for process in publishers] == [0, 0]
    registry = Registry(tmp_path)
    versions = registry.versions("feed")
    assert len(versions) == 40
    assert registry.current("feed") == versions[-1]
    manifests = [registry.verify("feed", version) for version in versions]
    # Each was published on top of the one before it: no publication overtook another.
    assert [manifest.lineage["parent"] for manifest in manifests] == [None, *versions[:-1]]
    by = {name: [m.lineage["number"] for m in manifests if m.lineage["by"] == name] for name in ("a", "b")}
    assert by == {"a": list(range(20)), "b": list(range(20))}
    assert not list(tmp_path.rglob(".tmp-*"))


def test_binaries(url: str, tmp_path: Path) -> None:
    registry = Registry(url)
    assert registry.binaries() == []
    assert registry.binary("base", ABI, "cpu") is None
    source = tmp_path / "model.pt2"
    source.write_bytes(b"code")
    first = registry.publish_binary(binary_draft(), {"model.pt2": source, "model.onnx": b"graph"})
    assert registry.binaries() == [first]
    registry.verify_binary(first)
    assert registry.fetch_binary_file(first, "model.pt2", tmp_path / "cache").read_bytes() == b"code"
    second = registry.publish_binary(binary_draft(), {"model.pt2": b"better code", "model.onnx": b"graph"})
    assert registry.binaries() == [second]
    registry.verify_binary(second)
    with pytest.raises(RegistryError, match=r"model\.pt2: 11 bytes; the manifest says 4"):
        registry.fetch_binary_file(first, "model.pt2", tmp_path / "cache")


def test_deltas_know_what_they_are_built_on(url: str) -> None:
    registry = Registry(url)
    full = registry.publish_snapshot(draft(), {"weights.safetensors": b"full"})
    assert "base" not in full.model_dump()
    first = registry.publish_snapshot(delta_draft(full), {"delta.safetensors": b"one"})
    second = registry.publish_snapshot(delta_draft(first), {"delta.safetensors": b"two"})
    assert (second.format, second.base, second.chain) == (2, first.version, 2)
    assert registry.chain("feed") == [second, first, full]
    assert registry.verify("feed") == second
    with pytest.raises(RegistryError, match=r"chain 3; expected 2, since its base .* has 1"):
        registry.publish_snapshot(delta_draft(first) | {"chain": 3}, {"delta.safetensors": b"bad"})
    with pytest.raises(RegistryError, match="no such file"):
        registry.publish_snapshot(delta_draft(first) | {"base": "20200101-000000-000-00000000"}, {"d": b"bad"})
    assert registry.versions("feed") == [full.version, first.version, second.version]


def test_a_damaged_base_is_found_from_above(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    full = registry.publish_snapshot(draft(), {"weights.safetensors": b"full"})
    delta = registry.publish_snapshot(delta_draft(full), {"delta.safetensors": b"one"})
    folder = tmp_path / "scenarios/feed/versions" / full.version
    _flip(folder / "weights.safetensors")
    with pytest.raises(RegistryError, match=rf"{full.version}/weights\.safetensors: xxh3"):
        registry.verify("feed", delta.version)
    os.unlink(folder / "manifest.sha256")
    with pytest.raises(RegistryError, match=rf"manifest\.sha256: no such file; version {delta.version} of 'feed' is"):
        registry.chain("feed")
    for path, base in ((folder, delta.version), (folder.parent / delta.version, full.version)):
        _reseal(path, format=2, base=base, chain=1)
    with pytest.raises(RegistryError, match="its chain has no end"):
        registry.chain("feed")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _reseal(folder: Path, **changes: Any) -> None:
    """Changes the manifest and makes its checksum agree."""
    content = json.dumps({**json.loads((folder / "manifest.json").read_text()), **changes}).encode()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")


def _publish_and_die(root: str, step: str) -> None:
    def die(*args: Any, **kwargs: Any) -> Any:
        os._exit(9)

    if step == "add":
        storage.LocalStage.add = _then(storage.LocalStage.add, die)  # type: ignore[method-assign]
    elif step == "commit":
        storage.LocalStage.commit = die  # type: ignore[method-assign]
    else:
        storage.LocalStorage.replace_text = die  # type: ignore[method-assign]
    Registry(root).publish_snapshot(draft(), {"weights.safetensors": b"never seen"})


def _then(action: Any, after: Any) -> Any:
    def both(*args: Any, **kwargs: Any) -> Any:
        action(*args, **kwargs)
        after()

    return both


def _publish_many(root: str, name: str, start: Any) -> None:
    registry = Registry(root)
    start.wait(60)
    for number in range(20):
        registry.publish_snapshot(
            draft(lineage={"by": name, "number": number}), {"weights.safetensors": f"{name}{number}".encode()}
        )
