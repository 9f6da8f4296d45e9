"""
The keys and certificates to log in with: a credential's own, and those of its agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred

from relayd.language.texts import Text
from relayd.ssh.errors import AgentUnusable, CertificateUnusable, KeyUnreadable, SSHError
from relayd.ssh.keys.certificates import BadCertificate, Certificate, read_user_certificate
from relayd.ssh.keys.private import KeyStore, UnreadableKey, sign
from relayd.ssh.keys.types import key_type
from relayd.ssh.login.agent import Agent, AgentError, AgentKey, can_be_used
from relayd.ssh.target import Credential, Target

#: Most seconds that an agent may take for each answer: it is on this machine, and the time for the login is running.
AGENT_TIMEOUT = 5.0

#: Signs data with an algorithm such as ``rsa-sha2-512``.
Sign = Callable[[bytes, bytes], "bytes | Deferred[bytes]"]


class Identity:
    """
    A public key or a certificate, and the function that signs with its private key.

    :ivar blob: the key or certificate as it is on the wire.
    :ivar sign: see `Sign`; it may raise `AgentError`, or its Deferred may fail with that.
    :ivar name: its name in errors.
    :ivar ask_first: whether to ask the server if it would accept the key before anything is signed: an agent may ask a
        person for each signature.
    """

    __slots__ = ("ask_first", "blob", "name", "sign")

    def __init__(self, blob: bytes, sign: Sign, name: str = "publickey", *, ask_first: bool = False) -> None:
        self.blob = blob
        self.sign = sign
        self.name = name
        self.ask_first = ask_first

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"

    @property
    def key_type(self) -> bytes:
        """The type of the key or certificate."""
        return key_type(self.blob)


class Identities(Struct, frozen=True):
    """
    All identities of a credential.

    :ivar usable: in the order in which to try them.
    :ivar remarks: why others cannot be used, in words for the error when the login is refused.
    :ivar tried_before: what was tried on an earlier connection, in words for that error.
    """

    usable: tuple[Identity, ...] = ()
    remarks: tuple[str, ...] = ()
    tried_before: tuple[str, ...] = ()


class IdentityLoader:
    """
    Reads the identities of a credential, before its host is dialled.

    :param reactor: provides time and UNIX sockets.
    :param agent_timeout: seconds that an agent may take for each answer.
    :param now: gives the time of day, in Unix time.
    """

    def __init__(
        self,
        reactor: Any,
        keys: KeyStore,
        agent_timeout: float = AGENT_TIMEOUT,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._keys = keys
        self._agent_timeout = agent_timeout
        self._now = now

    async def load(self, target: Target) -> Identities:
        """
        Read key and certificate, and ask the agent.

        The certificate comes before the plain key, and both come before the keys of the agent. A certificate is that of
        the private key, or of a key of the agent where there is no private key. What cannot be used is an error, unless
        there is a password to try instead; for an agent, a key is enough.

        :raises SSHError: `KeyUnreadable`, `CertificateUnusable` or `AgentUnusable`.
        """
        credential = target.credential
        found = _Found(target)
        certificate = self._certificate(credential, found)
        if credential.private_key is not None:
            await self._add_key(credential, certificate, found)
            certificate = None
        if credential.agent is not None:
            await self._add_agent(credential.agent, certificate, found)
        if found.faults and credential.password is None:
            raise found.faults[0]
        return Identities(tuple(found.usable), (*(fault.text for fault in found.faults), *found.remarks))

    def _certificate(self, credential: Credential, found: _Found) -> Certificate | None:
        if credential.certificate is None:
            return None
        try:
            certificate = read_user_certificate(credential.certificate, self._now())
            if credential.private_key is None and credential.agent is None:
                raise BadCertificate("its private key is missing")
        except BadCertificate as error:
            found.bad_certificate(error)
            return None
        return certificate

    async def _add_key(self, credential: Credential, certificate: Certificate | None, found: _Found) -> None:
        try:
            key = await self._keys.load(credential)
            found.usable += own_identities(key, certificate, found.username, self._keys.sign)
        except UnreadableKey as error:
            found.faults.append(KeyUnreadable(**found.where, reason=_located(error.text, credential.key_file)))
        except BadCertificate as error:
            found.bad_certificate(error)

    async def _add_agent(self, path: str, certificate: Certificate | None, found: _Found) -> None:
        try:
            agent = Agent(self._reactor, path, self._agent_timeout)
            found.usable += _of_agent(agent, await agent.keys(), certificate, found.username)
        except AgentError as error:
            unusable = AgentUnusable(**found.where, path=path, reason=error.text)
            if found.usable:
                found.remarks.append(unusable.text)
            else:
                found.faults.append(unusable)
        except BadCertificate as error:
            found.bad_certificate(error)


class _Found:
    """What `IdentityLoader.load` has found so far."""

    def __init__(self, target: Target) -> None:
        self.username = target.username
        self._certificate_file = target.credential.certificate_file
        self.where = {"host": target.host, "username": target.username}
        self.usable: list[Identity] = []
        self.faults: list[SSHError] = []
        self.remarks: list[str] = []

    def bad_certificate(self, error: BadCertificate) -> None:
        """The certificate cannot be used."""
        reason = _located(error.text, self._certificate_file)
        self.faults.append(CertificateUnusable(**self.where, reason=reason))


def _located(reason: Text, file: str) -> Text:
    """*reason* with the site's file that it is about, if it is about one."""
    return Text("{file}: {reason}", file=file, reason=reason) if file else reason


def own_identities(
    key: Key,
    certificate: Certificate | None,
    username: str,
    sign_with: Callable[[Key, bytes, bytes], bytes | Deferred[bytes]] = sign,
) -> list[Identity]:
    """
    The identities of a private key: with its certificate first, then plain, as in OpenSSH.

    :param sign_with: signs with the key, as `KeyStore.sign`.
    :raises BadCertificate: when the certificate is for another key.
    """
    blob = key.public().blob()
    own = partial(sign_with, key)
    plain = Identity(blob, own)
    if certificate is None:
        return [plain]
    if certificate.key != blob:
        raise BadCertificate("it is not for the private key that came with it")
    return [Identity(certificate.blob, own, _name(certificate, username)), plain]


def _of_agent(agent: Agent, keys: list[AgentKey], certificate: Certificate | None, username: str) -> list[Identity]:
    def identity(held: bytes, shown: bytes, name: str) -> Identity:
        def sign(data: bytes, algorithm: bytes) -> Deferred[bytes]:
            return Deferred.fromCoroutine(agent.sign(held, data, algorithm))

        return Identity(shown, sign, name, ask_first=True)

    found = [identity(key.blob, key.blob, Text("publickey from the agent")) for key in keys if can_be_used(key.blob)]
    if not found:
        raise AgentError("none of its keys is of a supported type")
    if certificate is None:
        return found
    if certificate.key not in [key.blob for key in keys]:
        raise BadCertificate("it is for a key that the agent does not hold")
    return [identity(certificate.key, certificate.blob, _name(certificate, username)), *found]


def _name(certificate: Certificate, username: str) -> str:
    """
    The name of a certificate in errors.

    It is no error by itself that the user is not among the principals: the server may map them (sshd_config(5),
    AuthorizedPrincipalsFile).
    """
    if username.encode("utf-8") in certificate.principals:
        return Text("publickey with a certificate")
    return Text(
        "publickey with a certificate (which is for {names}, not for {username})",
        names=certificate.names(),
        username=username,
    )
