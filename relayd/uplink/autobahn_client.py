"""
autobahn's WebSocket client, imported without what only WAMP, servers and consoles need: 5 MB less, and a quicker start.

``autobahn.twisted.websocket`` also has WAMP's variants, and so imports all of WAMP with its serializers. Here empty
classes stand in for WAMP's messages while it is imported. Nothing of them stays in `sys.modules`: what somebody imports
later is autobahn's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from twisted.logger import Logger

_log = Logger("relayd.uplink")

_CLIENT: Final = "autobahn.twisted.websocket"
#: autobahn does without these where they are not installed.
_OPTIONAL: Final = ("click", "cbor2")
#: Packages that import all of WAMP. Of what is in them, the client needs very little.
_PACKAGES: Final = ("autobahn.wamp", "autobahn.twisted")
_WAMP: Final = "autobahn.wamp"
_MESSAGES: Final = "autobahn.wamp.message"
#: Only a server that redirects needs it.
_LATER: Final = "hyperlink"
#: Its native code takes a parser of C declarations with it. relayd validates texts itself, and masks the long ones
#: (`relayd.uplink.frames`).
_NATIVE: Final = "AUTOBAHN_USE_NVX"


class _Later(ModuleType):
    """A module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def _import_client() -> None:
    """Import `_CLIENT`. With another version of autobahn this may fail; then import all of it."""
    if "autobahn" in sys.modules:  # what others have imported, they may use
        import_module(_CLIENT)
        return
    before = set(sys.modules)
    try:
        with _without_the_rest():
            import_module(_CLIENT)
    except Exception as error:
        _log.info("autobahn is imported as a whole, since it cannot do without WAMP: {error}", error=repr(error))
        for name in sys.modules.keys() - before:
            if name.partition(".")[0] == "autobahn":
                del sys.modules[name]
        import_module(_CLIENT)


@contextmanager
def _without_the_rest() -> Iterator[None]:
    stand_ins: dict[str, ModuleType | None] = dict.fromkeys(_OPTIONAL)
    stand_ins[_LATER] = _Later(_LATER)
    native = os.environ.get(_NATIVE)
    os.environ[_NATIVE] = "0"
    try:
        stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
        sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None: such an import fails
        for name in _PACKAGES:
            sys.modules[name] = stand_ins[name] = _unread(name)
        sys.modules[_MESSAGES] = _messages()
        yield
    finally:
        if native is None:
            del os.environ[_NATIVE]
        else:
            os.environ[_NATIVE] = native
        for name in [*stand_ins, *(each for each in sys.modules if f"{each}.".startswith(f"{_WAMP}."))]:
            sys.modules.pop(name, None)


def _unread(name: str) -> ModuleType:
    """A package whose own file was not read: modules in it can be imported."""
    spec = find_spec(name)
    if spec is None:
        raise ImportError(name)
    package = ModuleType(name)
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
    return package


def _messages() -> ModuleType:
    """What ``autobahn.wamp.interfaces`` registers and names in annotations."""
    module: Any = ModuleType(_MESSAGES)
    module.Message, module.Welcome = type("Message", (), {}), type("Welcome", (), {})
    return module  # type: ignore[no-any-return]


_import_client()

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol  # noqa: E402
from autobahn.websocket.protocol import parseHttpHeader  # noqa: E402

__all__ = ["WebSocketClientFactory", "WebSocketClientProtocol", "parseHttpHeader"]
