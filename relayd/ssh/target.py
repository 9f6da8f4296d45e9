"""
Whom a connection is for: a host, a user, and what proves that it may act for the user.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from msgspec import Struct

# A digest made with this key is of no use outside this process: not to guess a password from a dump of the pool.
_DIGEST_KEY = os.urandom(32)


class Credential:
    """
    A password, a private key, or both (a server may ask for both).

    Never shown: two credentials are told apart by `digest`, which is meaningless in another process.

    :param private_key: text of a key file.
    :param passphrase: decrypts it.
    :param certificate: what a certificate authority signed for the key: text of a file like ``id_ed25519-cert.pub``.
    :param agent: path of an ssh-agent's socket: its keys are tried.
    """

    __slots__ = ("__weakref__", "agent", "certificate", "digest", "passphrase", "password", "private_key")

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
        hasher = blake2b(key=_DIGEST_KEY, digest_size=16)
        for part in (password, private_key, passphrase, certificate, agent):
            text = b"" if part is None else part.encode("utf-8", "surrogatepass")
            hasher.update(b"%d %d " % (part is not None, len(text)))
            hasher.update(text)
        self.digest = hasher.digest()

    def __repr__(self) -> str:
        return "<Credential>"

    @property
    def has_key(self) -> bool:
        """Whether there is a key that may be shown at the login."""
        return self.private_key is not None or self.agent is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Target(Struct, frozen=True):
    """
    One user on one SSH server: connections are shared by those with an equal target, and by nobody else.

    :ivar host: name or address, by the spelling that stands for all of its: `relayd.network.spelling.canonical_host`.
        Known keys, limits and guards go by it.
    :ivar host_key: the fingerprint that the host's key must have, see `relayd.ssh.host_keys.verifier.ExpectedHostKey`,
        whatever the known hosts say, unless *site* is set; ``None``: the known hosts decide.
    :ivar via: the SSH server through which this one is reached (``ssh -J``), which may itself have one.
    :ivar trusted: whether the site itself named it, as a jump host, so that no `AddressCheck` is asked. It is of the
        target so that nobody else rides on a connection that was not checked.
    :ivar site: whether the credential is the site's own, which goes only to a host that the known hosts take, too. It
        is of the target so that nobody rides on a connection whose key only *host_key* vouches for.
    :ivar detour: names the way where it is not the site's own: what is met there is not remembered as the host itself.
    :ivar looked_up: what is looked up or connected to, where that is not *host*:
        `relayd.network.spelling.dialled_host`. It is of the target, as it may lead to another machine.
    :ivar alone: whether it gets a connection to itself, for one command: what it sends may end the connection.
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
        return f"<Target {self.username}@{self.host}:{self.port}>"

    @property
    def dialled(self) -> str:
        """What is looked up, or connected to."""
        return self.host if self.looked_up is None else self.looked_up

    def digest(self) -> bytes:
        """
        Stands for this target, however its host was spelt, where that is remembered for longer than its secrets may be;
        like that of a credential, it is meaningless in another process.
        """
        hasher = blake2b(key=_DIGEST_KEY, digest_size=16)
        at: Target | None = self
        while at is not None:
            place = [getattr(at, name) for name in _PLACE]
            hasher.update(repr(place).encode("utf-8", "surrogatepass") + at.credential.digest)
            at = at.via
        return hasher.digest()


# What tells logins apart, beside their credentials and their ways; with another spelling it is the same login, for a
# server that counts
_PLACE = tuple(name for name in Target.__struct_fields__ if name not in ("credential", "via", "looked_up", "alone"))
