"""
Who is logged in where: a host, a user, the user's credential, and the way to the host.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

# Digests made with this key mean nothing outside this process, so nobody can guess a password from a digest.
_DIGEST_KEY = os.urandom(32)


class Credential:
    """
    A password, a private key, or both (a server may ask for both).

    It is never shown. Two credentials are compared by `digest`, which is meaningless in another process.

    :param private_key: text of a key file.
    :param passphrase: decrypts the private key.
    :param certificate: the certificate of the key: text of a file like ``id_ed25519-cert.pub``.
    :param agent: path of the socket of an ssh-agent, whose keys are tried.
    :ivar key_file: where the site keeps the private key, for messages; empty: it came from elsewhere.
    :ivar certificate_file: the same of the certificate.
    """

    __slots__ = (
        "__weakref__", "agent", "certificate", "certificate_file", "digest", "key_file", "passphrase", "password",
        "private_key",
    )  # fmt: skip

    def __init__(
        self,
        password: str | None = None,
        private_key: str | None = None,
        passphrase: str | None = None,
        certificate: str | None = None,
        agent: str | None = None,
    ) -> None:
        self.password = password
        self.private_key = private_key
        self.passphrase = passphrase
        self.certificate = certificate
        self.agent = agent
        self.key_file = ""
        self.certificate_file = ""
        pieces: list[bytes] = []
        for part in (password, private_key, passphrase, certificate, agent):
            if part is None:
                pieces.append(b"- ")
            else:
                text = part.encode("utf-8", "surrogatepass")
                pieces += (b"%d " % len(text), text)
        self.digest = blake2b(b"".join(pieces), key=_DIGEST_KEY, digest_size=16).digest()

    def __repr__(self) -> str:
        return "<Credential>"

    @property
    def has_key(self) -> bool:
        """Whether there is a key, or an agent, to log in with."""
        return self.private_key is not None or self.agent is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Target(Struct, frozen=True):
    """
    One user on one SSH server. Commands with equal targets share connections, and no others do.

    :ivar host: name or address, in its canonical spelling (`relayd.network.spelling.canonical_host`), by which host
        keys and limits are kept.
    :ivar host_key: the fingerprint that the host's key must have, see `relayd.ssh.host_keys.verifier.ExpectedHostKey`,
        whatever the known hosts say, unless *site* is set; ``None``: the known hosts decide.
    :ivar via: the SSH server through which this one is reached (``ssh -J``), which may itself have one.
    :ivar trusted: whether the site itself named it, as a jump host, so that no `AddressCheck` is asked. It is part of
        the target so that no other command uses a connection that was not checked.
    :ivar site: whether the credential is the site's own, which goes only to a host that the known hosts accept, too. It
        is part of the target so that no command with the site's credential uses a connection whose key was only checked
        against *host_key*.
    :ivar detour: names the way where it is not the site's own: a host key seen there is not remembered as the host's.
    :ivar looked_up: what is looked up or connected to, where that is not *host*:
        `relayd.network.spelling.dialled_host`. It is part of the target, as it may lead to another machine.
    :ivar alone: whether it gets a connection to itself, for one command: what is sent may end the connection.
    """

    host: str
    port: int
    username: str
    credential: Credential
    host_key: str | None = None
    via: Target | None = None
    trusted: bool = False
    site: bool = False
    detour: str = ""
    looked_up: str | None = None
    alone: bool = False

    def __repr__(self) -> str:
        return f"<Target {self}>"

    def __str__(self) -> str:
        return f"{self.username}@{self.host}:{self.port}"

    @property
    def log_fields(self) -> dict[str, Any]:
        """It as fields of a log line."""
        return {"target": self, "user": self.username, "host": self.host, "port": self.port}

    @property
    def dialled(self) -> str:
        """What is looked up, or connected to."""
        return self.host if self.looked_up is None else self.looked_up

    def shared(self) -> Target:
        """The same login, on a connection that other commands may use, too."""
        return replace(self, alone=False) if self.alone else self

    def digest(self) -> bytes:
        """
        Identifies this target, however its host was spelt, where it is remembered longer than its secrets may be. Like
        that of a credential, it is meaningless in another process.
        """
        hasher = blake2b(key=_DIGEST_KEY, digest_size=16)
        at: Target | None = self
        while at is not None:
            place = [getattr(at, name) for name in _PLACE]
            hasher.update(repr(place).encode("utf-8", "surrogatepass") + at.credential.digest)
            at = at.via
        return hasher.digest()


# What tells logins apart, besides credentials and jump hosts. Not the spelling: to a server that counts failed logins
# it is the same login.
_PLACE = tuple(name for name in Target.__struct_fields__ if name not in ("credential", "via", "looked_up", "alone"))
