"""
What was tried in a login and what the server said about it, in the words of the error when it fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.language.texts import Text, joined, last_lines, printable_bytes
from relayd.ssh.errors import LoginClosed, LoginDropped, LoginRefused, PromptUnknown, SignatureRefused
from relayd.ssh.login.identities import Identities
from relayd.ssh.target import Target

#: Bytes kept of what a server says.
MAX_HEARD = 4096


class LoginReport:
    """
    The course of one login, from which its error is made.

    :ivar tried: what was tried, in words.
    """

    def __init__(self, target: Target, identities: Identities) -> None:
        self.tried: list[str] = []
        self._last_key = ""
        #: Those of them that name a key which may be the right one.
        self._doubtful: set[str] = set()
        #: The places of one key whose signature may have to be another one, and the key's name.
        self._in_question: list[int] = []
        self._key_in_question = ""
        self._where = {"host": target.host, "port": target.port, "username": target.username}
        self._password = target.credential.password
        self._remarks = identities.remarks
        self._tried_before = identities.tried_before
        #: What the server said last, before and after something was tried.
        self._banner = b""
        self._answer = b""

    def forget_password(self) -> None:
        """The login has ended: keep no secret any longer."""
        self._password = None

    def remark(self, text: str) -> None:
        """Something else to say when the login is refused."""
        self._remarks += (text,)

    def key_tried(self, name: str, doubt: Text | None) -> None:
        """
        A key or certificate was tried.

        :param doubt: why it may be refused although it is the right one, if there is a reason.
        """
        self._last_key = name
        if doubt is not None:
            name = Text("{tried} ({remarks})", tried=name, remarks=doubt)
            self._doubtful.add(name)
        self.tried.append(name)

    def sha1_in_question(self) -> None:
        """The key that was tried last, and perhaps before, may be accepted with SHA-1."""
        self._in_question.append(len(self.tried) - 1)
        self._key_in_question = self._last_key

    def sha1_wanted(self) -> None:
        """The server said that it would accept that key with SHA-1."""
        remark = Text(
            "the server said that it would accept this key with a SHA-1 signature (ssh-rsa), which the legacy "
            "algorithms allow"
        )
        self._doubtful.add(self._remark_on_key(remark))

    def sha1_refused(self) -> None:
        """The server said that it would not."""
        self._remark_on_key(Text("it is not accepted with a SHA-1 signature either"))

    def _remark_on_key(self, remark: Text) -> Text:
        """Replace what was said of the key in question."""
        words = Text("{tried} ({remarks})", tried=self._key_in_question, remarks=remark)
        for place in self._in_question:
            self.tried[place] = words
        return words

    def heard(self, text: bytes) -> None:
        """The server sent a banner, or a text without a question; it is for a person to read."""
        text = text[-MAX_HEARD:]
        if text.strip():
            if self.tried:
                self._answer = text
            else:
                self._banner = text

    @property
    def answered(self) -> bool:
        """Whether the server said something after something was tried."""
        return bool(self._answer)

    def words(self) -> str:
        """What the server said last, while the login is under way, fit to be shown."""
        return self.quoted(self._answer or self._banner)

    def quoted(self, text: bytes) -> str:
        """What the server said, fit to be shown."""
        return last_lines(self._masked(text))

    def _masked(self, text: bytes) -> bytes:
        """*text* without the password, which some servers repeat."""
        return text.replace(self._password.encode("utf-8"), b"***") if self._password else text

    # Errors

    def unknown_prompt(self, prompt: bytes, before: Sequence[bytes]) -> PromptUnknown:
        """
        The error for a question that is not answered.

        :param before: what stood above it.
        """
        shown = self.quoted(prompt) or self.quoted(b"\n".join(before)) or Text("an empty question")
        return PromptUnknown(**self._where, prompt=shown)

    def refused(self, offered: Sequence[bytes], instead: Text | None = None) -> LoginRefused:
        """
        The error for a login that the server refused.

        :param offered: the methods that it offered last.
        :param instead: words in the place of these.
        """
        methods = self._masked(b",".join(offered)).replace(b",", b", ")
        shown = instead or printable_bytes(methods) or Text("nothing")
        remarks: tuple[str, ...] = self._remarks
        if said := self.quoted(self._answer):
            remarks += (Text("it said “{words}”", words=said),)
        kind = SignatureRefused if self._only_doubtful() else LoginRefused
        return kind(**self._where, tried=self._all_tried(remarks), offered=shown)

    def closed(self, last_words: str | None) -> LoginRefused | LoginDropped | None:
        """
        The error for a login during which the server closed the connection.

        :param last_words: what it said with that, if it did.
        :return: ``None``: nothing was tried, and nothing is known that the connection itself does not tell.
        """
        reasons: list[str] = []
        if words := self.words():
            reasons.append(Text("it said “{words}”", words=words))
        if last_words is not None:
            secret = self._password is not None and self._password in last_words
            reasons.append(Text("it said something that contains the password") if secret else last_words)
        if not self.tried:
            return LoginDropped(**self._where, reason=joined(reasons, Text(" and "))) if reasons else None
        if self._only_doubtful():
            return SignatureRefused(**self._where, tried=self._all_tried((*self._remarks, *reasons)))
        reason = joined(reasons, Text(" and ")) if reasons else Text("it did not say why")
        return LoginClosed(**self._where, tried=self._all_tried(self._remarks), reason=reason)

    def _only_doubtful(self) -> bool:
        """Whether nothing was tried but keys that may be the right ones."""
        return bool(self.tried) and not self._tried_before and self._doubtful.issuperset(self.tried)

    def _all_tried(self, remarks: Sequence[str]) -> str:
        names = dict.fromkeys((*self._tried_before, *self.tried))
        tried = (
            joined(names, Text(" and "))
            if names
            else Text("nothing, as no method that the server offers fits the credential")
        )
        return Text("{tried} ({remarks})", tried=tried, remarks=joined(remarks, Text("; "))) if remarks else tried
