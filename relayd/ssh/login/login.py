"""
The login: the client side of the SSH authentication protocol.

Source: RFC 4252 (methods none, publickey, password), RFC 4256 (keyboard-interactive), RFC 8332 (RSA with SHA-2),
OpenSSH's PROTOCOL.certkeys (certificates).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from relayd.language.texts import Text
from relayd.ssh.errors import LoginRefused, PasswordExpired, SSHError
from relayd.ssh.keys.types import uncertified
from relayd.ssh.login.agent import AgentError
from relayd.ssh.login.identities import Identities, Identity
from relayd.ssh.login.login_report import LoginReport
from relayd.ssh.login.prompts import Asks, tells_of_expiry, what_it_asks
from relayd.ssh.login.signatures import doubt_of, may_want_sha1, sha1_algorithm
from relayd.ssh.target import Target
from relayd.ssh.transport.algorithms import signature_algorithms
from relayd.ssh.transport.numbers import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_RESPONSE,
    MSG_USERAUTH_METHOD,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from relayd.ssh.transport.transport import ClientTransport

#: Bytes of all texts in one round of prompts; some show a notice. Texts are searched for their meaning.
MAX_WORDS = 16 * 1024
#: Most prompts that are answered: a server that asks more wants something that the credential does not have.
MAX_PROMPTS = 8
#: Most keys and certificates that are tried: an OpenSSH server hangs up at the sixth refusal (MaxAuthTries), and one
#: attempt is left for the password.
MAX_KEYS = 5
#: The methods that take a password.
_BY_PASSWORD = frozenset((b"password", b"keyboard-interactive"))
#: Most methods that a server may accept as a part of the login; real ones want two or three.
MAX_PARTS = 8
#: Bytes that are read of the list of methods that a server offers; real lists have some fifty.
MAX_OFFER = 4096


class LoginService(SSHService):
    """
    Logs one user in with a credential, by the methods that the server offers.

    The server is first asked which methods it offers (method ``none``), so that none is tried in vain: servers count
    refusals, and punish the client's address.

    :param identities: keys and certificates to try, in their order.
    :param on_success: called when the server lets us in; it starts the next service.
    :param on_failure: called with what went wrong.
    """

    name = b"ssh-userauth"
    transport: ClientTransport

    def __init__(
        self,
        target: Target,
        identities: Identities,
        on_success: Callable[[], None],
        on_failure: Callable[[SSHError], None],
    ) -> None:
        self._host = target.host
        self._port = target.port
        self._username = target.username
        self._password = target.credential.password
        self._identities = identities.usable
        self._on_success = on_success
        self._on_failure = on_failure
        self._report = LoginReport(target, identities)
        self._over = False
        self._method = b"none"
        self._offered: list[bytes] = []
        #: Methods that would be refused again, until the server accepts a part of the login.
        self._spent: set[bytes] = set()
        self._password_refused = False
        self._parts = 0
        self._prompts = 0
        self._answered = False
        self._keys_tried = 0
        #: Identities that are left, each with the algorithm to sign with.
        self._attempts: list[tuple[Identity, bytes]] = []
        #: The one that the server was asked about.
        self._asked: tuple[Identity, bytes] | None = None
        #: An RSA key that was refused, and may be accepted with SHA-1; whether the server was asked about that.
        self._sha1_key: Identity | None = None
        self._sha1_asked = False
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
            self._report.remark(
                Text(
                    "only the first {most} of {count} keys are tried, as servers hang up on more",
                    count=len(self._identities),
                    most=MAX_KEYS,
                )
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
        # This number is PK_OK, PASSWD_CHANGEREQ or INFO_REQUEST; that depends on the method.
        elif message == MSG_USERAUTH_METHOD and self._method == b"keyboard-interactive":
            self._answer_prompts(packet)
        elif message == MSG_USERAUTH_METHOD and self._method == b"password":
            self._password_expired()
        elif message == MSG_USERAUTH_METHOD and self._sha1_asked:
            self._report.sha1_wanted()
            self._give_up()
        elif message == MSG_USERAUTH_METHOD and self._asked is not None:
            (identity, algorithm), self._asked = self._asked, None
            self._prove(identity, algorithm)
        elif message == MSG_USERAUTH_BANNER:
            self._report.heard(getNS(packet)[0])
        # Anything else has no meaning here, and is ignored.

    def serviceStopped(self) -> None:
        # Some servers hang up on a wrong password, others on a closed account. To try again, as after a fault of the
        # network, would lock out the account or the client's address.
        if not self._over and not self.transport.at_fault:
            if self._sha1_asked:
                self._give_up()
            elif self._signing is None:
                self._closed()
            elif not self._parts:
                # It never saw this signature, so it did not answer to it. It may have answered to what came before.
                self._report.tried.pop()
                self._keys_tried -= 1
                self._closed()
        self._end()

    def words(self) -> str:
        """What the server said last, while the login is under way, fit to be shown."""
        return self._report.words()

    # The end

    def _end(self) -> None:
        """End the login, and keep no secret any longer than it is needed."""
        self._over = True
        self._password = None
        self._report.forget_password()
        self._identities = ()
        self._attempts = []
        self._sha1_key = None
        self._drop_question()

    def _drop_question(self) -> None:
        """Forget the key that the server was asked about, or that an agent or a thread is signing with."""
        self._asked = None
        signing, self._signing = self._signing, None
        if signing is not None:
            signing.cancel()

    def _fail(self, error: SSHError) -> None:
        self._end()
        self._on_failure(error)

    def _password_expired(self) -> None:
        self._fail(PasswordExpired(host=self._host, port=self._port, username=self._username))

    def _give_up(self, offered: Text | None = None) -> None:
        """
        Fail, as nothing is left to try.

        :param offered: what the server offers, in words, where that is not its methods.
        """
        self._fail(self._report.refused(self._offered, offered))

    def _closed(self) -> None:
        """The server closed the connection."""
        error = self._report.closed(self.transport.lost_reason if self.transport.told_to_leave else None)
        if error is None:
            return
        # It would have said that the account is closed. So it only takes no more attempts on one connection.
        silent = self._method == b"publickey" and not self._report.answered and not self._parts
        if silent and isinstance(error, LoginRefused):
            error.keys_tried = self._keys_tried
            error.password_left = self._password is not None and not _BY_PASSWORD.isdisjoint(self._offered)
        self._fail(error)

    # Choosing a method

    def _refused(self, offered: list[bytes], *, partial: bool) -> None:
        """The current method was refused, or, with *partial*, accepted as one of several that the server wants."""
        self._drop_question()
        if self._sha1_asked:
            self._report.sha1_refused()
            self._give_up()
            return
        self._offered = offered
        if partial:
            self._parts += 1
            self._spent.clear()
            self._sha1_key = None
        elif self._method == b"password":
            self._password_refused = True
        self._try_next()

    def _try_next(self) -> None:
        offered, password = self._offered, self._password
        if self._parts > MAX_PARTS:
            self._give_up(Text("ever more steps"))
        elif b"publickey" in offered and self._attempts:
            self._try_identity(*self._attempts.pop(0))
        # A password that was just refused would only count as one more failure.
        elif password is not None and not self._password_refused and self._may_try(b"password"):
            self._report.tried.append(Text("password"))
            self._request(b"password", b"\0" + NS(password.encode("utf-8")))
        elif password is not None and not self._password_refused and self._may_try(b"keyboard-interactive"):
            self._report.tried.append("keyboard-interactive")
            self._answered = False
            self._request(b"keyboard-interactive", NS(b"") + NS(b""))
        elif self._sha1_key is not None and b"publickey" in offered:
            self._ask_about_sha1(self._sha1_key)
        else:
            self._give_up()

    def _may_try(self, method: bytes) -> bool:
        """Whether *method* is offered and was not tried. From now on it has been tried."""
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
        """Sign at once with a key of our own: to ask the server first would take a round trip for nothing."""
        self._method = b"publickey"  # the request itself comes when it is signed
        self._keys_tried += 1
        transport = self.transport
        accepted = transport.peerExtensions.get(b"server-sig-algs")
        doubt = doubt_of(algorithm, accepted, transport.policy, transport.otherVersionString)
        self._report.key_tried(identity.name, doubt)
        if self._sha1_key in (None, identity) and may_want_sha1(algorithm, accepted, transport.policy):
            self._sha1_key = identity
            self._report.sha1_in_question()
        if identity.ask_first:
            self._asked = identity, algorithm
            self._request(b"publickey", b"\0" + NS(algorithm) + NS(identity.blob))
        else:
            self._prove(identity, algorithm)

    def _ask_about_sha1(self, identity: Identity) -> None:
        """
        All is refused: ask whether an RSA key would do with SHA-1. Nothing is signed.

        So a key that only needs other algorithms can be told from a wrong one.
        """
        self._sha1_asked = True
        self._request(b"publickey", b"\0" + NS(sha1_algorithm(identity.key_type)) + NS(identity.blob))

    def _prove(self, identity: Identity, algorithm: bytes) -> None:
        self.transport.warn_of((uncertified(algorithm),))
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
            if self._signing is signing:  # else the login has gone on without it
                self._signing = None
                self._request(b"publickey", fields + NS(signature))

        def pass_over(failure: Failure) -> None:
            if self._signing is signing:
                self._signing = None
                if self._sha1_key is identity:  # the server did not refuse it
                    self._sha1_key = None
                error = failure.value
                reason = error.text if isinstance(error, AgentError) else type(error).__name__
                self._report.tried[-1] = Text("{name}, which did not sign: {reason}", name=identity.name, reason=reason)
                self._try_next()

        signing: Deferred[Any] = maybeDeferred(identity.sign, signed, uncertified(algorithm))
        self._signing = signing
        signing.addCallbacks(send, pass_over)

    # keyboard-interactive (RFC 4256, section 3)

    def _answer_prompts(self, packet: bytes) -> None:
        """Answer prompts for the password: some servers ask for it in this way only."""
        name, instruction, _language, rest = getNS(packet, 3)
        (count,), rest = struct.unpack(">L", rest[:4]), rest[4:]
        self._prompts += max(1, count)  # a round without a prompt counts, too; some servers send one at the end
        if self._prompts > MAX_PROMPTS or len(packet) > MAX_WORDS or self._password is None:
            self._report.tried.append(Text("more prompts than can be answered"))
            self._give_up(Text("nothing else"))
            return
        prompts = []
        for _ in range(count):
            prompt, rest = getNS(rest)
            prompts.append(prompt)
            rest = rest[1:]  # whether the answer may be shown, which makes no difference
        if any(map(tells_of_expiry, (name, instruction, *prompts))):
            # The old password must never answer a question for a new one.
            self._password_expired()
            return
        if not prompts:
            self._report.heard(b"\n".join((name, instruction)))
        answers = []
        for prompt in prompts:
            answer = self._answer(prompt, (name, instruction))
            if answer is None:
                return
            answers.append(NS(answer))
        self.transport.sendPacket(MSG_USERAUTH_INFO_RESPONSE, struct.pack(">L", count) + b"".join(answers))

    def _answer(self, prompt: bytes, before: Sequence[bytes]) -> bytes | None:
        """The answer to one question; ``None``: it is not answered, and the login has ended."""
        asks = what_it_asks(prompt, before, self._username)
        if asks is Asks.OPTIONAL:
            return b""
        if asks is Asks.NEW_PASSWORD or (asks is Asks.OLD_PASSWORD and self._answered):
            self._password_expired()
        elif asks is Asks.OTHER or (asks is Asks.AGAIN and not self._answered) or self._password is None:
            self._fail(self._report.unknown_prompt(prompt, before))
        elif self._answered:
            tried = self._report.tried
            tried[-1] = Text("{name}, which asked for the password again", name=tried[-1])
            self._give_up()
        else:
            self._answered = True
            return self._password.encode("utf-8")
        return None
