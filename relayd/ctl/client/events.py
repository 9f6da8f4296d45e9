"""
The events of one run as they come, over a connection that is made again when it is lost.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from relayd.ctl.client.errors import Unreachable
from relayd.ctl.client.http import Hub, segment

#: Seconds before a lost connection is made again.
_DELAYS: Final = (0.5, 1.0, 2.0, 5.0)
#: The longest line that is read; an event holds at most a piece of output.
_LONGEST: Final = 16 * 1024 * 1024
#: What a lost connection raises. The last two: the answer ended early, or what it says is no event.
_LOST: Final = (OSError, http.client.HTTPException, EOFError, ValueError)


def events_of(
    hub: Hub, run: str, lost: Callable[[float], None], patience: float = 300.0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    The events of a run, by their names, from its beginning to its end. After a lost connection it goes on where it was;
    an event may come twice then.

    :param lost: called when the connection is lost, with the seconds until it is made again.
    :param patience: seconds for which the hub may be away.
    :raises Refused: when the hub refuses them.
    :raises Unreachable: when it is away for longer.
    """
    after, failures, since = "", 0, 0.0
    while True:
        try:
            for name, number, data in _stream(hub, run, after):
                failures = 0
                after = number or after
                if name == "end":
                    hub.close()  # what may follow is not read, so no other request can use the connection
                    return
                yield name, data
            raise EOFError  # the hub stops, or something on the way has ended the connection
        except _LOST as error:
            hub.close()
            since = time.monotonic() if failures == 0 else since
            if time.monotonic() - since > patience:
                raise Unreachable(url=hub.login.url, reason=f"the events of run {run} stopped") from error
        delay = _DELAYS[min(failures, len(_DELAYS) - 1)]
        failures += 1
        lost(delay)
        time.sleep(delay)


def _stream(hub: Hub, run: str, after: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    response = hub.send("GET", f"/runs/{segment(run)}/events", headers=headers)
    if response.status != 200:
        content = response.read(65536)
        if response.status in (429, 502, 503, 504):
            raise EOFError
        raise hub.refusal(response, content)
    yield from parse(response)


def parse(response: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    The events in a stream (WHATWG HTML, "Server-sent events"): name, number (empty: none), and data.

    :param response: its ``readline`` gives lines, and at the end an empty one.
    :raises ValueError: for data that is no JSON object, and for a line without end.
    """
    name, number = "", ""
    data: list[str] = []
    while line := response.readline(_LONGEST):
        if not line.endswith(b"\n"):
            raise ValueError("an event is cut off, or too long")
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        if not text:
            if data:
                found = json.loads("\n".join(data))
                if not isinstance(found, dict):
                    raise ValueError("an event's data is no object")
                yield name or "message", number, found
            name, number, data = "", "", []
            continue
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id" and value.isascii() and value.isdigit():
            number = value
        elif field == "data":
            data.append(value)
