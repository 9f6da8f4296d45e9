"""
Decides which credential is used for which login: from a command and the site's tables to the target to log in to.

This is the only place for the rules. A *credential of the site* is what ``[[credentials]]`` hold: a password, a key,
even if it only signs, or the keys of an agent.

- It goes the site's own way: directly, or through the jump hosts of the site's tables. No jump host that a command
  names gets it, or is on its way.
- It goes only to a host whose key passes the site's own check; ``hostKey`` of a command can only add a second check
  (`Target.site`).
- What a command brings for a login is all that is used for that login. It is not combined with what the site has.
- The password with which a host's users become others (``become-password-file``) goes only where a credential of the
  site has logged in, for the user and by the program that the table names (`relayd.ssh_texts`).
- A host key that is seen by another way than the site's is not taken for the key that the site knows (`Target.detour`).

A command that asks for anything else is refused before any host is contacted.
"""

from __future__ import annotations

from typing import Final

from relayd.errors import CredentialIncomplete, CredentialKept, CredentialMissing
from relayd.network.spelling import dialled_host
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.target import Credential, Target
from relayd.wire.messages import ExecuteCommand, JumpHost

#: Stands for the way without jump hosts, where the site reaches the host through some.
DIRECT: Final = "direct"


def check_target(command: ExecuteCommand, table: CredentialTable) -> None:
    """Raise what `target_of` raises for a command, if anything."""
    brought = command.password is not None or command.private_key is not None
    if command.via or table.has_jump_hosts or not brought:  # else there is nothing that can fail
        target_of(command, table)


def target_of(command: ExecuteCommand, table: CredentialTable) -> Target:
    """
    Find out where and how to log in for a command.

    :raises RelayError: when the rules forbid it, or there is no credential.
    :raises SSHError: when a file of the site cannot be used.
    """
    own = _brought(command)
    host, port, user = _place(command)
    if own is None:
        if command.via:
            raise CredentialKept(username=user, host=command.written_host, port=port)
        target = table.target(command.written_host, port, user, command.host_key)
        if target is None:
            raise CredentialMissing(username=user, host=command.written_host)
        return target
    looked_up = _looked_up(command)
    if not command.via:
        way = table.way(host, port, user)
        passed = "" if way is not None or table.is_direct(host, port, user) else DIRECT
        return Target(host, port, user, own, command.host_key, way, detour=passed, looked_up=looked_up)
    via, passed = _through(command.via, table)
    return Target(host, port, user, own, command.host_key, via, detour=passed, looked_up=looked_up)


def _through(hops: tuple[JumpHost, ...], table: CredentialTable) -> tuple[Target | None, str]:
    """The last of the jump hosts that a command names, and the name of the way through them."""
    via: Target | None = None
    passed = ""
    for hop in hops:
        host, port, user = _place(hop)
        own = _brought(hop)
        if own is None:
            raise CredentialKept(username=user, host=hop.written_host, port=port)
        if via is None and not table.is_direct(host, port, user):
            passed = DIRECT
        via = Target(host, port, user, own, hop.host_key, via, detour=passed, looked_up=_looked_up(hop))
        passed = f"{passed}/{host}:{port}" if passed else f"{host}:{port}"
    return via, passed


def _place(of: ExecuteCommand | JumpHost) -> tuple[str, int, str]:
    return of.host, of.port, of.username


def _looked_up(of: ExecuteCommand | JumpHost) -> str | None:
    return None if of.written is None else dialled_host(of.written)


def _brought(of: ExecuteCommand | JumpHost) -> Credential | None:
    """
    The credential that a command brings for a login; ``None`` where it brings none.

    :raises CredentialIncomplete: for a passphrase or certificate without a key.
    """
    if of.password is not None or of.private_key is not None:
        password, key, passphrase = of.password, of.private_key, of.passphrase
        return Credential(
            None if password is None else password.reveal(),
            None if key is None else key.reveal(),
            None if passphrase is None else passphrase.reveal(),
            of.certificate,
        )
    if of.passphrase is not None or of.certificate is not None:
        raise CredentialIncomplete(username=of.username, host=of.written_host, port=of.port)
    return None
