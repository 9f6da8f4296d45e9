"""
autobahn's WebSocket client, imported without what only WAMP, servers and consoles need: 5 MB less, and a quicker start.

``autobahn.twisted.websocket`` also has the variants for WAMP, and so imports all of WAMP with its serializers. While it
is imported here, empty classes stand in for what WAMP adds. `sys.modules` keeps nothing that knows them: a later import
of these modules gives autobahn's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

_log = Logger("relayd.uplink")

_CLIENT: Final = "autobahn.twisted.websocket"
#: autobahn does without these where they are not installed.
_OPTIONAL: Final = ("click", "cbor2")
#: Packages that import all of WAMP. Of what is in them, the client needs very little.
_PACKAGES: Final = ("autobahn.wamp", "autobahn.twisted")
_VARIANTS: Final = "autobahn.wamp.websocket"
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


def _import_client() -> ModuleType:
    """The module `_CLIENT`. With another version of autobahn this may fail; then it is imported with all the rest."""
    if "autobahn" not in sys.modules:  # otherwise somebody has imported the rest, and may use it
        try:
            with _without_the_rest():
                return import_module(_CLIENT)
        except Exception as error:
            _log.info("autobahn is imported as a whole, since it cannot do without WAMP: {error}", error=repr(error))
            _forget("autobahn")
    return import_module(_CLIENT)


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
        sys.modules[_VARIANTS] = _variants()
        yield
    finally:
        if native is None:
            del os.environ[_NATIVE]
        else:
            os.environ[_NATIVE] = native
        _forget(*stand_ins)


def _forget(*names: str) -> None:
    """Take these out of `sys.modules`, with all that is in them."""
    for module in list(sys.modules):
        if f"{module}.".startswith(tuple(f"{name}." for name in names)):
            del sys.modules[module]


def _unread(name: str) -> ModuleType:
    """A package whose own file was not read: modules in it can be imported."""
    spec = find_spec(name)
    if spec is None:
        raise ImportError(name)
    package = ModuleType(name)
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
    return package


def _variants() -> ModuleType:
    """The base classes of the variants for WAMP."""
    module = ModuleType(_VARIANTS)
    for name in ("Server", "Client"):
        for kind in ("Protocol", "Factory"):
            vars(module)[f"WampWebSocket{name}{kind}"] = type(kind, (), {})
    return module


if TYPE_CHECKING:
    from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
else:
    _client = _import_client()
    WebSocketClientFactory, WebSocketClientProtocol = _client.WebSocketClientFactory, _client.WebSocketClientProtocol

from autobahn.websocket.protocol import parseHttpHeader  # noqa: E402  # by now it is there

__all__ = ["WebSocketClientFactory", "WebSocketClientProtocol", "parseHttpHeader"]
