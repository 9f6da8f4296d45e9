"""
The relay's command runner: runs the main server's commands on SSH hosts, and makes results of how they ended.

This module and those below it (`relayd.ssh_texts`, `relayd.ssh_devices`, `relayd.ssh_logins`) join `relayd.ssh` to the
rest of relayd; the errors of that package are translated here, once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import HostFailure, RelayError
from relayd.interfaces import ICommandRunner, IOutputSink, Starting
from relayd.language.charsets import UTF8
from relayd.language.texts import Text, Translate, english
from relayd.network.pieces import to_base64
from relayd.network.threads import in_pool
from relayd.ssh.channels.output import Output
from relayd.ssh.client import SSHClient
from relayd.ssh.errors import (
    AddressForbidden,
    BecomePasswordNeeded,
    CredentialUnusable,
    HiddenAddressForbidden,
    KeyUnreadable,
    LibraryMissing,
    LoginTimeout,
    NameNotFound,
    NameTimeout,
    NoCredential,
    NoDescriptor,
    OutdatedInCommon,
    SignatureRefused,
    SSHError,
)
from relayd.ssh.files.orders import ReadFile
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.outcome import Completed
from relayd.ssh.pool.checked_names import AddressCheck, allow_all
from relayd.ssh.settings import LiveSettings, SSHSettings
from relayd.ssh.target import Target
from relayd.ssh_devices import is_device, lines_of, request_of
from relayd.ssh_logins import check_target, target_of
from relayd.ssh_texts import HostText, RunnerSettings, check_become
from relayd.wire.failure_results import describe_error
from relayd.wire.messages import BASE64, CommandResult, Details, ExecuteCommand, Fetched, StreamName, Timings

#: What the relay's operator can do, or where to look, besides what the SSH library says of its errors.
ADVICE: Final[dict[type[SSHError], Text]] = {
    KeyUnreadable: Text("What is needed is the whole private key, and its passphrase if it has one."),
    LoginTimeout: Text("If it always takes that long, the relay's operator can raise --connect-timeout."),
    NameNotFound: Text("That machine is the relay's."),
    NameTimeout: Text("That machine is the relay's."),
    AddressForbidden: Text("The relay's operator finds the rules in --allow-hosts and --deny-hosts."),
    HiddenAddressForbidden: Text("Or ask the relay's operator to list the name in --allow-hosts."),
    NoDescriptor: Text("The relay's operator sets the number of connections with --max-total-connections."),
    CredentialUnusable: Text("The file is the relay's."),
    NoCredential: Text("The table is the relay's."),
    OutdatedInCommon: Text(
        'The relay\'s operator can allow that with ssh-algorithms = "legacy" for the host in [[hosts]], or with '
        "--ssh-algorithms legacy for all."
    ),
    LibraryMissing: Text("That is for the relay's operator to do."),
    BecomePasswordNeeded: Text(
        "The command can bring it in become; or the relay's operator sets become-password-file for the host, which is "
        "used where the relay's own credential logs in."
    ),
    SignatureRefused: Text(
        "The relay's operator chooses the algorithms with --ssh-algorithms, and for single hosts in [[hosts]]."
    ),
}
#: Outputs of more bytes than this are decoded and trimmed in a thread.
LARGE: Final = 256 * 1024


@implementer(ICommandRunner)
class SSHCommandRunner:
    """
    Runs commands on SSH hosts.

    :param reactor: provides time, TCP, name resolution and threads.
    :param ssh: how hosts are reached.
    :param settings: what the hosts are told.
    :param allows: to which addresses it may connect; by default to all.
    :param translate: into the language of the texts in results.
    :ivar client: runs them; it also tells what its pool holds.
    """

    def __init__(
        self,
        reactor: Any,
        ssh: SSHSettings,
        settings: RunnerSettings | None = None,
        credentials: CredentialTable | None = None,
        allows: AddressCheck = allow_all,
        translate: Translate = english,
    ) -> None:
        self._reactor = reactor
        self._translate = translate
        self.client = SSHClient(reactor, ssh, allows)
        self._settings = RunnerSettings() if settings is None else settings
        self._credentials = CredentialTable(()) if credentials is None else credentials

    def configure(
        self, ssh: LiveSettings, settings: RunnerSettings, credentials: CredentialTable, allows: AddressCheck
    ) -> None:
        """Change the settings for new commands; see `SSHClient.configure`."""
        self.client.configure(ssh, allows)
        self._settings = settings
        self._credentials = credentials

    def refuses(self, command: ExecuteCommand) -> RelayError | None:
        """See `ICommandRunner.refuses`."""
        try:
            check_target(command, self._credentials)
            text = HostText(self._settings, command)
            site = text.site
            check_become(command, site)
            if is_device(site):
                self._lines_of(command, text)
            elif text.charset != UTF8 or site.shell not in (None, "posix"):  # else all can be written
                text.prepared(site.shell)
            text.files(check=True)
        except SSHError as error:
            return _host_failure(error)
        except RelayError as error:
            return error
        return None

    def run_command(
        self,
        command: ExecuteCommand,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None = None,
        *,
        timeout: float | None = None,
        grace: float | None = None,
    ) -> Deferred[CommandResult]:
        """See `ICommandRunner.run_command`."""
        try:
            target = target_of(command, self._credentials)
            text = HostText(self._settings, command)
            check_become(command, text.site)
            if is_device(text.site):
                return self._run_on_device(command, target, text, deadline, starting, output, timeout)
            return self._run_in_shell(command, target, text, deadline, starting, output, timeout, grace)
        except SSHError as error:
            return fail(_host_failure(error))
        except RelayError:
            return fail()

    def _run_in_shell(
        self,
        command: ExecuteCommand,
        target: Target,
        text: HostText,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None,
        timeout: float | None,
        grace: float | None,
    ) -> Deferred[CommandResult]:
        shell = text.site.shell
        become = text.become(target)
        prepared = text.prepared(shell, inner=become is not None)
        terminal = text.terminal()
        may_be_windows = shell is None and become is None and command.script is None
        running: Deferred[Any] = self.client.run(
            target,
            prepared.text,
            deadline,
            timeout=timeout,
            grace=grace,
            stdin=prepared.stdin,
            env=prepared.env,
            progress=prepared.progress,
            reader=None if output is None else _Reader(output).read,
            shell=prepared.ended_by == "posix",
            permission=starting,
            terminal=terminal,
            become=become,
            windows=partial(text.for_windows, found=True) if may_be_windows else None,
            needle=prepared.needle,
            files=text.files(),
        )
        ran = _Ran(text.charset, terminal is not None, None if become is None else become.user)
        running.addCallbacks(self._ended, _translate, callbackArgs=(command, ran))
        return running

    def _run_on_device(
        self,
        command: ExecuteCommand,
        target: Target,
        text: HostText,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None,
        timeout: float | None,
    ) -> Deferred[CommandResult]:
        """
        Have a network device carry out a command.

        :raises RelayError: when it cannot be given to a device.
        :raises SSHError: the same, for a reason that the SSH library gives.
        """
        left = deadline - self._reactor.seconds()
        named = (round(left, 1) or left) if timeout is None else timeout
        request = request_of(command, target, text.site, self._lines_of(command, text), deadline, named)
        reader = None if output is None else _Reader(output).read
        ran = _Ran(text.charset, False, None)
        running: Deferred[Any] = self.client.run_on_device(replace(request, reader=reader, permission=starting))
        running.addCallbacks(self._ended, _translate, callbackArgs=(command, ran))
        return running

    def _lines_of(self, command: ExecuteCommand, text: HostText) -> tuple[bytes, ...]:
        """See `relayd.ssh_devices.lines_of`."""
        return lines_of(command, text.site, text.charset, exactly=self._settings.exact_text)

    def _ended(self, completed: Completed, command: ExecuteCommand, ran: _Ran) -> Any:
        # A command that did not end when told to may still be writing.
        stdout, stderr = completed.stdout.taken(), completed.stderr.taken()
        size = stdout.size + stderr.size
        if completed.read:
            size += sum(len(file.content or b"") for file in completed.read)
        if size <= LARGE:
            return _result(completed, command, stdout, stderr, ran, self._translate)
        make = partial(_result, completed, command, stdout, stderr, ran, self._translate)
        # The command has ended: when it is cancelled now, its result is made at once.
        made: Deferred[CommandResult] = Deferred(lambda made: made.callback(make()))
        in_pool(self._reactor, make).addBoth(lambda result: None if made.called else made.callback(result))
        return made

    def close(self) -> Deferred[None]:
        """See `ICommandRunner.close`."""
        return self.client.close()


class _Ran(Struct, frozen=True):
    """
    How a command was run, for its result.

    :ivar pty: whether it had a pseudo-terminal.
    :ivar user: as whom, where that is not who logged in.
    """

    charset: str
    pty: bool
    user: str | None


class _Reader:
    """Passes output on as it arrives, with the number of bytes before it."""

    def __init__(self, output: IOutputSink) -> None:
        self._output = output
        self._offsets: dict[StreamName, int] = {"stdout": 0, "stderr": 0}

    def read(self, is_stderr: bool, data: bytes) -> Deferred[None] | None:
        stream: StreamName = "stderr" if is_stderr else "stdout"
        offset = self._offsets[stream]
        self._offsets[stream] += len(data)
        return self._output.write(stream, offset, data)


def _result(
    completed: Completed, command: ExecuteCommand, stdout: Output, stderr: Output, ran: _Ran, translate: Translate
) -> CommandResult:
    error = completed.error
    exit_code = completed.exit.exit_code
    # The output until then is kept; the line below it says why there may be more.
    remark = completed.open if error is None else _message(error)
    said = "" if remark is None else remark.within(translate)
    if error is not None:
        exit_code = 1
    details = Details(
        error=None if error is None else describe_error(_host_failure(error)),
        signal=completed.exit.signal,
        truncated=stdout.truncated or stderr.truncated,
        stdout_bytes=stdout.total,
        stderr_bytes=stderr.total,
        timings=cast(Timings, {phase: round(seconds, 6) for phase, seconds in completed.timings.items()}),
        killed=completed.killed,
        output_open=completed.open is not None,
        pty=ran.pty,
        ran_as=ran.user,
        encoding="base64" if command.encoding == BASE64 else None,
        fetched=tuple([_fetched(file, translate) for file in completed.read]),
    )
    return CommandResult(
        command_id=command.command_id,
        stdout=_encoded(stdout, "", translate, command.encoding, ran.charset),
        stderr=_encoded(stderr, said, translate, command.encoding, ran.charset),
        exit_code=1 if exit_code is None else exit_code,
        details=details,
        extended=command.extended,
        numeric_id=command.numeric_id,
    )


def _fetched(file: ReadFile, translate: Translate) -> Fetched:
    return Fetched(
        path=file.name,
        size=file.size,
        sha256=file.sha256,
        content=None if file.content is None else {"base64": to_base64(file.content)},
        truncated=file.truncated,
        error=None if file.error is None else file.error.within(translate),
    )


def _encoded(output: Output, remark: str, translate: Translate, encoding: str | None, charset: str) -> str:
    """The text for an output of a result, with a line below it."""
    if encoding == BASE64:
        data, more = output.raw(translate), remark.encode()
        return to_base64(data + b"\n" + more if data and more else data or more)
    text = output.text(translate, charset) if output.total else ""
    return f"{text}\n{remark}" if text and remark else text or remark


def _host_failure(error: SSHError) -> HostFailure:
    return HostFailure(
        message=_message(error),
        code=error.code,
        phase=error.phase,
        executed=error.executed,
        retriable=error.retriable,
    )


def _message(error: SSHError) -> Text:
    advice = ADVICE.get(type(error))
    return error.text if advice is None else Text("{text} {advice}", text=error.text, advice=advice)


def _translate(failure: Failure) -> None:
    error = failure.value
    if isinstance(error, SSHError):
        raise _host_failure(error) from None
    failure.raiseException()
