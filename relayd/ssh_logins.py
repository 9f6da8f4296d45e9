"""
Whose credential goes where: from an order and the site's tables to the target that is logged in to.

The rule, which stands here and nowhere else. A *credential of the site* is what ``[[credentials]]`` hold: a password, a
key, also where it only signs, and what an agent signs with.

- It goes the site's own way: directly, or through the jump hosts of its tables. What the order names as a jump host
  gets none, and none goes through it.
- It goes to a host whose key the site's own check found good; ``hostKey`` of the order can only ask for more
  (`Target.site`).
- What the order brings for a login is all there is for that login: nothing of it is joined with what the site has.
- What shows itself by a way that is not the site's is not taken for what the site knows of a host (`Target.detour`).

An order that asks for anything else is refused, before any host is troubled.
"""

from __future__ import annotations

from typing import Final

from relayd.errors import CredentialIncomplete, CredentialKept, CredentialMissing
from relayd.network.spelling import dialled_host
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.target import Credential, Target
from relayd.wire.messages import ExecuteCommand, JumpHost, Secret

#: Names the way without jump hosts, where that is not how the site reaches a host.
DIRECT: Final = "direct"


def target_of(command: ExecuteCommand, table: CredentialTable) -> Target:
    """
    Where and how to log in for an order.

    :raises RelayError: when the rule forbids it, or there is no credential.
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
    """The last of the hops that an order names, and the name of the way behind it."""
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
    What came with the order for a login; ``None``: nothing.

    :raises CredentialIncomplete: for what is of no use by itself.
    """
    if of.password is not None or of.private_key is not None:
        return Credential(
            _reveal(of.password), _reveal(of.private_key), _reveal(of.passphrase), certificate=of.certificate
        )
    if of.passphrase is not None or of.certificate is not None:
        raise CredentialIncomplete(username=of.username, host=of.written_host, port=of.port)
    return None


def _reveal(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()
