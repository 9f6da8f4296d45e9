"""
Logging in: the client side of the SSH authentication protocol.

Source: RFC 4252 (methods none, publickey, password), RFC 4256 (keyboard-interactive), RFC 8332 (RSA with SHA-2),
OpenSSH's PROTOCOL.certkeys (certificates).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from relayd.ssh.agent import AgentError
from relayd.ssh.algorithms import signature_algorithms, uncertified
from relayd.ssh.errors import LoginRefused, PasswordExpired, SSHError
from relayd.ssh.identities import Identity
from relayd.ssh.numbers import (
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_METHOD,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from relayd.ssh.text import printable
from relayd.ssh.transport import ClientTransport
from relayd.texts import Text, joined

#: The same number is PK_OK, PASSWD_CHANGEREQ or INFO_REQUEST, by the method under way.

#: Bytes of all the words of one round of prompts: they are searched for what they mean, and some show a notice.
MAX_WORDS = 16 * 1024
#: Prompts answered before a server that keeps asking is left: it wants something that relayd does not have.
MAX_PROMPTS = 8
#: Keys and certificates tried: an OpenSSH server hangs up at the sixth refusal (MaxAuthTries), and one is left for the
#: password.
MAX_KEYS = 5
#: Methods that may each be accepted as a part of what the server wants; real ones want two or three.
MAX_PARTS = 8
#: Bytes of the methods that a server offers that are looked at: real ones have some fifty.
MAX_OFFER = 4096

#: A prompt, in keyboard-interactive, for another password than the one to log in with; not the name of a host in one.
_NEW_PASSWORD = re.compile(
    rb"(?<![@.\w-])(?:new|retype|re-?enter|repeat|confirm)\s+(?:\w+\s+){0,3}passw", re.IGNORECASE
)
#: For the old password again, when one was answered with already: the new one is asked for next.
_OLD_PASSWORD = re.compile(rb"(?<![@.\w-])(?:current|old)\)?\s+(?:\w+\s+){0,3}passw", re.IGNORECASE)
#: Announces that: pam_unix, Solaris, HP-UX, AIX, Windows.
_EXPIRED = re.compile(
    rb"passw\w{1,20} (?:has |have )?expired|(?:required to|must|have to) change your passw"
    rb"|change your passw\w{1,20} (?:now|imm)",
    re.IGNORECASE,
)


class LoginService(SSHService):
    """
    Logs one user in with what a credential holds, by the methods that the server offers.

    The server is first asked which methods it offers (method ``none``), so that none is tried in vain: each refusal
    counts against the relay at the server.

    :param identities: keys and certificates to try, in this order.
    :param password: or ``None``.
    :param remarks: what else there is to say when the login is refused.
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
        identities: Sequence[Identity],
        on_success: Callable[[], None],
        on_failure: Callable[[SSHError], None],
        remarks: Sequence[str] = (),
    ) -> None:
        self._host = host
        self._port = port
        self._username = username
        self._password = password
        self._identities = tuple(identities)
        self._remarks = tuple(remarks)
        self._on_success = on_success
        self._on_failure = on_failure
        self._over = False
        self._method = b"none"
        self._offered: list[bytes] = []
        #: What was tried, in words, for the error.
        self._tried: list[str] = []
        #: Methods that would only be refused again; a part that was accepted changes that.
        self._spent: set[bytes] = set()
        self._password_refused = False
        self._parts = 0
        self._prompts = 0
        self._answered = False
        #: Identities that are left, each with the algorithm to sign by.
        self._attempts: list[tuple[Identity, bytes]] = []
        #: The one that the server was asked about.
        self._asked: tuple[Identity, bytes] | None = None
        self._signing: Deferred[Any] | None = None

    def __repr__(self) -> str:
        return f"<LoginService {self._username}@{self._host}:{self._port}>"

    # Hooks of SSHService

    def serviceStarted(self) -> None:
        accepted = self.transport.peerExtensions.get(b"server-sig-algs")
        first: list[tuple[Identity, bytes]] = []
        others: list[tuple[Identity, bytes]] = []
        for identity in self._identities:
            best, *worse = signature_algorithms(identity.key_type, accepted, self.transport.policy)
            first.append((identity, best))
            others += [(identity, algorithm) for algorithm in worse]
        self._attempts = [*first, *others][:MAX_KEYS]
        if len(first) > MAX_KEYS:
            self._remarks += (
                Text(
                    "Of {count} keys, only the first {most} are tried: servers hang up on more",
                    count=len(self._identities),
                    most=MAX_KEYS,
                ),
            )
        self._identities = ()
        self._request(b"none")

    def packetReceived(self, message: int, packet: bytes) -> None:
        if self._over:
            return
        if message == MSG_USERAUTH_SUCCESS:
            self._end()
            self._on_success()
        elif message == MSG_USERAUTH_FAILURE:
            offered, rest = getNS(packet)
            self._refused(offered[:MAX_OFFER].split(b",") if offered else [], partial=rest[:1] not in (b"", b"\0"))
        elif message == MSG_USERAUTH_METHOD and self._method == b"keyboard-interactive":
            self._answer_prompts(packet)
        elif message == MSG_USERAUTH_METHOD and self._method == b"password":
            self._password_expired()
        elif message == MSG_USERAUTH_METHOD and self._asked is not None:
            (identity, algorithm), self._asked = self._asked, None
            self._prove(identity, algorithm)
        # A banner is for a person to read; anything else has no meaning here and is passed over.

    def serviceStopped(self) -> None:
        # Some servers hang up on a wrong password; to take that for a fault of the network and to try again would lock
        # the account, or the relay, out.
        if not self._over and self._tried and self.transport.told_to_leave:
            self._give_up(Text("no more attempts ({reason})", reason=self.transport.lost_reason))
        self._end()

    # The end

    def _end(self) -> None:
        """Keep no secret any longer than it is needed."""
        self._over = True
        self._password = None
        self._identities = ()
        self._attempts = []
        self._drop_question()

    def _drop_question(self) -> None:
        """Forget the key that the server was asked about, or that is signing."""
        self._asked = None
        signing, self._signing = self._signing, None
        if signing is not None:
            signing.cancel()

    def _fail(self, error: SSHError) -> None:
        self._end()
        self._on_failure(error)

    def _password_expired(self) -> None:
        self._fail(PasswordExpired(host=self._host, port=self._port, username=self._username))

    def _give_up(self, offered: str) -> None:
        tried = Text("nothing, as none of it fits")
        if self._tried:
            tried = joined(dict.fromkeys(self._tried), Text(" and "))
        if self._remarks:
            tried = Text("{tried} ({remarks})", tried=tried, remarks=joined(self._remarks))
        self._fail(
            LoginRefused(
                host=self._host,
                port=self._port,
                username=self._username,
                tried=tried,
                offered=offered,
            )
        )

    # Choosing a method

    def _refused(self, offered: list[bytes], *, partial: bool) -> None:
        """The method under way was refused, or, with *partial*, accepted as one of several that are wanted."""
        self._drop_question()
        self._offered = offered
        if partial:
            self._parts += 1
            self._spent.clear()
        elif self._method == b"password":
            self._password_refused = True
        self._try_next()

    def _try_next(self) -> None:
        offered, password = self._offered, self._password
        if self._parts > MAX_PARTS:
            self._give_up(Text("ever more steps"))
        elif b"publickey" in offered and self._attempts:
            self._try_identity(*self._attempts.pop(0))
        # The same password again, where it was just refused, would only count as one more failure.
        elif password is not None and not self._password_refused and self._may_try(b"password"):
            self._tried.append(Text("password"))
            self._request(b"password", b"\0" + NS(password.encode("utf-8")))
        elif password is not None and not self._password_refused and self._may_try(b"keyboard-interactive"):
            self._tried.append("keyboard-interactive")
            self._request(b"keyboard-interactive", NS(b"") + NS(b""))
        else:
            self._give_up(printable(b", ".join(offered)) or Text("nothing"))

    def _may_try(self, method: bytes) -> bool:
        """Whether *method* is offered and was not tried; it counts as tried from now on."""
        if method not in self._offered or method in self._spent:
            return False
        self._spent.add(method)
        return True

    def _request(self, method: bytes, rest: bytes = b"") -> None:
        self._method = method
        self.transport.sendPacket(
            MSG_USERAUTH_REQUEST, NS(self._username.encode("utf-8")) + NS(b"ssh-connection") + NS(method) + rest
        )

    # publickey (RFC 4252, section 7)

    def _try_identity(self, identity: Identity, algorithm: bytes) -> None:
        """With a key of our own, sign at once: to ask first costs a round trip and gains nothing."""
        self._tried.append(identity.name)
        if identity.ask_first:
            self._asked = identity, algorithm
            self._request(b"publickey", b"\0" + NS(algorithm) + NS(identity.blob))
        else:
            self._prove(identity, algorithm)

    def _prove(self, identity: Identity, algorithm: bytes) -> None:
        fields = b"\1" + NS(algorithm) + NS(identity.blob)
        signed = (
            NS(self.transport.sessionID or b"")
            + bytes((MSG_USERAUTH_REQUEST,))
            + NS(self._username.encode("utf-8"))
            + NS(b"ssh-connection")
            + NS(b"publickey")
            + fields
        )

        def send(signature: bytes) -> None:
            if self._signing is signing:  # else it is not wanted any more
                self._signing = None
                self._request(b"publickey", fields + NS(signature))

        def pass_over(failure: Failure) -> None:
            if self._signing is signing:
                self._signing = None
                error = failure.value
                reason = error.text if isinstance(error, AgentError) else type(error).__name__
                self._tried[-1] = Text("{name}, which did not sign: {reason}", name=identity.name, reason=reason)
                self._try_next()

        signing: Deferred[Any] = maybeDeferred(identity.sign, signed, uncertified(algorithm))
        self._signing = signing
        signing.addCallbacks(send, pass_over)

    # keyboard-interactive (RFC 4256, section 3)

    def _answer_prompts(self, packet: bytes) -> None:
        """Answer each hidden prompt with the password; servers that hide their password method ask for it like this."""
        name, instruction, _language, rest = getNS(packet, 3)
        (count,), rest = struct.unpack(">L", rest[:4]), rest[4:]
        self._prompts += max(1, count)  # a round without a prompt counts too: some send one at the end
        if self._prompts > MAX_PROMPTS or len(packet) > MAX_WORDS or self._password is None:
            self._tried.append(Text("more prompts than relayd can answer"))
            self._give_up(Text("nothing else"))
            return
        prompts = []
        for _ in range(count):
            prompt, rest = getNS(rest)
            prompts.append((prompt, rest[:1] != b"\0"))
            rest = rest[1:]
        if any(map(self._is_about_expiry, (name, instruction, *(prompt for prompt, _ in prompts)))):
            # The old password must never be the answer to a question for a new one.
            self._password_expired()
            return
        answers = []
        for prompt, shown in prompts:
            # What may be shown on a screen is not a password, unless the prompt says so.
            secret = not shown or b"password" in prompt.lower()
            answers.append(NS(self._password.encode("utf-8") if secret else b""))
            self._answered = self._answered or secret
        self.transport.sendPacket(MSG_USERAUTH_INFO_RESPONSE, struct.pack(">L", count) + b"".join(answers))

    def _is_about_expiry(self, text: bytes) -> bool:
        return bool(
            _NEW_PASSWORD.search(text) or _EXPIRED.search(text) or (self._answered and _OLD_PASSWORD.search(text))
        )
