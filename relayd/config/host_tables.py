"""
The ``[[hosts]]`` tables of the TOML file: what this site says of single hosts, before the options that are for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec.structs import asdict

from relayd.config import values
from relayd.config.credentials import LOGIN_KEYS, read_login
from relayd.config.options import BY_NAME
from relayd.config.tables import Table, place
from relayd.errors import ConfigError
from relayd.network.host_rules import NOTHING_SAID, PRIVILEGED_FAMILIES, Become, HostRule, HostSettings
from relayd.network.spelling import fault_of_username

#: The kind of table.
HOSTS: Final = "hosts"


def _become_user(value: str) -> str:
    """A user name, which is to be an argument of a command: not an option there."""
    user = values.text(value)
    if fault_of_username(user) or user.startswith("-"):
        raise ValueError("the name of a user")
    return user


#: What each setting may be. The first ones are options, too, and mean the same there for all other hosts.
SETTINGS: Final[dict[str, Callable[[str], Any]]] = {
    **{
        name: BY_NAME[name].parse
        for name in (
            "ssh-algorithms", "host-keys", "connect-timeout", "keepalive-interval", "max-sessions", "max-connections",
            "working-directory", "output-encoding",
        )
    },
    "commands-per-connection": values.whole_number(1, 1_000_000),
    "no-exit-status": values.whole_number(0, 255),
    "shell": values.Choice("posix", "none", "cmd", "powershell", "device"),
    "family": values.Choice("cisco", "huawei", "h3c", "juniper", "mikrotik", "generic"),
    "pty": values.flag,
    "become": values.Choice("sudo", "su", "enable"),
}  # fmt: skip
_BECOME_USER: Final = "become-user"
_BECOME_PASSWORD: Final = "become-password-file"
_FAMILY_NEEDS: Final = 'needs shell = "device"'
#: The keys that no other table has.
HOST_KEYS: Final = ("name", *SETTINGS, _BECOME_USER, _BECOME_PASSWORD)
_KEYS: Final = ("hosts", "users", *HOST_KEYS, *LOGIN_KEYS)


def read_host(table: Table) -> HostRule:
    """
    The rule of one ``[[hosts]]`` table.

    :raises ConfigError: for the first mistake.
    """
    table.check_keys(_KEYS)
    said = {
        name.replace("-", "_"): table.value(name, parse)
        for name, parse in SETTINGS.items()
        if name in table.content and name != "become"
    }
    rule = HostRule(
        hosts=table.hosts(),
        users=table.users(),
        name=table.value("name", values.text) if "name" in table.content else "",
        settings=HostSettings(**said, become=_become(table)),
        credential=read_login(table),
    )
    said_shell, become = rule.settings.shell, rule.settings.become
    if become is not None and said_shell is not None and said_shell != become.shell:
        table.refuse("become", f'{_needs(become)}, and not "{said_shell}"')
    family = rule.settings.family
    if become is not None and become.method == "enable" and family not in (None, *PRIVILEGED_FAMILIES):
        known = ", ".join(PRIVILEGED_FAMILIES)
        table.refuse("become", f'is "enable", which the family {family} has not; only {known} have it')
    if family is not None and said_shell not in (None, "device"):
        table.refuse("family", f'{_FAMILY_NEEDS}, and not "{said_shell}"')
    if rule.settings == NOTHING_SAID and rule.credential is None:
        raise ConfigError(option=table.place, reason='says nothing of its hosts; add a setting, such as shell = "none"')
    return rule


def between_hosts(rules: tuple[HostRule, ...], path: str) -> Iterator[ConfigError]:
    """The mistakes that no table makes alone, in the tables of the file at *path*."""
    if any(rule.settings.shell == "device" for rule in rules):
        return
    for number, rule in enumerate(rules, 1):
        become = rule.settings.become
        if become is not None and become.shell == "device":
            reason = f"{_needs(become)}, and no table says that"
            yield ConfigError(option=f"become of {place(HOSTS, number, path)}", reason=reason)
        elif rule.settings.family is not None:
            reason = f"{_FAMILY_NEEDS}, and no table says that"
            yield ConfigError(option=f"family of {place(HOSTS, number, path)}", reason=reason)


def _needs(become: Become) -> str:
    return f'is "{become.method}", which needs shell = "{become.shell}"'


def _become(table: Table) -> Become | None:
    if "become" not in table.content:
        for key in (_BECOME_USER, _BECOME_PASSWORD):
            if key in table.content:
                table.refuse(key, 'needs become = "sudo", "su" or "enable" too')
        return None
    method = table.value("become", SETTINGS["become"])
    if method == "enable" and _BECOME_PASSWORD not in table.content:
        table.refuse(_BECOME_PASSWORD, 'missing; become = "enable" needs the secret for the privileged mode')
    if method == "enable" and _BECOME_USER in table.content:
        table.refuse(_BECOME_USER, 'remove it: become = "enable" has no user')
    user = table.value(_BECOME_USER, _become_user) if _BECOME_USER in table.content else "root"
    return Become(method=method, user=user, password_file=table.file(_BECOME_PASSWORD, secret=True))


def table_of_host(rule: HostRule) -> dict[str, Any]:
    """The keys and values of the table that *rule* was read from, in a fixed order."""
    login = {} if rule.credential is None else asdict(rule.credential)
    said = asdict(rule.settings)
    become = said.pop("become")
    if become is not None:
        said |= {
            "become": become.method,
            _BECOME_USER: become.user,
            _BECOME_PASSWORD: become.password_file,
        }
    table = {"name": rule.name or None, "hosts": rule.hosts, "users": rule.users, **said, **login}
    return {name.replace("_", "-"): value for name, value in table.items() if value is not None}
