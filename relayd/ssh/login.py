"""
Logging in: the client side of the SSH authentication protocol.

Source: RFC 4252 (methods none, publickey, password), RFC 4256 (keyboard-interactive), RFC 8332 (RSA with SHA-2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.service import SSHService

from relayd.ssh.algorithms import signature_algorithms
from relayd.ssh.errors import LoginRefused, PasswordExpired, SSHError
from relayd.ssh.text import printable
from relayd.ssh.transport import ClientTransport

MSG_USERAUTH_REQUEST = 50
MSG_USERAUTH_FAILURE = 51
MSG_USERAUTH_SUCCESS = 52
MSG_USERAUTH_BANNER = 53
#: The same number is PK_OK, PASSWD_CHANGEREQ or INFO_REQUEST, by the method under way.
MSG_USERAUTH_METHOD = 60
MSG_USERAUTH_INFO_RESPONSE = 61

#: Prompts answered before a server that keeps asking is left: it wants something that relayd does not have.
MAX_PROMPTS = 8


class LoginService(SSHService):
    """
    Logs one user in with what a credential holds, by the methods that the server offers.

    The server is first asked which methods it offers (method ``none``), so that none is tried in vain: each refusal
    counts against the relay at the server.

    :param key: the private key, parsed, or ``None``.
    :param password: or ``None``.
    :param on_success: called when the server lets us in; it starts the next service.
    :param on_failure: called with what went wrong.
    """

    name = b"ssh-userauth"
    transport: ClientTransport

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str,
        password: str | None,
        key: Key | None,
        on_success: Callable[[], None],
        on_failure: Callable[[SSHError], None],
    ) -> None:
        self._host = host
        self._port = port
        self._username = username
        self._password = password
        self._key = key
        self._on_success = on_success
        self._on_failure = on_failure
        self._method = b"none"
        self._tried: list[str] = []
        self._password_refused = False
        self._prompts = 0
        self._signatures: list[bytes] = []

    def __repr__(self) -> str:
        return f"<LoginService {self._username}@{self._host}:{self._port}>"

    # Hooks of SSHService

    def serviceStarted(self) -> None:
        if self._key is not None:
            accepted = self.transport.peerExtensions.get(b"server-sig-algs")
            self._signatures = list(signature_algorithms(self._key.sshType(), accepted, self.transport.policy))
        self._request(b"none")

    def packetReceived(self, message: int, packet: bytes) -> None:
        if message == MSG_USERAUTH_SUCCESS:
            self._password = self._key = None
            self._on_success()
        elif message == MSG_USERAUTH_FAILURE:
            offered, rest = getNS(packet)
            self._refused(offered.split(b",") if offered else [], partial=rest[:1] not in (b"", b"\0"))
        elif message == MSG_USERAUTH_METHOD and self._method == b"keyboard-interactive":
            self._answer_prompts(packet)
        elif message == MSG_USERAUTH_METHOD and self._method == b"password":
            self._on_failure(PasswordExpired(host=self._host, port=self._port, username=self._username))
        # A banner is for a person to read; anything else has no meaning here and is passed over.

    def serviceStopped(self) -> None:
        # Some servers hang up on a wrong password; to take that for a fault of the network and to try again would lock
        # the account, or the relay, out.
        if self._tried and self.transport.told_to_leave:
            self._give_up(f"no more attempts ({self.transport.lost_reason})")

    # Choosing a method

    def _refused(self, offered: list[bytes], *, partial: bool) -> None:
        """The method under way was refused, or, with *partial*, accepted as one of several that are wanted."""
        if self._method == b"password" and not partial:
            self._password_refused = True
        if b"publickey" in offered and self._key is not None and self._signatures:
            self._try_key(self._key, self._signatures.pop(0))
        elif b"password" in offered and self._password is not None and "password" not in self._tried:
            self._tried.append("password")
            self._request(b"password", b"\0" + NS(self._password.encode("utf-8")))
        elif (
            b"keyboard-interactive" in offered
            and self._password is not None
            and "keyboard-interactive" not in self._tried
            # The same password again, where it was just refused, would only count as one more failure.
            and not self._password_refused
        ):
            self._tried.append("keyboard-interactive")
            self._request(b"keyboard-interactive", NS(b"") + NS(b""))
        else:
            self._give_up(printable(b", ".join(offered)) or "nothing")

    def _give_up(self, offered: str) -> None:
        self._on_failure(
            LoginRefused(
                host=self._host,
                port=self._port,
                username=self._username,
                tried=" and ".join(dict.fromkeys(self._tried)) or "nothing, as none of it fits",
                offered=offered,
            )
        )

    def _request(self, method: bytes, rest: bytes = b"") -> None:
        self._method = method
        self.transport.sendPacket(
            MSG_USERAUTH_REQUEST, NS(self._username.encode("utf-8")) + NS(b"ssh-connection") + NS(method) + rest
        )

    # publickey (RFC 4252, section 7)

    def _try_key(self, key: Key, algorithm: bytes) -> None:
        """Sign at once: to ask first whether the key would do costs a round trip and gains nothing."""
        self._tried.append("publickey")
        fields = b"\1" + NS(algorithm) + NS(key.public().blob())
        signed = (
            NS(self.transport.sessionID or b"")
            + bytes((MSG_USERAUTH_REQUEST,))
            + NS(self._username.encode("utf-8"))
            + NS(b"ssh-connection")
            + NS(b"publickey")
            + fields
        )
        self._request(b"publickey", fields + NS(key.sign(signed, signatureType=algorithm)))

    # keyboard-interactive (RFC 4256, section 3)

    def _answer_prompts(self, packet: bytes) -> None:
        """Answer each hidden prompt with the password; servers that hide their password method ask for it like this."""
        _name, _instruction, _language, rest = getNS(packet, 3)
        (count,), rest = struct.unpack(">L", rest[:4]), rest[4:]
        self._prompts += max(1, count)  # a round without a prompt counts too: some send one at the end
        if self._prompts > MAX_PROMPTS or self._password is None:
            self._tried.append("more prompts than relayd can answer")
            self._refused([], partial=False)
            return
        answers = []
        for _ in range(count):
            prompt, rest = getNS(rest)
            shown, rest = rest[:1] != b"\0", rest[1:]
            # What may be shown on a screen is not a password, unless the prompt says so.
            secret = not shown or b"password" in prompt.lower()
            answers.append(NS(self._password.encode("utf-8") if secret else b""))
        self.transport.sendPacket(MSG_USERAUTH_INFO_RESPONSE, struct.pack(">L", count) + b"".join(answers))
