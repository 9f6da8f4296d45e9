"""
What a credential can prove who we are with, beside its password: its key, its certificate, the keys of its agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred

from relayd.language.texts import Text
from relayd.ssh.errors import AgentUnusable, CertificateUnusable, KeyUnreadable, SSHError
from relayd.ssh.keys.certificates import BadCertificate, Certificate, read_user_certificate
from relayd.ssh.keys.private import KeyStore, UnreadableKey
from relayd.ssh.keys.types import key_type
from relayd.ssh.login.agent import Agent, AgentError, AgentKey, can_be_used
from relayd.ssh.target import Target

#: Seconds that an agent has for each answer, at most: it is on this machine, and the login's own limit is running.
AGENT_TIMEOUT = 5.0

#: Signs data by an algorithm such as ``rsa-sha2-512``.
Sign = Callable[[bytes, bytes], "bytes | Deferred[bytes]"]


class Identity:
    """
    A public key, or a certificate of one, and the way to sign with it.

    :ivar blob: the key or certificate as it is on the wire.
    :ivar sign: see `Sign`; may raise, or its Deferred fail with, `AgentError`.
    :ivar name: what an error calls it.
    :ivar ask_first: whether to ask the server if it would do before anything is signed: an agent may ask a person.
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
    :ivar usable: in the order in which to try them.
    :ivar remarks: why others cannot be used, in words for whoever reads that the login was refused.
    :ivar tried_before: what was tried on another connection, in such words.
    """

    usable: tuple[Identity, ...] = ()
    remarks: tuple[str, ...] = ()
    tried_before: tuple[str, ...] = ()


class IdentityLoader:
    """
    Makes ready what a credential holds, before the host is troubled.

    :param reactor: provides time and UNIX sockets.
    :param agent_timeout: seconds that an agent has for each answer.
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
        Read key and certificate, ask the agent; the certificate comes before the plain key, and both before the agent.

        What cannot be used is an error, unless there is a password to try instead; an agent's fault is none beside a
        key.  A certificate is of the private key, or of a key of the agent where there is none.

        :raises SSHError: `KeyUnreadable`, `CertificateUnusable` or `AgentUnusable`.
        """
        credential = target.credential
        where = {"host": target.host, "username": target.username}
        usable: list[Identity] = []
        faults: list[SSHError] = []
        remarks: list[str] = []
        certificate: Certificate | None = None
        if credential.certificate is not None:
            try:
                certificate = read_user_certificate(credential.certificate, self._now())
                if credential.private_key is None and credential.agent is None:
                    raise BadCertificate("there is no private key to it")
            except BadCertificate as error:
                faults.append(CertificateUnusable(**where, reason=error.text))
        if credential.private_key is not None:
            try:
                key = await self._keys.load(credential)
                usable += own_identities(key, certificate, target.username)
            except UnreadableKey as error:
                faults.append(KeyUnreadable(**where, reason=error.text))
            except BadCertificate as error:
                faults.append(CertificateUnusable(**where, reason=error.text))
            certificate = None
        if credential.agent is not None:
            try:
                agent = Agent(self._reactor, credential.agent, self._agent_timeout)
                usable += _of_agent(agent, await agent.keys(), certificate, target.username)
            except AgentError as error:
                unusable = AgentUnusable(**where, path=credential.agent, reason=error.text)
                if usable:
                    remarks.append(unusable.text)
                else:
                    faults.append(unusable)
            except BadCertificate as error:
                faults.append(CertificateUnusable(**where, reason=error.text))
        if faults and credential.password is None:
            raise faults[0]
        return Identities(tuple(usable), (*(fault.text for fault in faults), *remarks))


def own_identities(key: Key, certificate: Certificate | None, username: str) -> list[Identity]:
    """
    What a private key at hand can be used as: first with its certificate, then plain, as OpenSSH does.

    :raises BadCertificate: when that is of another key.
    """
    blob = key.public().blob()

    def sign(data: bytes, algorithm: bytes) -> bytes:
        signature: bytes = key.sign(data, signatureType=algorithm)
        return signature

    plain = Identity(blob, sign)
    if certificate is None:
        return [plain]
    if certificate.key != blob:
        raise BadCertificate("it is not of the private key that came with it")
    return [Identity(certificate.blob, sign, _name(certificate, username)), plain]


def _of_agent(agent: Agent, keys: list[AgentKey], certificate: Certificate | None, username: str) -> list[Identity]:
    def identity(held: bytes, shown: bytes, name: str) -> Identity:
        def sign(data: bytes, algorithm: bytes) -> Deferred[bytes]:
            return Deferred.fromCoroutine(agent.sign(held, data, algorithm))

        return Identity(shown, sign, name, ask_first=True)

    found = [identity(key.blob, key.blob, Text("publickey from the agent")) for key in keys if can_be_used(key.blob)]
    if not found:
        raise AgentError("none of its keys is of a type that relayd knows")
    if certificate is None:
        return found
    if certificate.key not in [key.blob for key in keys]:
        raise BadCertificate("it is of a key that the agent does not hold")
    return [identity(certificate.key, certificate.blob, _name(certificate, username)), *found]


def _name(certificate: Certificate, username: str) -> str:
    """
    What an error calls a certificate.  That the user is not among its principals is no error by itself: the server may
    map them (sshd_config(5), AuthorizedPrincipalsFile).
    """
    if username.encode("utf-8") in certificate.principals:
        return Text("publickey with a certificate")
    return Text(
        "publickey with a certificate (which is for {names}, not for {username})",
        names=certificate.names(),
        username=username,
    )
