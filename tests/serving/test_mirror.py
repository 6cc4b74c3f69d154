"""The local copy of a registry behind a URL."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from smt.serving.mirror import Mirror, MirrorError, cache_folder
from smt.serving.registry import Registry, RegistryError
from tests.serving.test_registry import binary_draft, draft


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
    with pytest.raises(RegistryError, match="SHA-256"):
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
