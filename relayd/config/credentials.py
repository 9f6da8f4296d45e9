"""
The ``[[credentials]]`` tables of the TOML file: what this site itself can log in with, where, and through which hosts.
They hold paths, not secrets. ``[[hosts]]`` tables may have the same keys.
"""

from __future__ import annotations

import os
from typing import Final

from relayd.config.tables import Table, is_text
from relayd.errors import ConfigError
from relayd.network.credential_rules import CredentialRule, parse_via
from relayd.wire import fields

#: The kind of table.
CREDENTIALS: Final = "credentials"
#: The keys that say how to log in, and by which way.
LOGIN_KEYS: Final = ("key-file", "passphrase-file", "password-file", "certificate-file", "agent", "via")
#: Every key of a table.
KEYS: Final = ("hosts", "users", *LOGIN_KEYS)


def read_credential(table: Table) -> CredentialRule:
    """
    The rule of one ``[[credentials]]`` table.

    :raises ConfigError: for the first mistake.
    """
    table.check_keys(KEYS)
    rule = read_login(table)
    if rule is None:
        raise ConfigError(option=table.place, reason="needs at least one of key-file, password-file, agent and via")
    return rule


def read_login(table: Table) -> CredentialRule | None:
    """
    What a table of any kind says of logins; ``None``: nothing.

    :raises ConfigError: for the first mistake.
    """
    rule = CredentialRule(
        hosts=table.hosts(),
        users=table.users(),
        key_file=table.file("key-file", secret=True),
        passphrase_file=table.file("passphrase-file", secret=True),
        certificate_file=table.file("certificate-file", secret=False),
        password_file=table.file("password-file", secret=True),
        agent=_agent(table),
        via=_via(table),
    )
    if rule.passphrase_file is not None and rule.key_file is None:
        table.refuse("passphrase-file", "needs key-file too")
    if rule.certificate_file is not None and rule.key_file is None and rule.agent is None:
        table.refuse("certificate-file", "needs key-file or agent too")
    return rule if rule.has_credential or rule.via is not None else None


def _agent(table: Table) -> str | None:
    agent = table.content.get("agent", False)
    if agent is True:
        path = table.environ.get("SSH_AUTH_SOCK")
        if not path:
            table.refuse("agent", "is true, but SSH_AUTH_SOCK is not set; give the path of the socket instead")
        return os.path.abspath(path)
    if agent is False:
        return None
    if not is_text(agent):
        table.refuse("agent", "expected true (for $SSH_AUTH_SOCK), or the path of an agent's socket")
    return table.path("agent", agent)


def _via(table: Table) -> str | None:
    if "via" not in table.content:
        return None
    text = table.content["via"]
    try:
        hops = parse_via(text) if is_text(text) else ()
    except ValueError:
        hops = ()
    if not hops:
        table.refuse("via", "expected jump hosts, the nearest first, like jump@bastion:2222,second")
    if len(hops) > fields.MAX_HOPS:
        table.refuse("via", f"expected at most {fields.MAX_HOPS} jump hosts")
    return ",".join(part.strip() for part in text.split(","))
