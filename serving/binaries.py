"""Template binaries in a registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from smt.serving.manifest import NAME_PATTERN, BinaryManifest
from smt.serving.places import MANIFEST, RegistryError, binary_dir
from smt.serving.registry_files import RegistryFiles, first_mistake, to_json
from smt.serving.storage import Content, describe


class Binaries(RegistryFiles):
    """Reads and publishes them; see Registry."""

    def binaries(self) -> list[BinaryManifest]:
        """Every template binary there is."""
        places = []
        with self.access("templates"):
            for template in self.storage.names("templates"):
                for abi_hash in self.storage.names(f"templates/{template}"):
                    for target in self.storage.names(f"templates/{template}/{abi_hash}"):
                        places.append((template, abi_hash, target))
        places = [place for place in places if all(re.fullmatch(NAME_PATTERN, part) for part in place)]
        return [manifest for place in places if (manifest := self.binary(*place)) is not None]

    def binary(self, template: str, abi_hash: str, target: str) -> BinaryManifest | None:
        """The manifest of a template binary; None when it was not compiled."""
        folder = binary_dir(template, abi_hash, target)
        path = f"{folder}/{MANIFEST}"
        with self.access(folder):
            if MANIFEST not in self.storage.names(folder):
                return None
        manifest = self.parse(path, self.read(path), BinaryManifest)
        if (manifest.template.name, manifest.abi_hash, manifest.target) != (template, abi_hash, target):
            raise RegistryError(
                f"{self.full(path)}: is of {manifest.template.name}/{manifest.abi_hash}/{manifest.target}; "
                "its place says otherwise"
            )
        return manifest

    def publish_binary(self, draft: Mapping[str, Any], files: Mapping[str, Content]) -> BinaryManifest:
        """Publishes a template binary, in place of one of the same template, ABI and target.

        Args:
            draft: a BinaryManifest's fields without `files`.
            files: name -> content, or the path of a file to copy.
        """
        template, abi_hash, target = str(draft["template"]["name"]), str(draft["abi_hash"]), str(draft["target"])
        folder = binary_dir(template, abi_hash, target)
        parent = folder.rsplit("/", 1)[0]
        with self.access(parent):
            stage = self.storage.stage(parent)
            try:
                table = describe({name: stage.add(name, content) for name, content in files.items()})
                try:
                    manifest = BinaryManifest(**{**draft, "files": table})
                except ValidationError as error:
                    raise RegistryError(f"template binary of {template!r}: {first_mistake(error)}") from error
                stage.add(MANIFEST, to_json(manifest))
                with self.storage.lock(parent):
                    stage.commit(target, replace=True)
            finally:
                stage.discard()
        return manifest

    def fetch_binary_file(self, manifest: BinaryManifest, name: str, cache: Path) -> Path:
        """A local path of one file of a binary, verified; a remote registry's file is copied into `cache`."""
        folder = binary_dir(manifest.template.name, manifest.abi_hash, manifest.target)
        content = self.read_verified(folder, manifest, name)
        local = self.storage.local_path(f"{folder}/{name}")
        if local is not None:
            return local
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(content)
        return cache / name

    def verify_binary(self, manifest: BinaryManifest) -> None:
        """Checks size and checksum of every file of a binary."""
        self.verify_files(binary_dir(manifest.template.name, manifest.abi_hash, manifest.target), manifest)
