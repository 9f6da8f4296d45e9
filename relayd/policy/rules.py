"""
Which hosts, users and commands this site allows: what its operator forbids, no main server can order.

Decisions only, without I/O: names are looked up elsewhere, and each address that is found is asked about here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from msgspec import Struct

from relayd.errors import Forbidden, ForbiddenCommand, ForbiddenFile, ForbiddenHost, ForbiddenUser
from relayd.language.texts import Text
from relayd.network.patterns import (
    Network,
    check_host_pattern,
    check_user_pattern,
    covers_user,
    matches_host,
    means_addresses,
    read_network,
    split_port,
)
from relayd.network.spelling import Address, embedded_addresses, read_address
from relayd.wire.files import Fetch, File
from relayd.wire.messages import Become, ExecuteCommand, JumpHost

#: Addresses that no host of a network has: they are refused unless --allow-hosts names them, or part of their range.
SPECIAL: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (kind, tuple(map(ip_network, networks)))
    for kind, networks in (
        (Text("unspecified"), ("0.0.0.0/8", "::/128")),
        (Text("link-local"), ("169.254.0.0/16", "fe80::/10")),
        (Text("multicast"), ("224.0.0.0/4", "ff00::/8")),
        (Text("broadcast"), ("255.255.255.255/32",)),
        # Clouds serve credentials from these, beside 169.254.169.254; none of them is a host of the site.
        (Text("metadata service"), ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")),
        (Text("metadata service"), ("fd00:ec2::254/128", "fd20:ce::254/128")),
    )
)
#: The longest command that rules are applied to, in bytes: Linux takes no longer one from an SSH server
#: (``MAX_ARG_STRLEN``), and the time that a rule takes grows with it.
MAX_TEXT = 128 * 1024
#: Verdicts that are kept: of hosts, and of users.
_REMEMBERED = 4096

UNKNOWN_ADDRESS = Text(
    "behind a jump host the relay cannot look up a name: use its address, or have the name listed in --allow-hosts of "
    "the relay"
)


class Verdict(Struct, frozen=True):
    """
    What the rules say of a host, a user or a command.

    :ivar reason: why it is refused, for the main server: which option to look at; it shows no rule of the site.
    :ivar rule: for the operator: the option, and the rule in it that decided; empty where no rule did.
    """

    allowed: bool
    reason: str = ""
    rule: str = ""


class Policy:
    """
    The rules of a site.  An option that is not given allows everything, except `SPECIAL` addresses.

    :param allow_hosts: patterns, see `host_patterns`.
    :param deny_hosts: patterns of the same kind; they win.
    :param allow_users: patterns, see `user_patterns`.
    :param allow_commands: a regular expression for the whole command, see `command_pattern`.
    :param deny_commands: a regular expression for any part of the command; it wins.
    :param allow_files: a regular expression for the whole path of a file that a command brings or wants.
    :param deny_files: a regular expression for any part of it; it wins.
    """

    def __init__(
        self,
        *,
        allow_hosts: Sequence[str] | None = None,
        deny_hosts: Sequence[str] | None = None,
        allow_users: Sequence[str] | None = None,
        allow_commands: str | None = None,
        deny_commands: str | None = None,
        allow_files: str | None = None,
        deny_files: str | None = None,
    ) -> None:
        self._allow_hosts = tuple(allow_hosts or ())
        self._deny_hosts = tuple(deny_hosts or ())
        self._allow_users = tuple(allow_users or ())
        self._allow_commands = None if allow_commands is None else _compile(allow_commands)
        self._deny_commands = None if deny_commands is None else _compile(deny_commands)
        self._allow_files = None if allow_files is None else _compile(allow_files)
        self._deny_files = None if deny_files is None else _compile(deny_files)
        # Commands are for the same hosts and users again and again, and the rules never change.
        self.judge_host = lru_cache(_REMEMBERED)(self._judge_host)
        self.judge_user = lru_cache(_REMEMBERED)(self._judge_user)

    def refusal_of(self, command: ExecuteCommand) -> Forbidden | None:
        """
        Why the site does not allow *command*, as far as that is known before its host's name is looked up.

        Jump hosts that it names are judged like any other host.
        """
        places: list[JumpHost | ExecuteCommand] = [*command.via, command]
        for number, place in enumerate(places):
            host = self.judge_host(place.host, place.port, behind=number > 0)
            if not host.allowed:
                return ForbiddenHost(host=place.written_host, port=place.port, reason=host.reason)
            user = self.judge_user(place.username)
            if not user.allowed:
                return ForbiddenUser(user=place.username, reason=user.reason)
        if isinstance(command.become, Become):
            user = self.judge_user(command.become.user)
            if not user.allowed:
                return ForbiddenUser(user=command.become.user, reason=user.reason)
        surroundings = command.cwd is not None or bool(command.env) or bool(command.pty)
        text = self.judge_command(command.command, surroundings=surroundings or command.script is not None)
        if text.allowed and command.script is not None:
            text = self.judge_command(" ".join((command.script.interpreter, *command.script.args)))
        if not text.allowed:
            return ForbiddenCommand(reason=text.reason)
        files: list[File | Fetch] = [*command.files, *command.fetch]
        for file in files:
            verdict = self.judge_file(file.path)
            if not verdict.allowed:
                return ForbiddenFile(path=file.path, reason=verdict.reason)
        return None

    def allows_address(self, host: str, port: int, address: Address | None) -> bool:
        """
        Whether a connection to *host* may be opened.

        :param address: the address to which it will be; ``None`` where a jump host is to look up *host*.
        """
        return self.judge_host(host, port, address, behind=address is None).allowed

    def _judge_host(self, host: str, port: int, address: Address | None = None, *, behind: bool = False) -> Verdict:
        """
        Whether commands may go to a host.

        :param address: the address of its name; without it a name is refused only if no address would be allowed.
        :param behind: whether a jump host would look up the name, so that the relay never knows the address.
        """
        address = address or read_address(host)
        faces = () if address is None else (address, *embedded_addresses(address))
        names = (host, *map(str, faces))
        denied = _first_match(self._deny_hosts, port, *names)
        if denied:
            return Verdict(False, Text("--deny-hosts of the relay forbids it"), f"--deny-hosts {denied}")
        for face in faces:
            for kind, network in _special(face):
                if not self._names(face, network, port):
                    reason = Text(
                        "{kind} addresses are refused, unless --allow-hosts of the relay names them", kind=kind
                    )
                    return Verdict(False, reason, f"{kind} address ({network}), which --allow-hosts does not name")
        allowed = _first_match(self._allow_hosts, port, host, *names[1:2])
        if allowed:
            return Verdict(True, rule=f"--allow-hosts {allowed}")
        if behind and address is None and (self._allow_hosts or _know_addresses(self._deny_hosts, port)):
            return Verdict(False, UNKNOWN_ADDRESS)
        if self._allow_hosts and (address is not None or not _know_addresses(self._allow_hosts, port)):
            return Verdict(False, Text("--allow-hosts of the relay does not list it"))
        return Verdict(True)

    def _judge_user(self, user: str) -> Verdict:
        """Whether commands may run as a user."""
        if self._allow_users and not covers_user(self._allow_users, user):
            return Verdict(False, Text("--allow-users of the relay does not list that user"))
        return Verdict(True, rule=f"--allow-users {','.join(self._allow_users)}" if self._allow_users else "")

    def judge_command(self, text: str, *, surroundings: bool = False) -> Verdict:
        """
        Whether a command may run.

        :param surroundings: whether it brings a directory or variables of its own, such as ``PATH``, or a terminal,
            where many a program starts a pager that runs what its input says, or is a script, whose text another
            program reads: these can turn a command that the site has listed into another one.
        """
        allow, deny = self._allow_commands, self._deny_commands
        if allow is None and deny is None:
            return Verdict(True)
        data = text.encode("utf-8")
        if len(data) > MAX_TEXT:
            return Verdict(
                False,
                Text("with --allow-commands or --deny-commands it may have {most} bytes at most", most=MAX_TEXT),
            )
        if deny is not None and deny.search(data):
            return Verdict(
                False, Text("--deny-commands of the relay forbids it"), "--deny-commands, which matches in it"
            )
        if allow is None:
            return Verdict(True)
        if surroundings:
            reason = Text("with --allow-commands of the relay it must not bring cwd, env or pty, nor be a script")
            return Verdict(False, reason)
        if not allow.fullmatch(data):
            return Verdict(False, Text("--allow-commands of the relay does not list it"))
        return Verdict(True, rule="--allow-commands, which matches all of it")

    def judge_file(self, path: str) -> Verdict:
        """
        Whether a command may bring a file, or want one.

        :param path: as `relayd.wire.file_fields.path` gives it. Where it leads on the host, links decide.
        """
        data = path.encode("utf-8")
        if self._deny_files is not None and self._deny_files.search(data):
            return Verdict(False, Text("--deny-files of the relay forbids it"), "--deny-files, which matches in it")
        if self._allow_files is not None:
            if not self._allow_files.fullmatch(data):
                return Verdict(False, Text("--allow-files of the relay does not list it"))
            return Verdict(True, rule="--allow-files, which matches all of it")
        if self._allow_commands is not None:
            # A file can turn a command that the site has listed into another one, and reading one is like a command.
            return Verdict(False, Text("with --allow-commands of the relay, --allow-files has to list it"))
        return Verdict(True)

    def _names(self, face: Address, special: Network, port: int) -> bool:
        """Whether a rule names an address of a special range, and not just a network in which it happens to be."""
        return any(
            matches_host(pattern, str(face), port) and _is_within(pattern, special) for pattern in self._allow_hosts
        )


def host_patterns(text: str) -> tuple[str, ...]:
    """
    The value of ``--allow-hosts`` and ``--deny-hosts``: networks, addresses, names with ``*`` and ``?``, and each of
    these as ``[PATTERN]:PORT``; with commas between.

    :raises ValueError: what was expected, and what was found.
    """
    patterns = _split(text, "networks, addresses and names, with commas between")
    for pattern in patterns:
        check_host_pattern(pattern)
    return patterns


def host_patterns_with_exceptions(text: str) -> tuple[str, ...]:
    """
    The same, with ``!`` before patterns of hosts that are left out, as in the ``[[credentials]]`` tables.

    :raises ValueError: what was expected, and what was found.
    """
    patterns = _split(text, "networks, addresses and names, with commas between")
    for pattern in patterns:
        check_host_pattern(pattern.removeprefix("!"))
    if all(pattern.startswith("!") for pattern in patterns):
        raise ValueError("one without ! too, like *, as no host matches these", text)
    return patterns


def user_patterns(text: str) -> tuple[str, ...]:
    """
    The value of ``--allow-users``: names with ``*`` and ``?``, and ``!`` before names that are left out; with commas
    between.

    :raises ValueError: what was expected, and what was found.
    """
    patterns = _split(text, "user names, with commas between")
    for pattern in patterns:
        check_user_pattern(pattern.removeprefix("!"))
    if all(pattern.startswith("!") for pattern in patterns):
        raise ValueError("one without ! too, like *, as no user matches these", text)
    return patterns


def command_pattern(text: str) -> str:
    """
    The value of ``--allow-commands``, ``--deny-commands``, ``--allow-files`` and ``--deny-files``: a regular expression
    in the syntax of RE2.

    :raises ValueError: what was expected.
    """
    import re2

    try:
        if not text.strip() or not text.isprintable():
            raise ValueError("it is empty, or has several lines")
        _compile(text)
    except (ValueError, re2.error) as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else error
        raise ValueError(f"a regular expression of RE2 ({reason})") from None
    return text


def _compile(pattern: str) -> Any:
    """
    Compile a pattern with RE2, whose time grows with the text and no faster.

    The main server chooses the text, and a short one can keep the standard library's ``re`` busy for years.
    """
    import re2  # here, since few sites have such a rule

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern.encode("utf-8"), options)


def _split(text: str, expected: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(","))
    if not all(pattern.removeprefix("!") and pattern.isprintable() for pattern in patterns):
        raise ValueError(expected, text)
    return patterns


def _first_match(patterns: Sequence[str], port: int, *names: str) -> str:
    return next((pattern for pattern in patterns if any(matches_host(pattern, name, port) for name in names)), "")


def _know_addresses(patterns: Sequence[str], port: int) -> bool:
    """Whether what the patterns say of a name may depend on its address."""
    return any(means_addresses(pattern) and split_port(pattern)[1] in (None, port) for pattern in patterns)


def _special(address: Address) -> Iterator[tuple[str, Network]]:
    return ((kind, network) for kind, networks in SPECIAL for network in networks if address in network)


def _is_within(pattern: str, special: Network) -> bool:
    try:
        network = read_network(split_port(pattern)[0])
    except ValueError:
        return False
    return (
        network.version == special.version
        and network.network_address in special
        and network.prefixlen >= special.prefixlen
    )
