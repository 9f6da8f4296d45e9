"""
A main server on Flask-SocketIO as its tutorial has it, on werkzeug's server, in a process of its own.  See
`tests.support.script` for how it talks.

Its argument is JSON: ``apiKey``, ``greet`` (events and their data, emitted by the connect handler), ``transports``
(those of Engine.IO that are offered).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any

from flask import Flask, request
from flask_socketio import SocketIO, emit
from werkzeug.serving import make_server

from tests.support.script import ScriptServer


class FlaskServer(ScriptServer):
    """The process."""

    def __init__(self, **options: Any) -> None:
        super().__init__([sys.executable, "-m", __name__, json.dumps(options)])


def main() -> None:
    """Serve until standard input ends; a line there is an event and its data, for everybody."""
    options = json.loads(sys.argv[1])
    lock = threading.Lock()

    def say(value: object) -> None:
        with lock:
            print(json.dumps(value), flush=True)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Flask(__name__)
    limits = {"transports": options["transports"]} if "transports" in options else {}
    server = SocketIO(app, async_mode="threading", **limits)

    def connect(auth: object = None) -> bool:
        if request.args.get("apiKey") != options["apiKey"]:
            return False
        for name, data in options.get("greet", []):
            say({"wire": ["to-relay", name, data]})
            emit(name, data)
        more = request.args.to_dict(flat=False)
        say({"connected": request.args["proxyId"], "query": {name: more[name] for name in more if name != "apiKey"}})
        return True

    def result(data: Any) -> None:
        say({"wire": ["to-main-server", "command_result", data]})
        say({"result": data["commandId"], **data["result"]})
        say({"wire": ["to-relay", "command_result_received", {"success": True}]})
        emit("command_result_received", {"success": True})

    server.on_event("connect", connect, namespace="/proxy")
    server.on_event("command_result", result, namespace="/proxy")
    server.on_event("disconnect", lambda reason: say({"disconnected": reason}), namespace="/proxy")
    http = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    say({"listening": http.server_port})
    for line in sys.stdin:
        name, data = json.loads(line)
        say({"wire": ["to-relay", name, data]})
        server.emit(name, data, namespace="/proxy")


if __name__ == "__main__":
    main()
