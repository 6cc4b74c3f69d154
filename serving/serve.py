"""`smt serve`: finds smt-server and becomes it.

The command replaces its own process by the server (exec), so that signals, exit status and output are the server's.
Only for a registry behind a URL does it stay, to mirror the registry into a local folder: see mirror.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import smt.serving
from smt.serving.mirror import Mirror, cache_folder, run_beside
from smt.serving.registry import Registry, RegistryError

SERVER_VARIABLE = "SMT_SERVER"


class ServeError(RuntimeError):
    """The server cannot be started; the message says what to do."""


def find_server() -> Path:
    """smt-server: see find_executable."""
    return find_executable("smt-server", SERVER_VARIABLE)


def find_executable(name: str, variable: str) -> Path:
    """A C++ program of ours: what the environment variable names, else the one installed beside this package.

    Raises ServeError when there is none, with the way to build it.
    """
    override = os.environ.get(variable)
    # An editable install has two places: this folder, and the one that the build's products were installed to.
    places = [Path(place) / "bin" / name for place in smt.serving.__path__]
    path = Path(override) if override else next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        named = f"${variable} names {path}, which" if override else f"{path}"
        raise ServeError(
            f"{named} does not exist. `pip install .` builds and installs it (`make setup` in a clone); "
            f"or set {variable} to an {name} built elsewhere"
        )
    if not os.access(path, os.X_OK):
        raise ServeError(f"{path} cannot be executed; `chmod +x` it or install again")
    return path


def server_environment(server: Path) -> dict[str, str]:
    """The environment to run the server in: ours, with torch's libraries in LD_LIBRARY_PATH if it cannot start else."""
    environment = dict(os.environ)
    missing = _missing_libraries(server, environment)
    if not missing:
        return environment
    spec = importlib.util.find_spec("torch")  # without importing it, which takes seconds
    folders = [str(Path(place) / "lib") for place in (spec.submodule_search_locations or [] if spec else [])]
    present = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = ":".join([*folders, *([present] if present else [])])
    still = _missing_libraries(server, environment)
    if still:
        raise ServeError(f"{server} cannot start: {still}")
    return environment


def serve(registry: Registry, arguments: Sequence[str], *, poll_seconds: float = 1.0) -> NoReturn:
    """Runs the server on a registry until it ends; never returns.

    Args:
        arguments: the server's options, all but --registry.
        poll_seconds: how often a registry behind a URL is looked at.

    Raises ServeError or RegistryError before the server starts.
    """
    server = find_server()
    environment = server_environment(server)
    folder = registry.local_root
    if folder is not None:
        if not folder.is_dir():
            raise RegistryError(f"{folder}: no such folder; `smt publish --registry {folder}` makes it")
        _become(server, ["--registry", str(folder), *arguments], environment)
    cache = cache_folder(registry.root)
    mirror = Mirror(registry.root, cache)
    mirror.sync()
    command = [str(server), "--registry", str(cache), *arguments]
    sys.exit(run_beside(command, environment, mirror, poll_seconds))


def _become(server: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(server, [str(server), *arguments], dict(environment))


def _missing_libraries(server: Path, environment: Mapping[str, str]) -> str:
    """What the dynamic linker says it does not find; empty if the server can start."""
    probe = subprocess.run([server, "--version"], env=environment, capture_output=True, text=True, check=False)
    return probe.stderr.strip() if "error while loading shared libraries" in probe.stderr else ""
