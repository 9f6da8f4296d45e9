"""
Gets a device ready: learns its prompt, switches pages off, and enters the privileged mode where it has a secret for it.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from relayd.language.texts import Text, last_lines
from relayd.ssh.device.families import PASSWORD, QUESTION, Family, Prompt, could_be_prompt
from relayd.ssh.device.terminal import Pause, Terminal

#: How often a prompt is asked for until it comes twice.
TRIES: Final = 6
#: Bytes kept of what the device says meanwhile, for messages.
_SAID: Final = 2048
ENTER: Final = b"\r"


class GreetingOwner(Protocol):
    """What hears how it went; one of the two, once."""

    def ready(self, prompt: Prompt) -> None:
        """The device takes lines."""

    def not_ready(self, reason: str, *, privilege: bool) -> None:
        """
        The device takes no lines.

        :param privilege: whether it is the privileged mode that it did not give.
        """


class _Step(enum.Enum):
    LEARNING = enum.auto()
    PREPARING = enum.auto()
    ENTERING = enum.auto()  # asked for the privileged mode
    ANSWERED = enum.auto()  # the secret was sent
    OVER = enum.auto()


class Greeting:
    """
    What is said before the first line of a command; see `relayd.ssh.device.terminal.Listener`.

    :param secret: for the privileged mode; ``None``: it is not asked for.
    """

    def __init__(self, owner: GreetingOwner, family: Family, secret: bytes | None) -> None:
        self._owner = owner
        self._family = family
        self._secret = secret
        self._step = _Step.LEARNING
        self._prompt: Prompt | None = None
        self._before = b""
        self._tries = 0
        self._said = b""
        self._left = list(family.first)
        self.terminal: Terminal | None = None

    @property
    def so_far(self) -> str:
        """What the device said, where it does not get ready in time."""
        return self._words()

    def line(self, line: bytes) -> None:
        """See `relayd.ssh.device.terminal.Listener`, for this and the following methods."""
        if line.strip():
            self._said = (self._said + line + b"\n")[-_SAID:]

    def fed(self) -> None:
        """Each line was taken as it came."""

    def pause(self, line: bytes, pause: Pause) -> None:
        if self._step is _Step.LEARNING:
            self._learn(line, pause)
        elif self._step is _Step.OVER or self._prompt is None:
            return
        elif self._prompt.matches(line):
            self._prompted(line)
        elif self._step is _Step.ENTERING and PASSWORD.search(line):
            assert self._secret is not None
            self._step = _Step.ANSWERED
            self._said = b""
            self._send(self._secret)
        elif self._step is _Step.ANSWERED and PASSWORD.search(line):
            # Once is enough: some devices lock an account after the third.
            self._fail(self._words(), privilege=True)
        elif pause is Pause.VERY_LONG and line.strip():
            self._fail(self._waits(line), privilege=self._step in (_Step.ENTERING, _Step.ANSWERED))

    def _learn(self, line: bytes, pause: Pause) -> None:
        if could_be_prompt(line, self._family):
            if line.rstrip() == self._before:
                self._prompt = Prompt(line, self._family)
                self._step = _Step.PREPARING
                self._prompted(line)
                return
        elif pause is Pause.LONG and (QUESTION.search(line) or PASSWORD.search(line)):
            self._fail(self._waits(line), privilege=False)
            return
        elif pause is not Pause.VERY_LONG:
            return  # a banner, which goes on
        if self._tries >= TRIES:
            self._fail(self._waits(line) if line.strip() else self._words(), privilege=False)
            return
        self._tries += 1
        self._before = line.rstrip()
        self._send(b"")

    def _prompted(self, line: bytes) -> None:
        """The device waits for the next line."""
        assert self._prompt is not None
        if self._step is _Step.PREPARING and self._left:
            self._send(self._left.pop(0))
            return
        mark, wanted = line.rstrip()[-1:], self._family.privileged
        if self._step is _Step.PREPARING and self._secret is not None and self._family.privilege and mark != wanted:
            self._step = _Step.ENTERING
            self._said = b""
            self._send(self._family.privilege)
            return
        if self._step in (_Step.ENTERING, _Step.ANSWERED):
            if (wanted and mark != wanted) or (not wanted and self._refused()):
                self._fail(self._words(), privilege=True)
                return
            self._prompt = Prompt(line, self._family)
        self._step = _Step.OVER
        self._owner.ready(self._prompt)

    def _refused(self) -> bool:
        return any(self._family.refused.match(line) for line in self._said.splitlines())

    def _send(self, line: bytes) -> None:
        assert self.terminal is not None
        self.terminal.send(line + ENTER)

    def _fail(self, reason: str, *, privilege: bool) -> None:
        self._step = _Step.OVER
        self._owner.not_ready(reason, privilege=privilege)

    def _words(self) -> str:
        words = self._shown(self._said)
        return Text("it said “{words}”", words=words) if words else Text("it said nothing")

    def _waits(self, line: bytes) -> Text:
        """What the device waits for, in its own words."""
        return Text("it waits at “{words}”", words=self._shown(line))

    def _shown(self, said: bytes) -> str:
        """What the device said, without the secret, which some show as it is typed."""
        return last_lines(said.replace(self._secret, b"***") if self._secret else said)
