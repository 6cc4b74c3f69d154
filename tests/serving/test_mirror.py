"""The local copy of a registry behind a URL."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from smt.serving.integrity import check_registry
from smt.serving.labels import LABELS, clear_label, read_label
from smt.serving.mirror import Mirror, MirrorError, cache_folder
from smt.serving.registry import Registry, RegistryError
from tests.serving.test_registry import binary_draft, delta_draft, draft


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/registry"


def test_a_mirror_is_the_same_registry(url: str, tmp_path: Path) -> None:
    remote, mirror, local = Registry(url), Mirror(url, tmp_path), Registry(tmp_path)
    assert mirror.sync() == []
    binary = remote.publish_binary(binary_draft(), {"model.pt2": b"code", "model.onnx": b"graph"})
    first = remote.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    other = remote.publish_snapshot(draft("search"), {"weights.safetensors": b"other"})
    assert len(mirror.sync()) == 3
    assert local.binaries() == [binary]
    local.verify_binary(binary)
    assert local.verify("feed") == first
    assert local.verify("search") == other
    assert mirror.sync() == []
    second = remote.publish_snapshot(draft(), {"weights.safetensors": b"two"})
    assert mirror.sync() == [f"scenarios/feed/versions/{second.version}"]
    assert local.verify("feed") == second
    remote.set_current("feed", first.version)
    mirror.sync()
    assert local.current("feed") == first.version


def test_old_versions_are_removed(url: str, tmp_path: Path) -> None:
    remote, mirror = Registry(url), Mirror(url, tmp_path)
    versions = []
    for number in range(4):
        versions.append(remote.publish_snapshot(draft(), {"weights.safetensors": str(number).encode()}).version)
        mirror.sync()
    assert Registry(tmp_path).versions("feed") == versions[-2:]


def test_labels_come_and_go_with_their_versions(url: str, tmp_path: Path) -> None:
    remote, mirror, local = Registry(url), Mirror(url, tmp_path), Registry(tmp_path)
    versions = [remote.publish_snapshot(draft(), {"weights.safetensors": b"w"}).version for _ in range(4)]
    remote.set_label("feed", "canary", versions[0], 12.5)
    remote.set_label("feed", "shadow", versions[1])
    mirror.sync()
    assert local.versions("feed") == [versions[0], versions[1], versions[3]]
    for label in LABELS:
        assert read_label(local, "feed", label) == read_label(remote, "feed", label) is not None
    assert check_registry(local).faults == []
    clear_label(remote, "feed", "shadow")
    remote.set_label("feed", "canary", versions[2])
    assert mirror.sync() == [f"scenarios/feed/versions/{versions[2]}"]
    assert read_label(local, "feed", "shadow") is None
    assert local.versions("feed") == versions[2:]
    assert mirror.sync() == []


def test_a_delta_comes_with_what_it_is_built_on(url: str, tmp_path: Path) -> None:
    remote, mirror, local = Registry(url), Mirror(url, tmp_path), Registry(tmp_path)
    full = remote.publish_snapshot(draft(), {"weights.safetensors": b"full"})
    deltas = [full]
    for _ in range(3):
        deltas.append(remote.publish_snapshot(delta_draft(deltas[-1]), {"delta.safetensors": b"part"}))
    folder = "scenarios/feed/versions"
    assert mirror.sync() == [f"{folder}/{manifest.version}" for manifest in deltas]
    assert local.verify("feed") == deltas[-1]
    newer = remote.publish_snapshot(draft(), {"weights.safetensors": b"new"})
    mirror.sync()
    assert local.versions("feed") == [*(manifest.version for manifest in deltas), newer.version]  # to go back to
    newest = remote.publish_snapshot(delta_draft(newer), {"delta.safetensors": b"part"})
    mirror.sync()
    assert local.versions("feed") == [newer.version, newest.version]
    assert check_registry(local).faults == []


def test_a_damaged_label_is_copied_for_the_server_to_report(url: str, tmp_path: Path) -> None:
    remote, mirror = Registry(url), Mirror(url, tmp_path)
    version = remote.publish_snapshot(draft(), {"weights.safetensors": b"one"}).version
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{root}/scenarios/feed/labels/canary", b"[1]")
    mirror.sync()
    assert Registry(tmp_path).current("feed") == version
    assert (tmp_path / "scenarios/feed/labels/canary").read_bytes() == b"[1]"


def test_a_replaced_binary_is_copied_again(url: str, tmp_path: Path) -> None:
    remote, mirror = Registry(url), Mirror(url, tmp_path)
    remote.publish_binary(binary_draft(), {"model.pt2": b"code"})
    mirror.sync()
    better = remote.publish_binary(binary_draft(), {"model.pt2": b"better"})
    mirror.sync()
    Registry(tmp_path).verify_binary(better)


def test_damage_is_copied_for_the_server_to_report(url: str, tmp_path: Path) -> None:
    remote, mirror = Registry(url), Mirror(url, tmp_path)
    version = remote.publish_snapshot(draft(), {"weights.safetensors": b"one"}).version
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{root}/scenarios/feed/versions/{version}/weights.safetensors", b"bad")
    mirror.sync()
    assert Registry(tmp_path).current("feed") == version
    with pytest.raises(RegistryError, match="xxh3 is"):
        Registry(tmp_path).verify("feed")


def test_an_unfinished_upload_is_waited_for(url: str, tmp_path: Path) -> None:
    """`current` may name a version whose last file is not there yet; it is copied when it is."""
    remote, mirror, local = Registry(url), Mirror(url, tmp_path), Registry(tmp_path)
    manifest = remote.publish_snapshot(draft(), {"weights.safetensors": b"one"})
    filesystem, root = fsspec.core.url_to_fs(url)
    checksum = f"{root}/scenarios/feed/versions/{manifest.version}/manifest.sha256"
    content = filesystem.cat_file(checksum)
    filesystem.rm(checksum)
    mirror.sync()
    assert local.versions("feed") == []
    filesystem.pipe_file(checksum, content)
    mirror.sync()
    assert local.verify("feed") == manifest


def test_one_fault_does_not_stop_the_rest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    remote = Registry(source)
    remote.publish_snapshot(draft("aaa"), {"weights.safetensors": b"one"})
    good = remote.publish_snapshot(draft("zzz"), {"weights.safetensors": b"two"})
    (source / "scenarios/aaa/current").unlink()
    os.mkdir(source / "scenarios/aaa/current")  # a folder cannot be read as a file
    mirror = Mirror(str(source), tmp_path / "copy")
    with pytest.raises(MirrorError, match=r"scenarios/aaa: IsADirectoryError"):
        mirror.sync()
    assert Registry(tmp_path / "copy").verify("zzz") == good


def test_cache_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("s3://a").is_relative_to(tmp_path)
    assert cache_folder("s3://a") == cache_folder("s3://a") != cache_folder("s3://b")
