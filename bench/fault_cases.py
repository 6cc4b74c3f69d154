"""What may befall a registry, each case as often as it is told, on a Stand: see bench.faults.

Every case returns an Outcome, or raises FaultError when a fault was not noticed.
"""

import contextlib
import errno
import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from bench.delta import SCENARIO
from bench.fault_stand import FaultError, Scorer, Stand, rewritten, wrong_answers
from bench.faulty import disk_full, failing, faults
from bench.servers import SmtServer
from smt.serving import places
from smt.serving.client import Client
from smt.serving.digests import Digests
from smt.serving.integrity import check_registry
from smt.serving.mirror import Mirror, MirrorError
from smt.serving.registry import Registry, RegistryError
from smt.serving.remote_storage import RemoteStorage
from smt.serving.retry import Patience
from smt.serving.storage import LocalStage, LocalStorage


@dataclass(frozen=True)
class Outcome:
    """A case: how often it was tried, how often the server or our tools refused with a reason, and one such reason.

    taken: how often what happened is to be taken, and was.
    """

    case: str
    tried: int
    refused: int
    taken: int
    reason: str


def bit_flips(stand: Stand, version: str, case: str, count: int, seed: int) -> Outcome:
    """One bit, in any file of a version and any byte of it; each file as often as the others."""
    generator = random.Random(seed)

    def flip(files: dict[str, bytes]) -> dict[str, bytes]:
        name = generator.choice(sorted(files))
        content = bytearray(files[name])
        # White space after the checksum means nothing to our tools, and is not a hexadecimal digit to the server.
        end = len(content) - (name == "manifest.sha256")
        content[generator.randrange(end)] ^= 1 << generator.randrange(8)
        return {**files, name: bytes(content)}

    return _spoilt(stand, version, case, [flip] * count)


def truncations(stand: Stand, version: str, case: str, count: int, seed: int) -> Outcome:
    """Any file, cut anywhere."""
    generator = random.Random(seed)

    def cut(files: dict[str, bytes]) -> dict[str, bytes]:
        name = generator.choice(sorted(files))
        end = len(files[name]) - (name == "manifest.sha256")
        return {**files, name: files[name][: generator.randrange(end)]}

    return _spoilt(stand, version, case, [cut] * count)


def missing_files(stand: Stand, version: str, case: str) -> Outcome:
    """Each file of a version."""

    def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
        return lambda files: {other: content for other, content in files.items() if other != name}

    return _spoilt(stand, version, case, [without(name) for name in stand.files(version)])


def wrong_manifests(stand: Stand, version: str) -> Outcome:
    """Manifests with checksums that fit, of another ABI, template, scenario and version than their place and weights.

    Our tools cannot know for which binary weights were made: the server alone has to refuse these.
    """
    changes: list[dict[str, Any]] = [
        {"abi_hash": "0" * 64},
        {"template": {"name": "another", "version": "1.0.0"}},
        {"scenario": "another"},
        {"version": "20200101-000000-000-00000000"},
        {"dim": 3},
    ]
    good, reason = stand.files(version), ""
    for change in changes:
        stand._write(version, rewritten(good, **change))
        try:
            reason = stand.refusal(version + "\n")
        finally:
            stand.settle()
            stand._write(version, good)
    return Outcome("wrong ABI, template or place", len(changes), len(changes), 0, reason)


def bad_pointers(stand: Stand) -> Outcome:
    """`current` names nothing that there is, or is none."""
    contents = [
        "20200101-000000-000-00000000\n",
        "",
        "\n",
        "../../etc\n",
        "x" * 100_000,
        "\x00\x01",
        f"{stand.whole} x",
    ]
    reason = ""
    for content in contents:
        reason = stand.refusal(content)
        stand.settle()
    current = stand.scenario_folder / "current"
    for link in (True, False):
        current.unlink()
        if link:
            current.symlink_to("nowhere")
        else:
            current.mkdir()
        stand.wait_for(lambda status: status.refused_reason != "", "a pointer that is none to be reported")
        current.rmdir() if current.is_dir() else current.unlink()
        stand.settle()
    return Outcome("current pointing nowhere", len(contents) + 2, len(contents) + 2, 0, reason)


def full_disk(stand: Stand) -> Outcome:
    """The disk is full from the first, the second, … change of a publication on: refused, and nothing is left of it."""
    tried, reason = 0, ""
    for allowed in itertools.count():
        with _full_after(allowed):
            try:
                stand.publish(2)
                break
            except RegistryError as error:
                tried, reason = tried + 1, str(error)
        if "No space left on device" not in reason or stand.registry.current(SCENARIO) != stand.stable:
            raise FaultError(f"a disk that was full after {allowed} changes: {reason}")
        _check(stand.registry)
        if left := [path.name for path in (stand.scenario_folder / "versions").glob(".tmp-*")]:
            raise FaultError(f"a disk that was full after {allowed} changes left {left}")
    _served(stand)
    return Outcome("full disk", tried, tried, 1, reason)


def two_publishers(stand: Stand, each: int) -> Outcome:
    """Both publish at once: all versions stand, in an order that all agree on, and the last is served."""
    published: list[str] = []
    errors: list[Exception] = []

    def publish() -> None:
        try:
            for number in range(each):
                published.append(stand.publish(3 + number, Registry(stand.root)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise FaultError(f"two publishers at once: {errors[0]}") from errors[0]
    there = stand.registry.versions(SCENARIO)
    if len(set(published)) != 2 * each or not set(published) <= set(there) or there[-1] not in published:
        raise FaultError(f"two publishers at once published {published}; there are {there}")
    _check(stand.registry)
    _served(stand)
    return Outcome("two publishers at once", 2 * each, 0, 2 * each, "")


def clock_back(stand: Stand) -> Outcome:
    """The publisher's clock goes back by forty days: what it publishes then is newer all the same, and is served."""
    before = stand.registry.versions(SCENARIO)[-1]

    class EarlierClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=40)

    with mock.patch.object(places, "datetime", EarlierClock):
        version = stand.publish(2)
    if version <= before:
        raise FaultError(f"a clock that went back: {version} is not after {before}")
    _served(stand)
    return Outcome("clock going back", 1, 0, 1, "")


def remote_faults(stand: Stand, folder: Path, publications: int) -> tuple[Outcome, list[str], int]:
    """A server on the mirror of a remote registry that is slow, fails, is full and goes away.

    Returns the outcome, what the client there complains of, and how many answers it got.
    """
    patience = mock.patch.object(RemoteStorage, "patience", Patience(tries=4, first_wait=0.001, longest_wait=0.01))
    with patience, contextlib.ExitStack() as stack:
        remote = Registry(f"faulty://{uuid.uuid4().hex}/registry")
        for binary in stand.registry.binaries():
            draft = binary.model_dump(mode="json", exclude={"files"})
            place = stand.root / "templates" / binary.template.name / binary.abi_hash / binary.target
            remote.publish_binary(draft, {name: place / name for name in binary.files})
        stand.publish(2, remote)
        mirror = Mirror(remote.root, folder)
        mirror.sync()
        server = stack.enter_context(SmtServer(folder, **{"poll-ms": 2, "workers": 1, "log-level": "error"}))
        client = stack.enter_context(Client(server.target))
        with Scorer(server.target, stand.rows) as scorer:
            refused, taken, reason = 0, 0, ""
            for number in range(publications):
                version = stand.publish(3 + number, remote)
                with faults(failing(0.3, number, wait=0.002)):  # slow, and one operation in three fails
                    while Registry(folder).current(SCENARIO) != version:
                        try:
                            mirror.sync()
                        except MirrorError as error:
                            refused, reason = refused + 1, str(error)
                _answered_by(client, stand, version)
                taken += 1
            for fault in (failing(1.0, 0), disk_full):  # away, or full: nothing can be published, all goes on
                before = scorer.answered
                with faults(fault):
                    reason = _refused(lambda: stand.publish(9, remote), "a publication")
                with faults(failing(1.0, 0)):
                    _refused(mirror.sync, "a mirror's look")
                refused += 2
                _answers_after(scorer, stand, before)
        wrong = [*scorer.failures, *wrong_answers(remote, stand.table, stand.rows, scorer.seen)]
        tried = publications + 4
    return Outcome("slow and failing remote file system", tried, refused, taken, reason), wrong, scorer.answered


def _spoilt(
    stand: Stand, version: str, case: str, damages: list[Callable[[dict[str, bytes]], dict[str, bytes]]]
) -> Outcome:
    reasons = [stand.spoil(version, damage) for damage in damages]
    return Outcome(case, len(damages), len(reasons), 0, reasons[-1] if reasons else "")


def _refused(action: Callable[[], object], what: str) -> str:
    """Why an action on a registry is refused."""
    try:
        action()
    except RegistryError as error:  # of which MirrorError is one
        return str(error)
    raise FaultError(f"{what} succeeded on a registry that is away or full")


def _answered_by(client: Client, stand: Stand, version: str) -> None:
    stand.wait_for(lambda _: client.predict(SCENARIO, stand.rows).version == version, f"answers by {version}")


def _answers_after(scorer: Scorer, stand: Stand, count: int) -> None:
    stand.wait_for(lambda _: scorer.answered > count, "answers while the registry is away")


def _served(stand: Stand) -> None:
    """Until what is current is served; then back to the stable version."""
    current = stand.registry.current(SCENARIO)
    stand.wait_for(lambda status: status.version == current, f"{current} to be served")
    stand.settle()


def _check(registry: Registry) -> None:
    if found := check_registry(registry).faults:
        raise FaultError(f"the registry is damaged: {found}")


@contextlib.contextmanager
def _full_after(changes: int) -> Iterator[None]:
    """Writes of the local storage succeed so many times; the one after that ends in the middle, as do all others."""
    count = itertools.count()

    def full(*_: Any) -> bool:
        return next(count) >= changes

    def no_space(path: object) -> OSError:
        return OSError(errno.ENOSPC, "No space left on device", str(path))

    add_pieces, replace_text = LocalStage.add_pieces, LocalStorage.replace_text

    def add(stage: LocalStage, name: str, pieces: Any) -> Digests:
        if not full():
            return add_pieces(stage, name, pieces)
        first = next(iter(pieces))
        add_pieces(stage, name, [first[: len(first) // 2]])
        raise no_space(name)

    def replace(storage: LocalStorage, path: str, text: str) -> None:
        if full():
            raise no_space(path)
        replace_text(storage, path, text)

    with mock.patch.object(LocalStage, "add_pieces", add), mock.patch.object(LocalStorage, "replace_text", replace):
        yield
