"""
A main server on python-socketio, threads and the standard library's WSGI server, in a process of its own: what a
Flask-SocketIO server does, whose connect handler emits.  See `tests.support.script` for how it talks.

Its argument is JSON: ``apiKey``, ``greet`` (events and their data, emitted by the connect handler), ``refuse`` (with
which words, after that), ``transports`` (those of Engine.IO that are offered).
"""

from __future__ import annotations

import json
import sys
import threading
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import socketio

from tests.support.script import ScriptServer


class PythonSocketIOServer(ScriptServer):
    """The process."""

    def __init__(self, **options: Any) -> None:
        super().__init__([sys.executable, "-m", __name__, json.dumps(options)])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """simple-websocket takes the connection over where it finds it as one of werkzeug's."""

    def get_environ(self) -> dict[str, Any]:
        return super().get_environ() | {"werkzeug.socket": self.connection}

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: standard output is for JSON."""


def main() -> None:
    """Serve until standard input ends; a line there is an event and its data, for everybody."""
    options = json.loads(sys.argv[1])
    lock = threading.Lock()

    def say(value: object) -> None:
        with lock:
            print(json.dumps(value), flush=True)

    limits = {"transports": options["transports"]} if "transports" in options else {}
    server = socketio.Server(async_mode="threading", **limits)

    def connect(sid: str, environ: dict[str, Any], auth: object = None) -> None:
        query = parse_qs(environ["QUERY_STRING"])
        for name, data in options.get("greet", []):
            say({"wire": ["to-relay", name, data]})
            server.emit(name, data, to=sid, namespace="/proxy")
        if "refuse" in options:
            raise socketio.exceptions.ConnectionRefusedError(options["refuse"])
        say({"connected": query["proxyId"][0], "known": query["apiKey"] == [options["apiKey"]]})

    def result(sid: str, data: Any) -> None:
        say({"wire": ["to-main-server", "command_result", data]})
        say({"result": data["commandId"], **data["result"]})
        say({"wire": ["to-relay", "command_result_received", {"success": True}]})
        server.emit("command_result_received", {"success": True}, to=sid, namespace="/proxy")

    server.on("connect", connect, namespace="/proxy")
    server.on("command_result", result, namespace="/proxy")
    server.on("disconnect", lambda sid, reason: say({"disconnected": reason}), namespace="/proxy")
    http = _Server(("127.0.0.1", 0), _Handler)
    http.set_app(socketio.WSGIApp(server))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    say({"listening": http.server_port})
    for line in sys.stdin:
        name, data = json.loads(line)
        say({"wire": ["to-relay", name, data]})
        server.emit(name, data, namespace="/proxy")


if __name__ == "__main__":
    main()
