"""
The client of an ssh-agent: it lists the agent's keys, and has the agent sign.

Source: draft-ietf-sshm-ssh-agent (formerly draft-miller-ssh-agent), sections 3.5 and 3.6.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from msgspec import Struct
from twisted.conch.ssh.common import NS, getNS
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from relayd.language.texts import Fault, Text, span
from relayd.network.descriptors import words_for, words_of
from relayd.ssh.keys.types import key_type, uncertified

SSH_AGENTC_REQUEST_IDENTITIES = 11
SSH_AGENT_IDENTITIES_ANSWER = 12
SSH_AGENTC_SIGN_REQUEST = 13
SSH_AGENT_SIGN_RESPONSE = 14

#: Flags of a request for an RSA signature; without one, an agent signs with SHA-1.
_FLAGS = {b"rsa-sha2-256": 2, b"rsa-sha2-512": 4}
#: The longest answer accepted, in bytes, as in OpenSSH.
MAX_ANSWER = 256 * 1024
#: The longest path of a socket on Linux, in bytes (unix(7)).
MAX_PATH = 107


class AgentError(Fault):
    """An ssh-agent cannot be used; the argument says why."""


class AgentKey(Struct, frozen=True):
    """
    A key that an agent has.

    :ivar blob: the public key or the certificate, as it is on the wire.
    :ivar comment: a name for its owner.
    """

    blob: bytes
    comment: bytes


class Agent:
    """
    One ssh-agent. Each request has a connection of its own, so that one that hangs leaves nothing behind.

    :param reactor: provides time and UNIX sockets.
    :param path: of the agent's socket.
    :param timeout: seconds that the agent may take for each answer.
    """

    def __init__(self, reactor: Any, path: str, timeout: float) -> None:
        self._reactor = reactor
        self._path = path
        self._timeout = timeout

    async def keys(self) -> list[AgentKey]:
        """
        All its keys, in its order.

        :raises AgentError: also when it has none.
        """
        rest = await self._ask(SSH_AGENTC_REQUEST_IDENTITIES, b"", SSH_AGENT_IDENTITIES_ANSWER)
        count, rest = int.from_bytes(rest[:4], "big"), rest[4:]
        found: list[AgentKey] = []
        while len(found) < count:
            blob, comment, rest = _strings(rest, 2)
            found.append(AgentKey(blob, comment))
        if not found:
            raise AgentError("it holds no key, or is locked")
        return found

    async def sign(self, blob: bytes, data: bytes, algorithm: bytes) -> bytes:
        """
        Have the agent sign *data*.

        :param blob: the key or certificate, as `keys` gave it.
        :param algorithm: of the signature, such as ``rsa-sha2-512``.
        :return: the signature (RFC 4253, section 6.6).
        :raises AgentError: also when the agent uses another algorithm: old ones know only SHA-1 for RSA.
        """
        request = NS(blob) + NS(data) + _FLAGS.get(algorithm, 0).to_bytes(4, "big")
        answer = await self._ask(SSH_AGENTC_SIGN_REQUEST, request, SSH_AGENT_SIGN_RESPONSE)
        signature, _rest = _strings(answer, 1)
        if key_type(signature) == algorithm:
            return signature
        raise AgentError("it does not sign with {algorithm}", algorithm=algorithm.decode("ascii"))

    async def _ask(self, message: int, payload: bytes, expected: int) -> bytes:
        """Send a request; the answer is without its message number."""
        if len(os.fsencode(self._path)) > MAX_PATH:  # with Twisted, such a connection times out
            raise AgentError("its path is too long for a socket")
        exchange = _Exchange(bytes((message,)) + payload)
        endpoint = UNIXClientEndpoint(self._reactor, self._path, self._timeout)
        try:
            os.stat(self._path)
            await connectProtocol(endpoint, exchange)
        except ConnectError as error:
            raise AgentError("its socket cannot be used: {reason}", reason=_reason(error)) from None
        except (OSError, ValueError) as error:
            reason = words_of(error) if isinstance(error, OSError) else Text(str(error))
            raise AgentError("its socket cannot be used: {reason}", reason=reason) from None
        try:
            answer = await exchange.answer.addTimeout(self._timeout, self._reactor, _hanging)
        finally:
            exchange.close()
        if answer[:1] != bytes((expected,)):
            # Locked, not confirmed, or the key is gone: the protocol does not say.
            if message == SSH_AGENTC_SIGN_REQUEST:
                raise AgentError("it refused")
            raise AgentError("it does not list its keys")
        return answer[1:]


class _Exchange(Int32StringReceiver):
    """One request and its answer."""

    MAX_LENGTH = MAX_ANSWER
    transport: Any = None

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.sendString(self._request)

    def stringReceived(self, string: bytes) -> None:
        if not self.answer.called:
            self.answer.callback(string)

    def lengthLimitExceeded(self, length: int) -> None:
        self._fail(AgentError("its answer is too long"))
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fail(AgentError("it hung up without an answer"))

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.abortConnection()

    def _fail(self, error: AgentError) -> None:
        if not self.answer.called:
            self.answer.errback(error)


def _strings(data: bytes, count: int) -> list[bytes]:
    """The first *count* strings of an answer, and the rest of it."""
    try:
        return list(getNS(data, count))
    except struct.error:
        raise AgentError("its answer is malformed") from None


def _hanging(_result: object, timeout: float) -> bytes:
    raise AgentError("it did not answer within {time}", time=span(timeout))


def _reason(error: ConnectError) -> str:
    """Such as “No such file or directory”."""
    number = error.osError
    return words_for(number) if isinstance(number, int) else str(error)


def can_be_used(blob: bytes) -> bool:
    """Whether a key or certificate of an agent is of a type to log in with; security keys are, too."""
    return uncertified(key_type(blob)) in _USABLE


_USABLE = frozenset(
    (
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"ssh-rsa",
        b"sk-ssh-ed25519@openssh.com",
        b"sk-ecdsa-sha2-nistp256@openssh.com",
    )
)
