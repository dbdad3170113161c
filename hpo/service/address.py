"""Where may the service listen, and by which name is it reached?

On loopback whoever can reach it is on this machine. Any other interface takes tokens, and TLS or a proxy that brings
it: tokens must not cross a network in the clear.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import SettingsError
from storage import tokens
from storage.database import Store

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
BACKLOG = 2048  # connections that wait to be accepted


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen, and what stands before. Raises SettingsError for options that do not go together."""

    host: str
    port: int  # 0: any that is free
    certificate: Path | None = None  # with its chain, PEM
    key: Path | None = None
    proxies: tuple[str, ...] = ()  # addresses or networks whose `X-Forwarded-For` and `-Proto` are believed

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("TLS takes both files: --tls-cert CERTIFICATE.pem and --tls-key KEY.pem")
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise SettingsError(
                    f"--behind-proxy {proxy}: give the address that the proxy's requests come from, "
                    "e.g. 127.0.0.1 or 10.0.0.0/24"
                ) from error
        if self.certificate is not None and self.key is not None:
            _check_certificate(self.certificate, self.key)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def has_tls(self) -> bool:
        """Whether it speaks https itself."""
        return self.certificate is not None

    @property
    def names(self) -> frozenset[str] | None:
        """The hosts that requests may be addressed to; None: any, for a proxy or a network has names of its own."""
        if not self.is_loopback or self.proxies:
            return None
        return LOOPBACK_NAMES | {self.host}

    def url(self, port: int) -> str:
        """What to open in a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{'https' if self.has_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def check_exposure(address: Address, store: Store) -> None:
    """Refuse to be reached from elsewhere without tokens, or in the clear. Raises SettingsError."""
    if address.is_loopback:
        return
    if not address.has_tls and not address.proxies:
        raise SettingsError(
            f"--host {address.host} can be reached from other machines, and tokens would cross the network in the "
            "clear: give --tls-cert and --tls-key, or put a proxy with TLS before it and name it by --behind-proxy"
        )
    if not tokens.has_tokens(store, roles=("admin",)):
        raise SettingsError(
            f"--host {address.host} can be reached from other machines, and nobody has a token yet: "
            "make one first, `hpo tokens create --role admin --owner YOU`"
        )


def listen(address: Address) -> socket.socket:
    """A socket that listens there, so that a busy port is known before anything is started. Raises SettingsError."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"--host {address.host} is no address of this machine: {error.strerror}") from error
    family, kind, protocol, _, where = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {address.port} of {address.host} is in use: is `hpo serve` running already? "
                "--port 0 takes any that is free"
            ) from error
        raise SettingsError(f"cannot listen on {address.host}, port {address.port}: {error.strerror}") from error
    return listening


def _check_certificate(certificate: Path, key: Path) -> None:
    for option, file in (("--tls-cert", certificate), ("--tls-key", key)):
        if not file.is_file():
            raise SettingsError(f"{option} {file}: there is no such file")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"--tls-cert {certificate} and --tls-key {key} are no PEM certificate with its key (without a password): "
            f"{error}"
        ) from error
