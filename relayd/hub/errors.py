"""
What a main server meets when it has relays run commands.
"""

from __future__ import annotations

from relayd.errors import RelayError


class RelayOffline(RelayError):
    """The relay {proxy_id} is not connected to this main server. Check that it runs, and look at its log."""

    code = "relay-offline"
    phase = "send"
    retriable = True


class CommandInFlight(RelayError):
    """A command with the id {command_id} was already sent to the relay {proxy_id} and has not ended. Every command
    needs its own commandId."""

    code = "command-in-flight"
    phase = "send"


class CommandRefused(RelayError):
    """The relay {proxy_id} refused the command {command_id}: {reason}"""

    code = "command-refused"
    phase = "receive"


class NoResult(RelayError):
    """The relay {proxy_id} sent no result for the command {command_id} within {time}. Whether it ran is not
    known: look at the host before you send it again."""

    code = "no-result"
    phase = "run"
    executed = "unknown"


class NoAnswer(RelayError):
    """The relay {proxy_id} did not answer a question about the command {command_id} within {time}. An older relayd does
    not understand the question."""

    code = "no-answer"
    phase = "send"
    retriable = True


class NoInfo(NoAnswer):
    """The relay {proxy_id} did not tell within {time} what it is. An older relayd does not understand the question."""


class InfoRefused(RelayError):
    """The relay {proxy_id} does not tell what it is: {reason}"""

    code = "info-refused"
    phase = "receive"


class NoPolicyCheck(RelayError):
    """The relay {proxy_id} cannot say whether its rules allow a command: the program there does not know the question,
    or does not tell what it is. relayd does, unless it is an older one or its operator has it tell nothing of
    itself."""

    code = "no-policy-check"
    phase = "receive"


class HubClosed(RelayError):
    """This main server shut down before the result of the command {command_id} arrived. Whether it ran is not known:
    look at the host before you send it again."""

    code = "hub-closed"
    phase = "run"
    executed = "unknown"
