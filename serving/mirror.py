"""A local copy of a registry behind a URL, for the server to watch.

The files are copied as they are: verifying them, and reporting what does not verify, is the server's business. A
version is copied whole, after what it is built on and before `current` or a label names it here, so the server never
waits for half of one. Pins and events stay where they are: nothing is collected or undone in a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smt.serving.labels import LABELS
from smt.serving.manifest import NAME_PATTERN, VERSION_PATTERN
from smt.serving.registry import CHECKSUM, MANIFEST, RegistryError
from smt.serving.storage import LocalStorage, Storage, open_storage

CURRENT = "current"


def cache_folder(url: str) -> Path:
    """Where the mirror of a URL is kept from one start to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "smt" / "registries" / hashlib.sha256(url.encode()).hexdigest()[:16]


class MirrorError(RegistryError):
    """The registry, or a part of it, could not be copied."""


class Mirror:
    """Copies template binaries, and snapshots that something names, from `url` into `folder`.

    Only one process may write the folder.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._source = open_storage(url)
        folder.mkdir(parents=True, exist_ok=True)
        self._copy = LocalStorage(folder)
        self._folder = folder

    def sync(self) -> list[str]:
        """Brings the copy up to date; returns what was copied.

        Raises MirrorError for what could not be copied, after everything else was.
        """
        done: list[str] = []
        faults: list[str] = []
        for kind, sync in (("templates", self._sync_template), ("scenarios", self._sync_scenario)):
            for name in self._attempt(self._names, kind, faults):
                done += self._attempt(sync, f"{kind}/{name}", faults)
        if faults:
            raise MirrorError(f"{self._source.root}: {'; '.join(faults)}")
        return done

    def _attempt(self, action: Callable[[str], list[str]], path: str, faults: list[str]) -> list[str]:
        try:
            return action(path)
        except Exception as error:  # each of fsspec's drivers has its own kinds
            faults.append(f"{path}: {type(error).__name__}: {error}")
            return []

    def _sync_template(self, template: str) -> list[str]:
        done = []
        for abi_hash in self._names(template):
            parent = f"{template}/{abi_hash}"
            for target in self._names(parent):
                if MANIFEST not in self._source.names(f"{parent}/{target}"):
                    continue  # not complete yet
                if self._local(f"{parent}/{target}/{MANIFEST}") != self._source.read(f"{parent}/{target}/{MANIFEST}"):
                    self._copy_folder(parent, target)
                    done.append(f"{parent}/{target}")
        return done

    def _sync_scenario(self, scenario: str) -> list[str]:
        """Versions before what names them, so that the server finds whatever it is told to serve."""
        pointers = [CURRENT, *(f"labels/{label}" for label in LABELS)]
        there = set(self._source.names(scenario)) & {CURRENT}
        there |= {f"labels/{name}" for name in self._source.names(f"{scenario}/labels")}
        found = {name: self._source.read(f"{scenario}/{name}") for name in pointers if name in there}
        before = {name: content for name in pointers if (content := self._local(f"{scenario}/{name}")) is not None}
        named = {version for name, content in found.items() if (version := _named(name, content)) is not None}
        if found == before and named <= set(self._copy.names(f"{scenario}/versions")):
            return []
        done: list[str] = []
        kept: set[str] = set()
        for version in sorted(named):
            kept |= self._copy_chain(scenario, version, done)
        for name, content in found.items():
            if content != before.get(name):
                self._copy.replace_text(f"{scenario}/{name}", content.decode("utf-8", "replace"))
        for name in set(before) - set(found) - {CURRENT}:
            self._copy.remove(f"{scenario}/{name}")
        # The version before stays too: a rollback of the server needs it.
        kept |= self._local_chain(scenario, _named(CURRENT, before.get(CURRENT, b"")))
        self._prune(f"{scenario}/versions", kept)
        return done

    def _copy_chain(self, scenario: str, version: str | None, done: list[str]) -> set[str]:
        """Copies a version and what it is built on, the full one first; returns their names, as far as they are known.

        A version without its checksum is not complete; that something names it already is for the server to say.
        """
        chain: list[str] = []
        while version is not None and version not in chain:
            chain.append(version)
            here = version in self._copy.names(f"{scenario}/versions")
            version = self._base(self._copy if here else self._source, scenario, version)
        for name in reversed(chain):
            folder = f"{scenario}/versions"
            if name not in self._copy.names(folder) and CHECKSUM in self._source.names(f"{folder}/{name}"):
                self._copy_folder(folder, name)
                done.append(f"{folder}/{name}")
        return set(chain)

    def _local_chain(self, scenario: str, version: str | None) -> set[str]:
        chain: set[str] = set()
        while version is not None and version not in chain:
            chain.add(version)
            version = self._base(self._copy, scenario, version)
        return chain

    def _base(self, storage: Storage, scenario: str, version: str) -> str | None:
        """What a version is built on; None also where its manifest cannot be read, which the server will report."""
        try:
            manifest = json.loads(storage.read(f"{scenario}/versions/{version}/{MANIFEST}"))
        except (FileNotFoundError, ValueError):
            return None
        return _version(manifest.get("base")) if isinstance(manifest, dict) else None

    def _prune(self, versions: str, kept: set[str]) -> None:
        for name in self._copy.names(versions):
            if re.fullmatch(VERSION_PATTERN, name) and name not in kept:
                self._copy.remove_folder(f"{versions}/{name}", CHECKSUM)
        self._copy.sweep(versions)

    def _copy_folder(self, parent: str, name: str) -> None:
        stage = self._copy.stage(parent)
        try:
            for file in self._source.names(f"{parent}/{name}"):
                if not file.startswith("."):
                    stage.add_pieces(file, self._source.pieces(f"{parent}/{name}/{file}"))
            stage.commit(name, replace=True)
        finally:
            stage.discard()

    def _names(self, path: str) -> list[str]:
        return [name for name in self._source.names(path) if re.fullmatch(NAME_PATTERN, name)]

    def _local(self, path: str) -> bytes | None:
        try:
            return self._copy.read(path)
        except FileNotFoundError:
            return None


def _named(pointer: str, content: bytes) -> str | None:
    """The version that `current` or a label names; None for a damaged one, which is copied for the server to report."""
    text = content.decode("utf-8", "replace").strip()
    if pointer == CURRENT:
        return _version(text)
    try:
        label = json.loads(text)
    except ValueError:
        return None
    return _version(label.get("version")) if isinstance(label, dict) else None


def _version(found: object) -> str | None:
    return found if isinstance(found, str) and re.fullmatch(VERSION_PATTERN, found) else None


def run_beside(command: Sequence[str], environment: Mapping[str, str], mirror: Mirror, poll_seconds: float) -> int:
    """Runs the server as a child and the mirror beside it; passes SIGTERM and SIGINT on. Returns its exit status."""
    ended = threading.Event()
    # In a process group of its own: Ctrl-C reaches the whole group of the terminal, and the server would take what we
    # pass on for a second one, which means: at once.
    child = subprocess.Popen(command, env=environment, process_group=0)

    def forward(number: int, frame: Any) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)

    def watch() -> None:
        child.wait()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    fault = ""
    while not ended.wait(poll_seconds):
        try:
            mirror.sync()
            fault = ""
        except MirrorError as error:  # the registry is out of reach: go on with what is here, and say so once
            if str(error) != fault:
                fault = str(error)
                _log("mirror_failed", fault)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _log(event: str, message: str) -> None:
    """A line like the server's own."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": time, "level": "error", "event": event, "error": message}), file=sys.stderr, flush=True)
