"""
What a host gets for a command: its text in the language of the shell there, its input, its terminal, as whom it runs.
"""

from __future__ import annotations

from hashlib import sha256

from msgspec import Struct

from relayd.errors import (
    BecomeMismatch,
    BecomeUnsupported,
    ChecksumMismatch,
    PrivilegeUnknown,
    ScriptUnsupported,
    Unencodable,
)
from relayd.language.charsets import UTF8, Unwritable, write_text
from relayd.network import host_rules
from relayd.network.host_rules import NOTHING_SAID, PRIVILEGED_FAMILIES, HostSettings, HostTable, Shell
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.scripts import ScriptProgress, script_lines, script_text
from relayd.ssh.channels.surroundings import surround
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.errors import NoShell
from relayd.ssh.files.orders import FileOrders, FileToRead, FileToWrite
from relayd.ssh.login.site_credentials import first_line
from relayd.ssh.shells import cmd, powershell
from relayd.ssh.shells.prepared import Order, Prepared, WindowsShell
from relayd.ssh.target import Target
from relayd.wire import messages as wire
from relayd.wire.messages import BASE64, ExecuteCommand, Pty


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


def check_become(command: ExecuteCommand, site: HostSettings) -> None:
    """
    Raise `BecomeUnsupported` where the shell of a host does not let a command become another user.

    What a command for a network device asks for itself, `relayd.ssh_devices` refuses.
    """
    shell, host, port = site.shell or "posix", command.written_host, command.port
    if command.become is None:
        if site.become is not None and site.become.shell != shell:
            raise BecomeMismatch(host=host, port=port, method=site.become.method, needed=site.become.shell)
        family = site.family or "generic"
        if site.become is not None and shell == "device" and family not in PRIVILEGED_FAMILIES:
            raise PrivilegeUnknown(host=host, port=port, family=family)
    elif command.become and shell not in ("posix", "device"):
        raise BecomeUnsupported(host=host, port=port, shell=shell)


class HostText:
    """
    What the host of one command gets.

    :ivar site: what the site's tables say of the host.
    :ivar charset: the character set of the command, and of its outputs unless it wants their bytes.
    """

    __slots__ = ("_command", "_settings", "charset", "site")

    def __init__(self, settings: RunnerSettings, command: ExecuteCommand) -> None:
        self._settings = settings
        self._command = command
        hosts = settings.hosts
        site = NOTHING_SAID if hosts.is_empty else hosts.of(command.host, command.port, command.username)
        self.site = site
        own = command.encoding
        self.charset = (site.output_encoding or settings.output_encoding) if own is None or own == BASE64 else own

    def terminal(self) -> Terminal | None:
        """The pseudo-terminal that a command gets."""
        command = self._command
        pty = self.site.pty if command.pty is None else command.pty
        if isinstance(pty, Pty):
            return Terminal(pty.term, pty.cols, pty.rows)
        return Terminal() if pty else None

    def become(self, target: Target) -> Become | None:
        """
        As whom it runs.

        :raises RelayError: when a password cannot be written in the character set of the command.
        :raises SSHError: when a file of the site cannot be used.
        """
        command = self._command
        try:
            return _become_of(command, target, self.site.become, self.charset)
        except UnicodeError:
            raise Unencodable(field="become.password", encoding=self.charset) from None

    def prepared(self, shell: Shell | None, *, inner: bool = False) -> Prepared:
        """
        What the host gets.

        :param shell: what the site says of it; ``None``: what is for a POSIX shell.
        :param inner: whether another user's shell reads the text: variables that are sent beside it do not get there.
        :raises RelayError: when it cannot be written in its character set, or the host takes nothing of its kind.
        :raises SSHError: when the shell cannot be given the command.
        """
        command = self._command
        if command.script is not None and shell not in (None, "posix"):
            raise ScriptUnsupported(host=command.written_host, port=command.port, shell=shell)
        if shell in ("cmd", "powershell"):
            return self.for_windows(shell)
        if shell == "none":
            return self._without_shell()
        return self._for_posix(inner=inner)

    def _for_posix(self, *, inner: bool) -> Prepared:
        """For a POSIX shell, or where nothing is known, in the character set of *command*."""
        command = self._command
        charset, part = self.charset, "command"
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
            said = self.site.working_directory
            directory = write_text(self._settings.working_directory if said is None else said, charset, exactly=exactly)
            if inner and command.env and not directory:
                directory = b"."
            part = "cwd"
            cwd = write_text(command.cwd, charset, exactly=exactly) if command.cwd else b""
            part = "env"
            # Without a shell, variables are sent separately, and no shell reads them.
            exactly = exactly and bool(cwd or directory)
            env = []
            if command.env:
                env = [(name, write_text(value, charset, exactly=exactly)) for name, value in command.env]
        except (Unwritable, UnicodeError):
            raise Unencodable(field=part, encoding=charset) from None
        text, progress = surround(text, cwd, directory, env)
        if mark:
            progress = ScriptProgress(progress, mark)
        in_text = bool(cwd or directory)
        return Prepared(
            text=text,
            stdin=lines + self._stdin(),
            env=[] if in_text else env,
            progress=progress,
            ended_by="posix" if in_text else "server",
        )

    def _without_shell(self) -> Prepared:
        """The text as it is."""
        command = self._command
        if command.cwd or command.env:
            raise NoShell(host=command.host, port=command.port)
        charset = self.charset
        try:
            text = write_text(command.command, charset, exactly=self._settings.exact_text)
        except (Unwritable, UnicodeError):
            raise Unencodable(field="command", encoding=charset) from None
        return Prepared(text=text, stdin=self._stdin(), ended_by="server")

    def for_windows(self, shell: WindowsShell, *, found: bool = False) -> Prepared:
        """
        For a shell of Windows, which gets its text in UTF-8 and writes in the character set of *command*.

        :param found: whether the host's server is known to start that shell.
        :raises SSHError: when the shell cannot be given the command.
        """
        command = self._command
        order = Order(
            command=command.command,
            cwd=command.cwd or "",
            # --working-directory is one for POSIX hosts.
            directory=self.site.working_directory or "",
            env=command.env,
            stdin=self._stdin(),
            charset=self.charset,
        )
        if shell == "powershell":
            return powershell.prepare(order, within=found)
        return cmd.prepare(order, command.host, command.port)

    def files(self, *, check: bool = False) -> FileOrders | None:
        """
        The files that a command brings and wants; ``None``: there are none.

        :param check: whether contents are to have the checksums that the command names.
        :raises RelayError: when one cannot be written in the character set of the command, or has another checksum.
        """
        command = self._command
        if not command.files and not command.fetch:
            return None
        charset = self.charset
        writes = []
        for number, file in enumerate(command.files):
            field = f"files[{number}]"
            content = file.content
            if file.content_is_text:
                content = _in_charset(f"{field}.content", content.decode(), charset)
            if check and file.sha256 not in (None, sha256(content).hexdigest()):
                raise ChecksumMismatch(path=file.path)
            path = _in_charset(f"{field}.path", file.path, charset)
            writes.append(FileToWrite(path=path, name=file.path, content=content, mode=file.mode, sha256=file.sha256))
        reads = tuple(
            FileToRead(
                path=_in_charset(f"fetch[{number}].path", each.path, charset), name=each.path, most=each.max_bytes
            )
            for number, each in enumerate(command.fetch)
        )
        posix = self.site.shell in (None, "posix")
        return FileOrders(writes=tuple(writes), reads=tuple(reads), posix=posix)

    def _stdin(self) -> bytes:
        command = self._command
        if not command.stdin_is_text:
            return command.stdin
        return _in_charset("stdin", command.stdin.decode(), self.charset)


def _in_charset(field: str, text: str, charset: str) -> bytes:
    """
    A text that no shell reads, in the character set of a command.

    :raises Unencodable: when that does not have all of its characters.
    """
    try:
        return text.encode(charset)
    except UnicodeError:
        raise Unencodable(field=field, encoding=charset) from None


def _become_of(command: ExecuteCommand, target: Target, said: host_rules.Become | None, charset: str) -> Become | None:
    """
    As whom a command runs; ``None``: as the user who logs in.

    :param target: where it runs.
    :param said: what the site's tables say.
    :param charset: in which the host gets a password.
    :raises SSHError: when a file of the site cannot be used.
    :raises UnicodeError: when a password cannot be written in that character set.
    """
    ordered = command.become
    if ordered is None and said is not None and said.method != "enable":  # that one is of network devices
        ordered = wire.Become(method=said.method, user=said.user)
    if ordered is None or isinstance(ordered, bool):
        return Become() if ordered else None
    password = None if ordered.password is None else ordered.password.reveal()
    as_said = said is not None and (said.method, said.user) == (ordered.method, ordered.user)
    if password is None and target.site and as_said and said is not None and said.password_file is not None:
        password = first_line(said.password_file)
    return Become(
        method=ordered.method, user=ordered.user, password=None if password is None else password.encode(charset)
    )
