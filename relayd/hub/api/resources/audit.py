"""
The audit log: page by page, and whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta

from relayd.hub.access.audit_reading import export, read_page
from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery, Writer
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import InvalidQuery
from relayd.hub.api.routes import Route
from relayd.hub.api.shapes import Listing, PageQuery
from relayd.language.texts import Text
from relayd.network.threads import in_pool

_NDJSON: Final = "application/x-ndjson"


class AuditQuery(PageQuery, frozen=True, kw_only=True):
    """Which events."""

    principal: Annotated[str, Meta(max_length=255, description="Whose, as user:NAME or token:USER/NAME.")] | None = None
    event: Annotated[str, Meta(max_length=64, description="Of which kind, such as run-create.")] | None = None


async def list_events(hub: Hub, call: Call[AuditQuery, None]) -> Listing[dict[str, Any]]:
    """A page may be short, or empty, although there is more: where few events are wanted."""
    query = call.query
    before = _number(query.cursor)

    def wanted(event: Mapping[str, Any]) -> bool:
        return query.principal in (None, event.get("principal")) and query.event in (None, event.get("event"))

    read = partial(read_page, before=before, limit=query.limit, wanted=wanted)
    page = await in_pool(hub.reactor, read, hub.access.audit.path, hub.access.audit.state_dir)
    return Listing(items=page.events, next=UNSET if page.next_before is None else str(page.next_before))


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidQuery(parameter="cursor", reason=Text("is not one that this list gave"))
    return int(cursor)


async def export_events(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """The lines as they are: ``relayctl audit verify`` checks them."""
    pieces = export(hub.access.audit.path)

    async def stream(writer: Writer) -> None:
        try:
            while (piece := await in_pool(hub.reactor, next, pieces, None)) is not None:
                await writer.write(piece)
        finally:
            await in_pool(hub.reactor, pieces.close)  # type: ignore[attr-defined]

    headers = {"Content-Disposition": 'attachment; filename="relayd-hub-audit.ndjson"'}
    return Answer(stream=stream, media_type=_NDJSON, headers=headers)


ROUTES: Final = (
    Route(
        method="GET",
        path="/audit",
        handler=list_events,
        permission=Permission.AUDIT_READ,
        summary="Events of the audit log, the newest first",
        query=AuditQuery,
        answers=Listing[dict[str, Any]],
    ),
    Route(
        method="GET",
        path="/audit/export",
        handler=export_events,
        permission=Permission.AUDIT_READ,
        summary="The whole audit log, as it is written",
        answers=bytes,
        produces=_NDJSON,
    ),
)
