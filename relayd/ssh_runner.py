"""
The relay's command runner: runs the main server's commands on SSH hosts, and makes results of how they ended.

This module and `relayd.ssh_logins` join `relayd.ssh` to the rest of relayd; the errors of that package are translated
here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import BecomeUnsupported, HostFailure, RelayError, ScriptUnsupported, Unencodable
from relayd.interfaces import ICommandRunner, IOutputSink, Starting
from relayd.language.charsets import UTF8, Unwritable, write_text
from relayd.language.texts import Text, Translate, english
from relayd.network.host_rules import HostSettings, HostTable, Shell
from relayd.network.pieces import to_base64
from relayd.network.threads import in_pool
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.output import Output
from relayd.ssh.channels.scripts import ScriptProgress, script_lines, script_text
from relayd.ssh.channels.surroundings import surround
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.client import SSHClient
from relayd.ssh.errors import (
    AddressForbidden,
    BecomePasswordNeeded,
    CredentialUnusable,
    HiddenAddressForbidden,
    KeyUnreadable,
    LoginTimeout,
    NameNotFound,
    NameTimeout,
    NoCredential,
    NoDescriptor,
    NoShell,
    SignatureRefused,
    SSHError,
)
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.outcome import Completed
from relayd.ssh.pool.checked_names import AddressCheck, allow_all
from relayd.ssh.settings import LiveSettings, SSHSettings
from relayd.ssh.shells import cmd, powershell
from relayd.ssh.shells.prepared import Order, Prepared, WindowsShell
from relayd.ssh.target import Target
from relayd.ssh_devices import is_device, lines_of, request_of
from relayd.ssh_logins import become_of, check_target, target_of
from relayd.wire.messages import (
    BASE64,
    CommandResult,
    Details,
    ExecuteCommand,
    Pty,
    StreamName,
    Timings,
    describe_error,
)

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
    BecomePasswordNeeded: Text(
        "The command can bring it in become; or the relay's operator sets become-password-file for the host, which is "
        "used where the relay's own credential logs in."
    ),
    SignatureRefused: Text("The relay's operator chooses the algorithms with --ssh-algorithms."),
}
T = TypeVar("T")
#: Outputs of more bytes than this are decoded and trimmed in a thread.
LARGE: Final = 256 * 1024


class RunnerSettings(Struct, frozen=True, kw_only=True):
    """
    How commands become texts for hosts.

    :ivar working_directory: where commands run; empty: where the login leads.
    :ivar output_encoding: the character set of hosts, by its name in `relayd.language.charsets`, for commands that
        name none.
    :ivar hosts: what the site says of single hosts.
    :ivar exact_text: whether a command must reach the host as the site's rules saw it, see
        `relayd.language.charsets.write_text`.
    """

    working_directory: str = "/"
    output_encoding: str = UTF8
    hosts: HostTable = HostTable()
    exact_text: bool = False


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
            self._checked(check_target, command)
            if is_device(site := self._said(command)):
                lines_of(command, site, self._charset(command), exactly=self._settings.exact_text)
            elif self._charset(command) != UTF8 or site.shell not in (None, "posix"):  # else all can be written
                self._prepared(command, site.shell)
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
            target = self._checked(target_of, command)
            shell = self._said(command).shell
            if shell == "device":
                return self._run_on_device(command, target, deadline, starting, output, timeout)
            become = self._become(command, target)
            prepared = self._prepared(command, shell, inner=become is not None)
        except RelayError:
            return fail()
        terminal = self._terminal(command)
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
            windows=partial(self._for_windows, command, found=True) if may_be_windows else None,
            needle=prepared.needle,
        )
        ran = _Ran(self._charset(command), terminal is not None, None if become is None else become.user)
        running.addCallbacks(self._ended, _translate, callbackArgs=(command, ran))
        return running

    def _run_on_device(
        self,
        command: ExecuteCommand,
        target: Target,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None,
        timeout: float | None,
    ) -> Deferred[CommandResult]:
        """
        Have a network device carry out a command.

        :raises RelayError: when it cannot be given to a device.
        """
        left = deadline - self._reactor.seconds()
        named = (round(left, 1) or left) if timeout is None else timeout
        site, charset = self._said(command), self._charset(command)
        lines = lines_of(command, site, charset, exactly=self._settings.exact_text)
        try:
            request = request_of(target, site, lines, deadline, named)
        except SSHError as error:
            raise _host_failure(error) from None
        reader = None if output is None else _Reader(output).read
        running: Deferred[Any] = self.client.run_on_device(replace(request, reader=reader, permission=starting))
        running.addCallbacks(self._ended, _translate, callbackArgs=(command, _Ran(charset, False, None)))
        return running

    def _ended(self, completed: Completed, command: ExecuteCommand, ran: _Ran) -> Any:
        # A command that did not end when told to may still be writing.
        stdout, stderr = completed.stdout.taken(), completed.stderr.taken()
        if stdout.size + stderr.size <= LARGE:
            return _result(completed, command, stdout, stderr, ran, self._translate)
        make = partial(_result, completed, command, stdout, stderr, ran, self._translate)
        # The command has ended: when it is cancelled now, its result is made at once.
        made: Deferred[CommandResult] = Deferred(lambda made: made.callback(make()))
        in_pool(self._reactor, make).addBoth(lambda result: None if made.called else made.callback(result))
        return made

    # From a command to what SSH needs

    def _checked(self, look: Callable[[ExecuteCommand, CredentialTable], T], command: ExecuteCommand) -> T:
        """
        Find out where and how to log in.

        :raises RelayError: when that is not possible, or not allowed.
        """
        try:
            return look(command, self._credentials)
        except SSHError as error:
            raise _host_failure(error) from None

    def _charset(self, command: ExecuteCommand) -> str:
        """The character set of *command*, and of its outputs unless it wants their bytes."""
        if command.encoding is None or command.encoding == BASE64:
            return self._said(command).output_encoding or self._settings.output_encoding
        return command.encoding

    def _said(self, command: ExecuteCommand) -> HostSettings:
        """What the site's tables say of the host."""
        return self._settings.hosts.of(command.host, command.port, command.username)

    def _terminal(self, command: ExecuteCommand) -> Terminal | None:
        pty = self._said(command).pty if command.pty is None else command.pty
        if isinstance(pty, Pty):
            return Terminal(pty.term, pty.cols, pty.rows)
        return Terminal() if pty else None

    def _become(self, command: ExecuteCommand, target: Target) -> Become | None:
        """
        As whom it runs.

        :raises RelayError: when the host's shell, or a file of the site, does not let it.
        """
        said = self._said(command)
        try:
            become = become_of(command, target, said.become, self._charset(command))
        except SSHError as error:
            raise _host_failure(error) from None
        except UnicodeError:
            raise Unencodable(field="become.password", encoding=self._charset(command)) from None
        if become is not None and said.shell not in (None, "posix"):
            raise BecomeUnsupported(host=command.written_host, port=command.port, shell=said.shell)
        return become

    def _directory(self, command: ExecuteCommand) -> str:
        """Where *command* runs if it names no directory; empty: where the login leads."""
        said = self._said(command).working_directory
        return self._settings.working_directory if said is None else said

    def _prepared(self, command: ExecuteCommand, shell: Shell | None, *, inner: bool = False) -> Prepared:
        """
        What the host gets.

        :param shell: what the site says of it; ``None``: what is for a POSIX shell.
        :param inner: whether another user's shell reads the text: variables that are sent beside it do not get there.
        :raises RelayError: when the shell cannot be given the command, or it cannot be written in its character set.
        """
        if command.script is not None and shell not in (None, "posix"):
            raise ScriptUnsupported(host=command.written_host, port=command.port, shell=shell)
        if shell in ("cmd", "powershell"):
            try:
                return self._for_windows(command, shell)
            except SSHError as error:
                raise _host_failure(error) from None
        if shell == "none":
            return self._without_shell(command)
        return self._for_posix(command, inner=inner)

    def _for_posix(self, command: ExecuteCommand, *, inner: bool) -> Prepared:
        """For a POSIX shell, or where nothing is known, in the character set of *command*."""
        charset, part = self._charset(command), "command"
        exactly = self._settings.exact_text
        try:
            lines, mark = b"", b""
            if command.script is None:
                text = write_text(command.command, charset, exactly=exactly)
            else:
                part = "script"
                lines = script_lines(write_text(command.command, charset, exactly=exactly))
                part = "args"
                words = (command.script.interpreter, *command.script.args)
                program, *args = (write_text(word, charset, exactly=exactly) for word in words)
                text, mark = script_text(program, args)
            directory = write_text(self._directory(command), charset, exactly=exactly)
            if inner and command.env and not directory:
                directory = b"."
            part = "cwd"
            cwd = write_text(command.cwd, charset, exactly=exactly) if command.cwd else b""
            part = "env"
            # Without a shell, variables are sent separately, and no shell reads them.
            exactly = exactly and bool(cwd or directory)
            env = [(name, write_text(value, charset, exactly=exactly)) for name, value in command.env]
        except (Unwritable, UnicodeError):
            raise Unencodable(field=part, encoding=charset) from None
        text, progress = surround(text, cwd, directory, env)
        if mark:
            progress = ScriptProgress(progress, mark)
        in_text = bool(cwd or directory)
        return Prepared(
            text=text,
            stdin=lines + self._stdin(command),
            env=[] if in_text else env,
            progress=progress,
            ended_by="posix" if in_text else "server",
        )

    def _without_shell(self, command: ExecuteCommand) -> Prepared:
        """The text as it is."""
        if command.cwd or command.env:
            raise _host_failure(NoShell(host=command.host, port=command.port))
        charset = self._charset(command)
        try:
            text = write_text(command.command, charset, exactly=self._settings.exact_text)
        except (Unwritable, UnicodeError):
            raise Unencodable(field="command", encoding=charset) from None
        return Prepared(text=text, stdin=self._stdin(command), ended_by="server")

    def _for_windows(self, command: ExecuteCommand, shell: WindowsShell, *, found: bool = False) -> Prepared:
        """
        For a shell of Windows, which gets its text in UTF-8 and writes in the character set of *command*.

        :param found: whether the host's server is known to start that shell.
        :raises SSHError: when the shell cannot be given the command.
        """
        order = Order(
            command=command.command,
            cwd=command.cwd or "",
            # --working-directory is one for POSIX hosts.
            directory=self._said(command).working_directory or "",
            env=command.env,
            stdin=self._stdin(command),
            charset=self._charset(command),
        )
        if shell == "powershell":
            return powershell.prepare(order, within=found)
        return cmd.prepare(order, command.host, command.port)

    def _stdin(self, command: ExecuteCommand) -> bytes:
        charset = self._charset(command)
        if not command.stdin_is_text or charset == UTF8:
            return command.stdin
        try:
            return command.stdin.decode().encode(charset)
        except UnicodeError:
            raise Unencodable(field="stdin", encoding=charset) from None

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
