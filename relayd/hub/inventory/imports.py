"""
Imports: a dry run says what would change, and the same code changes it, in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection

from relayd.hub.inventory.plans import Parsed, Plan, PlannedHost, Remark, changed, compare, unknown_names
from relayd.hub.store import hosts as in_store
from relayd.hub.store.credentials import names_of_credentials
from relayd.hub.store.errors import Changed
from relayd.hub.store.host_records import StoredHost
from relayd.language.texts import Text
from relayd.network.credential_rules import parse_via


class Import(Struct, frozen=True, kw_only=True, rename="camel"):
    """
    What an import changes, or would change.

    :ivar plan: empty where there are errors.
    :ivar remarks: about the text, and about what it names.
    :ivar version: of the inventory, before the change; given back with the import itself, it keeps anything else from
        being changed than what the dry run said.
    :ivar applied: whether it was done.
    """

    plan: Plan
    remarks: list[Remark]
    version: str
    applied: bool

    @property
    def errors(self) -> list[Remark]:
        """What keeps the text from being imported."""
        return [remark for remark in self.remarks if remark.kind == "error"]


def dry_run(connection: Connection, parsed: Parsed, *, remove_missing: bool = False) -> Import:
    """
    What `apply` would change.

    :param remove_missing: whether hosts that the text does not have are removed.
    """
    return _planned(connection, parsed, remove_missing)[0]


def apply(
    connection: Connection, parsed: Parsed, now: int, *, remove_missing: bool = False, version: str | None = None
) -> Import:
    """
    Import a text, in one transaction; where it has errors, nothing is changed.

    :param now: microseconds since 1970, UTC.
    :param version: that the inventory must have; ``None``: any.
    :raises Changed: when it has another.
    """
    planned, present = _planned(connection, parsed, remove_missing)
    if version is not None and planned.version != version:
        raise Changed(what=Text("inventory"), name=Text("of hosts"))
    if planned.errors:
        return planned
    there = {host.name: host for host in present}
    plan = planned.plan
    changes = [(there[change.name], changed(there[change.name], change)) for change in plan.change]
    in_store.apply_import(connection, plan.add, changes, [there[name] for name in plan.remove], now)
    return Import(plan=plan, remarks=planned.remarks, version=planned.version, applied=True)


def _planned(connection: Connection, parsed: Parsed, remove_missing: bool) -> tuple[Import, list[StoredHost]]:
    present = in_store.all_hosts(connection)
    version = in_store.inventory_version(connection)
    remarks = parsed.remarks + unknown_names(
        parsed.hosts, in_store.names_of_relays(connection), names_of_credentials(connection)
    )
    if remove_missing and not parsed.hosts:
        text = Text("the text has no hosts: to remove every host, delete them")
        remarks.append(Remark("error", None, text))
    failed = any(remark.kind == "error" for remark in remarks)
    plan = Plan([], [], 0, []) if failed else compare(parsed.hosts, present, remove_missing=remove_missing)
    if not failed:
        remarks += _unknown_jump_hosts(parsed.hosts, present)
    return Import(plan=plan, remarks=remarks, version=version, applied=False), present


def _unknown_jump_hosts(planned: Sequence[PlannedHost], present: Sequence[StoredHost]) -> list[Remark]:
    """A warning for each jump host that is not in the inventory: runs on hosts behind it would be refused."""
    known = {each.host.name for each in planned} | {host.name for host in present}
    known |= {each.host.address for each in planned} | {host.address for host in present}
    found: dict[str, Remark] = {}
    for each in planned:
        for hop in parse_via(each.host.via):
            if known.isdisjoint((hop.host, hop.looked_up)) and hop.host not in found:
                text = Text("the jump host {host} is not in the inventory; add it, with a credential", host=hop.host)
                found[hop.host] = Remark("warning", each.line, text)
    return list(found.values())
