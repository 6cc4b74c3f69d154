"""Certificates for one test, made by the openssl command: nothing secret is committed, and none of them expires."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from smt.serving.tls import Tls


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA of its own, which signs certificates for localhost and 127.0.0.1 in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._count = 0
        self.pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        _openssl(
            *("req", "-x509", "-nodes", "-days", "3650", "-subj", f"/CN={name}", *_NEW_KEY),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"),
            *("-out", str(self.pair.cert), "-keyout", str(self.pair.key)),
        )

    @property
    def ca(self) -> Path:
        return self.pair.cert

    def sign(self, name: str, days: int = 3650) -> Pair:
        """A new certificate of this name with a new key."""
        self._count += 1
        stem = self._folder / f"{name}-{self._count}"
        pair, request, extensions = (
            Pair(stem.with_suffix(".crt"), stem.with_suffix(".key")),
            f"{stem}.csr",
            f"{stem}.ext",
        )
        Path(extensions).write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-nodes", "-subj", f"/CN={name}", *_NEW_KEY, "-out", request, "-keyout", str(pair.key))
        _openssl(
            *("x509", "-req", "-in", request, "-days", str(days), "-extfile", extensions, "-out", str(pair.cert)),
            *("-CA", str(self.pair.cert), "-CAkey", str(self.pair.key), "-CAcreateserial"),
        )
        return pair

    def client(self, pair: Pair | None = None) -> Tls:
        """A client that trusts this CA, and shows the certificate."""
        return Tls(self.ca, pair.cert if pair else None, pair.key if pair else None)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def encrypt(key: Path, to: Path) -> None:
    """The key under a passphrase."""
    _openssl("pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(to))


def install(pair: Pair, to: Pair) -> None:
    """Replaces both files, one after the other, as a deployment does: for a moment they do not fit together."""
    for source, target in ((pair.cert, to.cert), (pair.key, to.key)):
        beside = target.with_suffix(".new")
        beside.write_bytes(source.read_bytes())
        beside.rename(target)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"openssl {' '.join(arguments)}: {done.stderr}"
