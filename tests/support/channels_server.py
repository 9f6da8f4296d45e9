"""
Django Channels behind daphne: one route, ``/proxy``, to a consumer that speaks the native dialect.

``channels_server.py KEY``: says on standard output what it is told.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from django.conf import settings
from django.urls import path

ORDER = {
    "commandId": "c1",
    "serverId": 1,
    "host": "192.0.2.1",
    "port": 22,
    "username": "root",
    "password": "hunter2",
    "command": "uname",
}


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


class Consumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels carries no types
    """One relay."""

    async def connect(self) -> None:
        query = parse_qs(self.scope["query_string"].decode())
        if query.get("apiKey") != [sys.argv[1]]:
            await self.close()
            return
        await self.accept()
        say({"wire": ["to-relay", "execute_command", ORDER]})
        await self.send_json({"event": "execute_command", "data": ORDER})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        say({"wire": ["to-main-server", content["event"], content["data"]]})
        say(content)


settings.configure(CHANNEL_LAYERS={})
application = ProtocolTypeRouter({"websocket": URLRouter([path("proxy", Consumer.as_asgi())])})
server: Any = Server(
    application=application,
    endpoints=build_endpoint_description_strings(host="127.0.0.1", port=0),
    ready_callable=lambda: say({"listening": server.listening_addresses[0][1]}),
)
server.run()
