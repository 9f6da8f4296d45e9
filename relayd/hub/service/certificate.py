"""
The hub's own certificate: TLS as a server, with files that are read again when they change.
"""

from __future__ import annotations

import os
from typing import Any, Final, NoReturn

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from zope.interface import implementer

from relayd.errors import ConfigError
from relayd.network.descriptors import words_of

_log = Logger("relayd.hub")

#: Seconds between two looks whether the files have changed.
INTERVAL: Final = 1.0


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """
    The certificate of ``--tls-cert`` and the key of ``--tls-key``.

    Files that changed and cannot be used leave the old ones in use, and the log says why: whoever renews them may have
    written only one of the two yet.
    """

    def __init__(self, clock: IReactorTime, certificate: str, key: str) -> None:
        self._clock = clock
        self._certificate = certificate
        self._key = key
        self._context: SSL.Context | None = None
        self._stamp: object = None
        self._looked = 0.0

    def read(self) -> None:
        """
        Read the files now.

        :raises ConfigError: when they cannot be used.
        """
        self._stamp, self._looked = self._stamp_now(), self._clock.seconds()
        self._context = self._make()

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted calls this for each connection."""
        now = self._clock.seconds()
        due = self._context is not None and now - self._looked >= INTERVAL
        self._looked = now if due else self._looked
        if due and self._stamp_now() != self._stamp:
            try:
                self.read()
            except ConfigError as error:
                _log.error("The certificate has changed, and cannot be used; the old one stays: {error}", error=error)
            else:
                _log.info("The certificate has changed: {path} was read again", path=self._certificate)
        if self._context is None:
            self.read()
        return SSL.Connection(self._context, None)  # type: ignore[arg-type]  # `read` has made it

    def _stamp_now(self) -> object:
        found = []
        for path in (self._certificate, self._key):
            try:
                status = os.stat(path)
            except OSError:
                return None
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return found

    def _make(self) -> SSL.Context:
        context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
        for option, path in (("--tls-cert", self._certificate), ("--tls-key", self._key)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ConfigError(option=option, reason=f"{path} cannot be read: {words_of(error)}") from None
        try:
            context.use_certificate_chain_file(self._certificate)
        except SSL.Error:
            reason = f"{self._certificate} holds no certificates in PEM, the hub's own first"
            raise ConfigError(option="--tls-cert", reason=reason) from None
        try:
            with open(self._key, "rb") as file:
                key = crypto.load_privatekey(crypto.FILETYPE_PEM, file.read(), _no_passphrase)
            context.use_privatekey(key)
            context.check_privatekey()
        except _Encrypted:
            reason = f"the key in {self._key} is encrypted; the hub needs it without a passphrase"
            raise ConfigError(option="--tls-key", reason=reason) from None
        except (crypto.Error, ValueError, OSError):
            raise ConfigError(option="--tls-key", reason=f"{self._key} holds no private key in PEM") from None
        except SSL.Error:
            reason = f"the key in {self._key} is not that of the first certificate in {self._certificate}"
            raise ConfigError(option="--tls-key", reason=reason) from None
        return context


class _Encrypted(Exception):
    """The key needs a passphrase."""


def _no_passphrase(*_: object) -> NoReturn:
    raise _Encrypted
