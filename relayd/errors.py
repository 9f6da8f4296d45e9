"""
Everything that can go wrong in relayd, as one tree.  The SSH library has its own: `relayd.ssh.errors`.

As `DescribedError` says, the docstring of a class is the message that a person reads, with the error's fields in it.
This module is long as it is a list, as `relayd.ssh.errors` is.
"""

from __future__ import annotations

from typing import Final

from relayd.language.errors import DescribedError, Executed
from relayd.language.texts import span


class RelayError(DescribedError):
    """relayd met an error that has no name of its own; its log says more."""

    code = "internal"


# What an operator got wrong ------------------------------------------------------------------------------------------


class ConfigError(RelayError):
    """{option}: {reason}"""

    code = "config"


#: The exit status of relayd for mistakes in its settings (``EX_CONFIG`` of sysexits.h): to start again would not help.
#: The units of packaging/systemd name it in ``RestartPreventExitStatus``.
MISTAKES: Final = 78


# What arrives from the main server -----------------------------------------------------------------------------------


class ProtocolError(RelayError):
    """The main server sent something that relayd does not understand: {reason}."""

    code = "protocol"
    #: The code of the close frame that answers it (RFC 6455, section 7.4.1).
    close_code = 1002


class FrameTooLarge(ProtocolError):
    """The main server sent a frame of {size} bytes; relayd takes at most {limit}."""

    code = "frame-too-large"
    close_code = 1009


class InvalidMessage(RelayError):
    """{event} was refused: {field} {reason}."""

    code = "invalid-message"
    phase = "receive"

    def __init__(
        self,
        *,
        event: str,
        field: str,
        reason: str,
        command_id: str | None = None,
        numeric_id: bool = False,
        extended: bool = False,
    ) -> None:
        super().__init__(event=event, field=field, reason=reason)
        #: The command that it names, as far as that could be read: of an id that is not valid the beginning, and it
        #: may hold control characters.
        self.command_id = command_id
        #: Whether the id was a number.
        self.numeric_id = numeric_id
        #: Whether it asks for an extended result.
        self.extended = extended


class BecomeUnsupported(RelayError):
    """Commands at {host}:{port} cannot become another user: the relay's table of hosts says that the shell there is
    {shell}. Send the command without become."""

    code = "become-unsupported"
    phase = "receive"


class BecomeMismatch(BecomeUnsupported):
    """The command was not run: the relay's tables of hosts say become = "{method}" for {host}:{port}, which needs
    shell = "{needed}" there, and they do not say so. The relay's operator finds the tables with "relayctl hosts
    explain", and corrects them. A command with "become": false runs as the user who logs in."""


class PrivilegeUnknown(BecomeUnsupported):
    """The command was not run: the relay's tables of hosts say become = "enable" for {host}:{port}, and the relay knows
    no privileged mode of its family of devices, {family}. The relay's operator corrects family or become there. A
    command with "become": false runs in the mode of its login."""


class ScriptUnsupported(RelayError):
    """{host}:{port} cannot run scripts: the relay's table of hosts says that the shell there is {shell}. Send a
    command."""

    code = "script-unsupported"
    phase = "receive"


class Unencodable(RelayError):
    """{field} cannot be written in the host's character set {encoding} so that a shell reads it safely. Write it in
    ASCII, or name another character set: in encoding, or for all commands with --output-encoding of the relay."""

    code = "unencodable"
    phase = "receive"


class ChecksumMismatch(RelayError):
    """The command was not run: the content of {path} that came with it does not have the SHA-256 that it names. Send
    both again."""

    code = "checksum-mismatch"
    phase = "receive"


class FieldUnsupported(RelayError):
    """{host} is a network device: a command for it cannot have {field}. Leave it out; a device gets lines of text, and
    nothing else."""

    code = "field-unsupported"
    phase = "receive"


class PtyUnsupported(FieldUnsupported):
    """{host} is a network device: it always has a terminal, and its output always comes without control sequences.
    Leave pty out."""


class DeviceLines(RelayError):
    """The command is for a network device, and its text cannot be typed there ({character}). Write it without tabs,
    other control characters and question marks, in the device's character set."""

    code = "unencodable"
    phase = "receive"


# What the uplink meets -----------------------------------------------------------------------------------------------


class UplinkError(RelayError):
    """The connection to the main server failed: {reason}."""

    code = "uplink"
    retriable = True


class UplinkUnreachable(UplinkError):
    """The main server {server} cannot be reached: {reason}."""

    code = "uplink-unreachable"


class UplinkBusy(UplinkError):
    """The main server {server} accepts no connection now and asks relayd to come back in {time}: {reason}."""

    code = "uplink-busy"

    def __init__(self, *, server: str, status: int, reason: str, seconds: float) -> None:
        super().__init__(server=server, status=status, reason=reason, time=span(seconds))
        #: How long it asks us to stay away.
        self.seconds = seconds


class UplinkTimeout(UplinkError):
    """The main server {server} did not finish the {phase} within {time}."""

    code = "uplink-timeout"


class UplinkRefused(UplinkError):
    """The main server {server} refused this relay ({reason}). The likely cause is a wrong proxyId or apiKey:
    compare --proxy-id and the file of --api-key-file with what the main server has on record."""

    code = "uplink-refused"


class UplinkLost(UplinkError):
    """The connection to the main server {server} was lost: {reason}."""

    code = "uplink-lost"


class UplinkIncomplete(UplinkLost):
    """The main server {server} was reached, but the {phase} failed: {reason}."""

    code = "uplink-incomplete"


class UplinkSilent(UplinkLost):
    """The connection to the main server {server} was lost: nothing arrived from it for {time}."""


class UplinkStuck(UplinkLost):
    """The connection to the main server {server} was lost: it read nothing of what was sent to it for {time}."""


class UplinkDisplaced(UplinkLost):
    """The main server {server} ended the connection ({reason}), although it had accepted this relay. If this happens
    again and again, another relay may use the same name: give each relay its own --proxy-id. Or the API key is no
    longer valid there."""

    code = "uplink-displaced"


class UplinkRenewed(UplinkLost):
    """The main server {server} said that this relay is offline although it was connected: another connection with this
    name has ended there. relayd connects again."""

    code = "uplink-renewed"

    def __init__(self, *, server: str, settle: float) -> None:
        super().__init__(server=server)
        #: Seconds that the main server gets to be done with the old connection before the new one is made.
        self.settle = settle


class DialectMismatch(UplinkError):
    """The main server {server} does not speak {dialect} at {path}: {reason}."""

    code = "dialect-mismatch"
    #: As of `ProtocolError`.
    close_code = 1002


class NeitherDialect(UplinkError):
    """The main server {server} accepts this relay in neither dialect. {attempts}."""

    code = "neither-dialect"

    def __init__(self, *, server: str, attempts: str, decisive: RelayError) -> None:
        super().__init__(server=server, attempts=attempts)
        #: What became of the dialect that it is more likely to speak.
        self.decisive = decisive


class KeyUnusable(UplinkError):
    """The API key cannot be used: {reason}."""

    code = "api-key"

    def __init__(self, *, reason: str, cure: str = "") -> None:
        super().__init__(reason="; ".join(filter(None, (reason, cure))))
        #: Why, and what to do about it where that does not say it.
        self.why, self.cure = reason, cure


# Why a command did not run -------------------------------------------------------------------------------------------


class Overloaded(RelayError):
    """relayd is full: {running} commands are running and {queued} are queued. Send the command again later, or raise
    --max-queue."""

    code = "overloaded"
    phase = "queue"
    retriable = True


class TooMuchInput(Overloaded):
    """relayd is full: the commands it holds, with their standard input (stdin), take {megabytes:.0f} MB. Send the
    command again later."""


class ShuttingDown(RelayError):
    """relayd is shutting down and accepts no new commands. Send the command again in a while."""

    code = "shutting-down"
    phase = "queue"
    retriable = True


class AuditUnavailable(RelayError):
    """The relay cannot write its audit log, and accepts no new commands without it. The relay's log says why: check its
    disk, and send the command again later."""

    code = "audit-unavailable"
    phase = "queue"
    retriable = True


class CredentialMissing(RelayError):
    """The command has neither password nor privateKey, and this relay has no credential of its own for
    {username}@{host}. Send one, or add the host to the relay's credentials table."""

    code = "no-credential"
    phase = "receive"


class CredentialKept(RelayError):
    """The command names jump hosts in via, but brings neither password nor privateKey for {username}@{host}:{port}. The
    relay's site lets its own credentials take only the site's own way: send a credential for this host too, or leave
    out via."""

    code = "credential-kept"
    phase = "receive"


class CredentialIncomplete(RelayError):
    """The command brings a passphrase or a certificate for {username}@{host}:{port}, but neither password nor
    privateKey. The relay never combines these with credentials of its own site: send the privateKey that they belong
    to, or leave them out."""

    code = "credential-incomplete"
    phase = "receive"


class Forbidden(RelayError):
    """This relay's site forbids the command: {reason}."""

    code = "forbidden"
    phase = "receive"


class ForbiddenHost(Forbidden):
    """This relay's site forbids {host}:{port}: {reason}."""

    code = "forbidden-host"


class ForbiddenUser(Forbidden):
    """This relay's site forbids commands as {user}: {reason}."""

    code = "forbidden-user"


class ForbiddenCommand(Forbidden):
    """This relay's site forbids this command: {reason}."""

    code = "forbidden-command"


class ForbiddenFile(Forbidden):
    """This relay's site forbids the file {path}: {reason}."""

    code = "forbidden-file"


class DuplicateMismatch(RelayError):
    """A different command with this commandId was already accepted. Every command needs its own commandId."""

    code = "duplicate-mismatch"
    phase = "receive"


class AlreadyConfirmed(RelayError):
    """The command with this commandId has already run. Its result was delivered or has expired, and is no longer held.
    To run it once more, give it a new commandId."""

    code = "already-confirmed"
    phase = "receive"
    executed = "yes"


class JournalUnavailable(RelayError):
    """relayd cannot record commands, and so accepts no new ones: {reason}. Send the same command again once that is
    mended."""

    code = "journal-unavailable"
    phase = "queue"
    retriable = True


class NoJournal(RelayError):
    """The journal cannot be shown: {reason}."""

    code = "no-journal"


class NoStatus(RelayError):
    """The relay's status cannot be read from {where}: {reason}."""

    code = "no-status"


class JournalFull(RelayError):
    """relayd's journal is full, so it accepts no new commands: {results} results ({megabytes:.0f} MB) wait for the main
    server to confirm them. Look at relayctl journal, or raise --journal-max-size."""

    code = "journal-full"
    phase = "queue"
    retriable = True


class Undeliverable(RelayError):
    """The result of this command could not be delivered as it is: the main server closed the connection each time it
    was sent. The exit code is {exit_code}; the relay keeps the output: see relayctl journal there."""

    code = "undeliverable"
    phase = "deliver"
    executed = "yes"


class NotExecuted(RelayError):
    """The relay stopped before it ran the command. If the command is still wanted, send it again with a new
    commandId."""

    code = "not-executed"
    phase = "queue"
    retriable = True


class QueueTimeout(RelayError):
    """The command timed out after {time} in the queue; it was not run. The relay is busy with other commands: raise the
    timeout, or --max-commands."""

    code = "timeout"
    phase = "queue"
    retriable = True


class Cancelled(RelayError):
    """The command was cancelled before it ran."""

    code = "cancelled"
    phase = "queue"


class Interrupted(Cancelled):
    """The command was cancelled while it ran; whether it completed is not known. Look at the host before you send it
    again."""

    phase = "run"
    executed = "unknown"


class HostFailure(RelayError):
    """{message}"""

    # What relayd.ssh raises, translated once at its boundary: the names below come from the error it stands for.
    code = "ssh"
    phase = "ssh"

    def __init__(self, *, message: str, code: str, phase: str, executed: Executed, retriable: bool) -> None:
        super().__init__(message=message)
        self.code = code
        self.phase = phase
        self.executed = executed
        self.retriable = retriable


class OutcomeLost(RelayError):
    """The relay lost its hold on the command while it ran; whether it completed is not known. Look at the host
    before you send it again."""

    code = "outcome-unknown"
    phase = "run"
    executed = "unknown"
