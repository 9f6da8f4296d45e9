"""
What the site's ``[[hosts]]`` tables say of hosts: each kind of host in its own way.

A rule says something of the hosts and users that its patterns match. For each setting, the first rule that says
something wins; where none does, the option of the relay applies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from relayd.network.credential_rules import CredentialRule
from relayd.network.patterns import covers_host, covers_user

#: What reads the text of a command on a host.
Shell = Literal["posix", "none", "cmd", "powershell", "device"]
#: The families of network devices, by their command lines.
Family = Literal["cisco", "huawei", "h3c", "juniper", "mikrotik", "generic"]
#: Those whose privileged mode is known; with the others ``become = "enable"`` would do nothing.
PRIVILEGED_FAMILIES: Final[tuple[Family, ...]] = ("cisco", "huawei", "h3c")
#: How many logins are remembered with what applies to them.
_REMEMBERED: Final = 4096


class Become(Struct, frozen=True, kw_only=True):
    """
    How a command gets the rights of another user, once it is logged in.

    :ivar method: the program that gives them; ``enable``: the privileged mode of a network device.
    :ivar user: the user whose rights these are.
    :ivar password_file: file whose first line is the password that the program asks for: with sudo usually that of the
        login, with su that of *user*. ``None``: it asks for none, or the command brings it.
    """

    method: Literal["sudo", "su", "enable"]
    user: str = "root"
    password_file: str | None = None

    @property
    def shell(self) -> Shell:
        """What reads the text of commands on hosts that it is for."""
        return "device" if self.method == "enable" else "posix"


class HostSettings(Struct, frozen=True, kw_only=True):
    """
    What is said of a host and user; ``None``: nothing is said.

    :ivar ssh_algorithms: see ``--ssh-algorithms``.
    :ivar host_keys: see ``--host-keys``.
    :ivar connect_timeout: seconds for each of TCP, key exchange and login.
    :ivar keepalive_interval: seconds between probes of a silent server.
    :ivar max_sessions: sessions at a time on one connection.
    :ivar max_connections: connections to one target at a time.
    :ivar commands_per_connection: commands after which a connection is closed.
    :ivar working_directory: where commands run; empty: where the login leads.
    :ivar output_encoding: the character set, as `relayd.language.charsets` names it.
    :ivar no_exit_status: the exit status of a session that the host closes in good order without one.
    :ivar shell: what reads the text of a command there.
    :ivar family: how the command line of a device works.
    :ivar pty: whether commands get a pseudo-terminal.
    :ivar become: whose rights commands get.
    """

    ssh_algorithms: Literal["modern", "compatible", "legacy"] | None = None
    host_keys: Literal["accept-new", "strict", "ignore"] | None = None
    connect_timeout: float | None = None
    keepalive_interval: float | None = None
    max_sessions: int | None = None
    max_connections: int | None = None
    commands_per_connection: int | None = None
    working_directory: str | None = None
    output_encoding: str | None = None
    no_exit_status: int | None = None
    shell: Shell | None = None
    family: Family | None = None
    pty: bool | None = None
    become: Become | None = None

    @property
    def of_connection(self) -> tuple[str | float | None, ...]:
        """The settings that a connection keeps as long as it is open."""
        return self.ssh_algorithms, self.host_keys, self.keepalive_interval


#: Nothing is said.
NOTHING_SAID: Final = HostSettings()


class HostRule(Struct, frozen=True, kw_only=True):
    """
    One ``[[hosts]]`` table.

    :ivar hosts: patterns, see `relayd.network.patterns.covers_host`.
    :ivar users: patterns of user names, see `relayd.network.patterns.covers_user`.
    :ivar name: what people call it; may be empty.
    :ivar credential: how to log in, and by which way, for the same hosts and users.
    """

    hosts: tuple[str, ...]
    users: tuple[str, ...] = ("*",)
    name: str = ""
    settings: HostSettings = NOTHING_SAID
    credential: CredentialRule | None = None

    @property
    def says(self) -> tuple[str, ...]:
        """Of what it says something: the names of its settings."""
        names = [name for name in HostSettings.__struct_fields__ if getattr(self.settings, name) is not None]
        return (*names, *(() if self.credential is None else self.credential.says))

    def covers(self, host: str, port: int, user: str) -> bool:
        """Whether this rule is for a login."""
        return covers_host(self.hosts, host, port) and covers_user(self.users, user)


class HostTable:
    """
    The rules of the site, in the order of its file.

    :ivar of: what they come to for a host (in its canonical spelling), port and user, as one `HostSettings`.
    :ivar is_empty: whether there are no rules: then ``of`` need not be asked, as each command would several times.
    """

    def __init__(self, rules: tuple[HostRule, ...] = ()) -> None:
        self._rules = rules
        self.of = lru_cache(_REMEMBERED)(self._of) if rules else _nothing
        self.is_empty = not rules

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostTable) and self._rules == other._rules

    def __hash__(self) -> int:
        return hash(self._rules)

    def deciding(self, host: str, port: int, user: str) -> dict[str, int]:
        """For each setting that a rule says something of, the number of the rule that wins, from 0."""
        found: dict[str, int] = {}
        for number, rule in enumerate(self._rules):
            if rule.covers(host, port, user):
                for name in HostSettings.__struct_fields__:
                    if getattr(rule.settings, name) is not None:
                        found.setdefault(name, number)
        return found

    def _of(self, host: str, port: int, user: str) -> HostSettings:
        decided = self.deciding(host, port, user)
        return HostSettings(**{name: getattr(self._rules[at].settings, name) for name, at in decided.items()})


def _nothing(_host: str, _port: int, _user: str) -> HostSettings:
    return NOTHING_SAID
