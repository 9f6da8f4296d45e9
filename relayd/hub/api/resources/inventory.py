"""
The inventory as a whole: import, with a dry run, and export.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from relayd.hub.access.audit import Value
from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import Problem
from relayd.hub.api.routes import Route
from relayd.hub.api.shapes import Given, Name, Shape
from relayd.hub.inventory.imports import Import, apply, dry_run
from relayd.hub.inventory.plans import MAX_TEXT, Defaults, Remark
from relayd.hub.inventory.texts import ReadFormat, WrittenFormat, read_inventory, write_inventory
from relayd.hub.store import hosts
from relayd.hub.store.errors import Changed
from relayd.network.threads import in_pool

#: Media types in which the text of an inventory may come.
_TEXTS: Final = (
    "text/plain",
    "text/csv",
    "application/json",
    "application/yaml",
    "text/yaml",
    "application/x-yaml",
    "application/octet-stream",
)
_MEDIA_TYPES: Final = {"csv": "text/csv; charset=utf-8", "json": "application/json", "ansible-yaml": "application/yaml"}
_FILE_ENDS: Final = {"csv": "csv", "json": "json", "ansible-yaml": "yaml"}


class ImportQuery(Given, frozen=True, kw_only=True):
    """How a text is imported."""

    format: Annotated[ReadFormat, Meta(description="Of the text.")]
    dry_run: Annotated[bool, Meta(description="Only say what would change.")] = False
    remove_missing: Annotated[bool, Meta(description="Remove hosts that the text does not have.")] = False
    version: (
        Annotated[str, Meta(max_length=100, description="The version that the dry run gave: nothing else is changed.")]
        | None
    ) = None
    user: Annotated[str, Meta(max_length=255, description="For hosts that name none.")] = ""
    relays: Annotated[
        str, Meta(max_length=4000, description="For hosts that name none: relays in order, with commas between.")
    ] = ""
    credential: Annotated[Name, Meta(description="For hosts that name none.")] | None = None


class ExportQuery(Given, frozen=True, kw_only=True):
    """How the inventory is written."""

    format: Annotated[WrittenFormat, Meta(description="Of the text.")] = "json"


class FieldChanged(Shape, frozen=True, kw_only=True):
    """A field of a host, as it was and as it is."""

    field: str
    old: Any
    new: Any


class HostChanged(Shape, frozen=True, kw_only=True):
    """A host that changes."""

    name: str
    fields: list[FieldChanged]


class ImportShape(Shape, frozen=True, kw_only=True):
    """
    What an import changes, or would change.

    :ivar add: names of hosts that are new.
    :ivar unchanged: how many hosts are there as the text says.
    :ivar remove: names of hosts that go.
    :ivar version: of the inventory before; give it with the import itself.
    """

    applied: bool
    add: list[str]
    change: list[HostChanged]
    unchanged: int
    remove: list[str]
    remarks: Sequence[Remark]
    version: str


class ImportFailed(Problem):
    """Nothing was changed, as the text has {count} mistakes. A dry run shows all of them; the first is: {first}."""

    code, status, title = "import-failed", 422, "Inventory cannot be imported"


async def import_inventory(hub: Hub, call: Call[ImportQuery, bytes]) -> Answer:
    """All of it, or, where it has errors, nothing."""
    query = call.query
    relays = tuple(name.strip() for name in query.relays.split(",") if name.strip())
    defaults = Defaults(user=query.user, relays=relays, credential=query.credential)
    parsed = await in_pool(hub.reactor, read_inventory, call.body, query.format, defaults)
    if query.dry_run:
        tried = await hub.store.read(dry_run, parsed, remove_missing=query.remove_missing)
        return Answer(body=_shape(tried), record={"applied": False})
    done = await hub.store.run(apply, parsed, hub.now(), remove_missing=query.remove_missing, version=query.version)
    if done.errors:
        first = done.errors[0]
        where = first.text if first.line is None else f"line {first.line}: {first.text}"
        raise ImportFailed(count=len(done.errors), first=where.rstrip("."))
    plan = done.plan
    record: dict[str, Value] = {
        "applied": True,
        "added": [host.name for host in plan.add],
        "changed": [change.name for change in plan.change],
        "removed": list(plan.remove),
    }
    return Answer(body=_shape(done), record=record)


def _shape(done: Import) -> ImportShape:
    plan = done.plan
    return ImportShape(
        applied=done.applied,
        add=[host.name for host in plan.add],
        change=[
            HostChanged(
                name=each.name,
                fields=[FieldChanged(field=field.field, old=field.old, new=field.new) for field in each.fields],
            )
            for each in plan.change
        ],
        unchanged=plan.unchanged,
        remove=plan.remove,
        remarks=done.remarks,
        version=done.version,
    )


async def export_inventory(hub: Hub, call: Call[ExportQuery, None]) -> Answer:
    """Credentials are named, and no secret is in it."""
    form = call.query.format
    found = await hub.store.read(hosts.all_hosts)
    text = await in_pool(hub.reactor, write_inventory, found, form)
    headers = {"Content-Disposition": f'attachment; filename="inventory.{_FILE_ENDS[form]}"'}
    return Answer(body=text.encode(), media_type=_MEDIA_TYPES[form], headers=headers)


ROUTES: Final = (
    Route(
        method="POST",
        path="/inventory/import",
        handler=import_inventory,
        permission=Permission.INVENTORY_WRITE,
        act="inventory-import",
        summary="Import hosts from CSV, JSON or an Ansible inventory",
        query=ImportQuery,
        takes=bytes,
        media_types=_TEXTS,
        max_body=MAX_TEXT,
        answers=ImportShape,
        problems=(ImportFailed,),
        refusals=(Changed,),
    ),
    Route(
        method="GET",
        path="/inventory/export",
        handler=export_inventory,
        permission=Permission.INVENTORY_READ,
        summary="All hosts as CSV, JSON or an Ansible inventory",
        query=ExportQuery,
        answers=bytes,
        produces="application/octet-stream",
    ),
)
