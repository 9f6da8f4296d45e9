"""
What ``relayctl check`` checks on this machine: settings, files and who may read them, keys, the state directory.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from relayd.config import values
from relayd.config.exposure import exposures
from relayd.config.options import OPTIONS, Config
from relayd.config.reading import Reading
from relayd.config.secret_files import open_to_others
from relayd.config.state_directory import StateDirectory, directory_hindrance
from relayd.ctl.check_space import check_space, no_room
from relayd.ctl.findings import Report
from relayd.errors import KeyUnusable, NoJournal
from relayd.interfaces import EntryState
from relayd.journal.journal_report import read_report
from relayd.journal.store import journal_file
from relayd.network.credential_rules import CredentialRule, parse_via
from relayd.network.descriptors import words_of
from relayd.network.shadowed import Claim, shadowed
from relayd.settings import credentials_of
from relayd.ssh.errors import SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.keys.certificates import BadCertificate, read_user_certificate
from relayd.ssh.keys.private import UnreadableKey, parse_private_key
from relayd.ssh.login.agent import Agent, AgentError
from relayd.ssh.login.identities import own_identities
from relayd.ssh.login.site_credentials import CredentialTable

#: Seconds that an ssh-agent has to answer.
AGENT_TIMEOUT: Final = 5.0


def check_settings(reading: Reading, report: Report) -> None:
    """Report mistakes in the options, and options that weaken relayd."""
    for mistake in reading.mistakes:
        report("fault", "settings", str(mistake))
    for variable in reading.unknown:
        report(
            "warning",
            "settings",
            f"{variable} in the environment is not an option of relayd: remove it if it was meant as one",
        )
    config = reading.config
    if config is None:
        return
    for warning in (*_weak_settings(config), *_weak_tables(config), *_idle_tables(config)):
        report("warning", "settings", warning)
    for exposed in exposures(reading, os.environ):
        report("warning", "settings", exposed)
    if not reading.mistakes:
        tables = f"{len(config.credentials)} [[credentials]], {len(config.hosts)} [[hosts]]"
        if config.servers:
            tables += f", {len(config.servers)} [[servers]]"
        report("ok", "settings", f"{len(reading.given)} options are set, {tables}")


def _weak_settings(config: Config) -> Iterator[str]:
    """Each setting that takes a defence away, with what to do about it."""
    for option in OPTIONS:
        weakness = option.weakness
        if weakness is None or option.spell(getattr(config, option.attribute)) != weakness.value:
            continue
        if option.name == "allow-plaintext" and (
            config.url is None or all(values.is_private(each.url, each.http_proxy) for each in config.each_server)
        ):
            continue  # nothing is sent unencrypted all the same
        chosen = option.flag_name if option.is_flag else f"{option.flag_name} {weakness.value}"
        yield f"{chosen}: {weakness.advice}"


def _weak_tables(config: Config) -> Iterator[str]:
    """The same for what tables say of single hosts."""
    for number, rule in enumerate(config.hosts, 1):
        for option in OPTIONS:
            weakness, value = option.weakness, getattr(rule.settings, option.attribute, None)
            if weakness is not None and value is not None and option.spell(value) == weakness.value:
                yield f'{option.name} = "{weakness.value}" of [[hosts]] number {number}: {weakness.advice}'


def _idle_tables(config: Config) -> Iterator[str]:
    """Each table that never applies, as earlier ones say all that it says for all of its hosts."""
    tables = [
        (f"[[hosts]] number {number}", Claim(rule.hosts, rule.users, frozenset(rule.says)))
        for number, rule in enumerate(config.hosts, 1)
    ] + [
        (f"[[credentials]] number {number}", Claim(rule.hosts, rule.users, frozenset(rule.says)))
        for number, rule in enumerate(config.credentials, 1)
    ]
    for at, winners in shadowed([claim for _, claim in tables]):
        others = ", ".join(tables[winner][0] for winner in winners)
        yield (
            f"{tables[at][0]} never applies: for all of its hosts and users, {others} before it says what it says; "
            "move it up, or remove it"
        )


async def check_files(reactor: Any, config: Config, report: Report) -> str | None:
    """
    Report on all files that a relay uses, but for what `check_settings` has reported already.

    :return: the process id of the relay that uses this state directory, empty if it is not known; ``None``: no relay
        uses it.
    """
    for each in config.each_server:
        _check_api_key(each, report)
    holder = _check_state(config, report)
    _check_journal(config, report)
    _check_known_hosts(config, report)
    _check_audit(config, report)
    _check_status(config, holder, report)
    check_space(config, report)
    table = credentials_of(config)
    for kind, number, row in config.logins:
        await _check_credential(reactor, table, f"{kind} {number}", row, report)
    return holder


def _check_api_key(config: Config, report: Report) -> None:
    if config.api_key_file is None:
        return
    try:
        key = config.read_api_key()
    except KeyUnusable:
        return
    if open_to_others(config.api_key_file, os.environ):
        report("warning", "API key", f"other users can read {config.api_key_file}: chmod 600 it")
    else:
        report("ok", "API key", f"{len(key.reveal())} characters in {config.api_key_file}")


def _check_state(config: Config, report: Report) -> str | None:
    path = config.state_dir
    if directory_hindrance(path):
        return None
    if (words := no_room(path)) is not None:
        report("fault", "state directory", f"cannot write to {path}: {words}")
    if not os.path.isdir(path):
        if words is None:
            report("ok", "state directory", f"{path} does not exist yet; relayd creates it when it starts")
        return None
    try:
        holder = StateDirectory(path).holder()
    except OSError as error:
        advice = "; run as relayd's user" if isinstance(error, PermissionError) else ""
        report("fault", "state directory", f"{path}: the lock in it cannot be used: {words_of(error)}{advice}")
        return None
    if words is not None:
        pass  # reported above
    elif holder is None:
        report("ok", "state directory", f"{path}; no relay uses it now")
    else:
        report("ok", "state directory", f"{path}; a relay is using it" + (f" (process {holder})" if holder else ""))
    return holder


def _check_journal(config: Config, report: Report) -> None:
    if config.journal == "memory":
        report("ok", "journal", "in memory: commands and results are lost when the process ends")
        return
    path = journal_file(config.state_dir)
    if not os.path.exists(path):
        report("ok", "journal", f"{path} does not exist yet")
        return
    try:
        found = read_report(path)
    except NoJournal as error:
        report("fault", "journal", str(error))
        return
    waiting, dead = (found.counts.get(state, 0) for state in (EntryState.FINISHED, EntryState.DEAD))
    if dead or found.damages:
        what = f"{dead} results that the main server did not take" if dead else "it was damaged once"
        report("warning", "journal", f"{path}: {what}; see relayctl journal")
    else:
        report("ok", "journal", f"{path}; {waiting} results wait for confirmation")


def _check_known_hosts(config: Config, report: Report) -> None:
    path = config.known_hosts
    policies = [config.host_keys, *(each for rule in config.hosts if (each := rule.settings.host_keys))]
    policy = next((each for each in policies if each != "ignore"), None)
    if policy is None:
        return
    try:
        KnownHosts(path, policy).key_types("localhost", 22)
    except SSHError as error:
        report("fault", "known hosts", str(error))
        return
    if not os.path.exists(path) and config.host_keys == "strict":
        report(
            "warning",
            "known hosts",
            f"{path} does not exist, so --host-keys strict refuses every host; add the hosts' "
            "keys to it, or use accept-new",
        )
    elif config.host_keys == "accept-new" and os.path.exists(path) and not os.access(path, os.W_OK):
        report(
            "fault",
            "known hosts",
            f"this user cannot write to {path}, so no new host keys can be recorded; let it write there",
        )
    else:
        report("ok", "known hosts", path if os.path.exists(path) else f"{path} does not exist yet")


def _check_audit(config: Config, report: Report) -> None:
    path = config.audit_log
    if path is None:
        return
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        report("fault", "audit log", f"directory {folder} does not exist: create it")
    elif not os.access(folder, os.W_OK | os.X_OK) or (os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK)):
        report("fault", "audit log", f"this user cannot write to {path} or to its directory; let it, or choose another")
    elif (words := no_room(folder)) is not None:
        report("fault", "audit log", f"cannot write to {folder}: {words}")
    else:
        report("ok", "audit log", path)


def _check_status(config: Config, holder: str | None, report: Report) -> None:
    """Try to listen where the relay would, unless one does."""
    address = config.status
    if address is None or holder is not None or address.path:
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        report("fault", "status", f"--status: cannot listen at {address}: {words_of(error)}; choose another")
    else:
        report("ok", "status", f"{address} is free")


async def _check_credential(
    reactor: Any, table: CredentialTable, what: str, row: CredentialRule, report: Report
) -> None:
    """Report on one rule: what its files hold, and whether its jump hosts have credentials."""
    try:
        found = table.read(row)
        key = None
        if found.private_key is not None:
            key = parse_private_key(found.private_key, found.passphrase)
        if found.certificate is not None:
            certificate = read_user_certificate(found.certificate, time.time())
            if key is not None:
                own_identities(key, certificate, "")
        if found.agent is not None:
            await Agent(reactor, found.agent, AGENT_TIMEOUT).keys()
    except UnreadableKey as reason:
        report("fault", what, f"key-file {row.key_file}: {reason}")
    except BadCertificate as reason:
        report("fault", what, f"certificate of {row.certificate_file or row.key_file}: {reason}")
    except AgentError as reason:
        report("fault", what, f"agent {row.agent}: {reason}")
    except SSHError as error:
        report("fault", what, str(error))
    else:
        for hop in parse_via(row.via or ""):
            if hop.username is not None and table.find(hop.host, hop.port, hop.username) is None:
                text = f"jump host {hop.host}: no table with a credential covers {hop.username} there: add one"
                report("fault", what, text)
                return
        report("ok", what, f"for {', '.join(row.hosts)}: " + ", ".join(_parts(row)))


def _parts(row: CredentialRule) -> list[str]:
    parts = {"key": row.key_file, "password": row.password_file, "agent": row.agent, "via": row.via}
    return [f"{name} {value}" for name, value in parts.items() if value]
