"""TLS of the clients: which CA to trust, and which certificate to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

# In place of a CA file: the CAs that this machine trusts.
SYSTEM = "system"


class TlsError(ValueError):
    """The files do not make a TLS client; the message names the file, or what is missing."""


@dataclass(frozen=True)
class Tls:
    """How a client speaks TLS.

    Attributes:
        ca: PEM file of the CAs that may have signed the server's certificate; "system": those of this machine.
        cert, key: PEM files with the client's certificate and its key, for a server that asks for one (mutual TLS).
        server_name: the name that the server's certificate holds, where it is not the one that is connected to.
    """

    ca: str | Path = SYSTEM
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises TlsError for a file that cannot be read or is no PEM, and for a certificate without its key."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise TlsError(f"TLS: a client's {given} without its {missing}; expected both, or neither")
        return grpc.ssl_channel_credentials(
            None if str(self.ca) == SYSTEM else _pem(self.ca, "CERTIFICATE"),
            _pem(self.key, "PRIVATE KEY"),
            _pem(self.cert, "CERTIFICATE"),
        )

    def options(self) -> tuple[tuple[str, Any], ...]:
        """Channel options that belong to it."""
        return () if self.server_name is None else (("grpc.ssl_target_name_override", self.server_name),)


def channel(module: Any, target: str, options: tuple[tuple[str, Any], ...], tls: Tls | None) -> Any:
    """A channel of `module`, which is grpc or grpc.aio; without `tls` a plain one."""
    if tls is None:
        return module.insecure_channel(target, options)
    return module.secure_channel(target, tls.credentials(), (*options, *tls.options()))


def _pem(path: str | Path | None, kind: str) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TlsError(f"TLS: {path}: {error.strerror or error}") from error
    # gRPC itself fails at the first call, without a word about the file.
    if f"{kind}-----".encode() not in content:
        raise TlsError(f"TLS: {path}: holds no {kind.lower()}; expected PEM")
    return content
