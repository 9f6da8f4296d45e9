"""
The settings of an uplink: which main server to dial, under which name, and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from relayd.errors import ConfigError
from relayd.language.texts import Translate, english, printable
from relayd.network.spelling import lookup_name
from relayd.uplink.headers import Headers
from relayd.uplink.quoting import Quoting
from relayd.uplink.stages import Timing
from relayd.wire.dialects.codec import PROXY_PATH
from relayd.wire.messages import Secret
from relayd.wire.relay_info import RelayInfo

#: Bytes in the largest message that relayd takes: work on it that cannot be interrupted takes 3 ms a MiB.
DEFAULT_MAX_FRAME: Final = 8 * 2**20
#: Bytes in the largest result that relayd sends where the main server names no limit.
DEFAULT_MAX_RESULT: Final = 16 * 2**20

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


#: Says what the relay tells of itself, if anything.
Describe = Callable[[], RelayInfo | None]


def _say_nothing() -> None:
    """The `Describe` of a relay that tells nothing."""


class LiveUplinkSettings(Struct, frozen=True, kw_only=True):
    """
    The settings of an uplink that may change while it runs: they hold from the next connection on.

    :ivar read_api_key: reads the key, at each connection so that it can be rotated; raises `KeyUnusable`.
    :ivar reconnect_delay: seconds between two attempts.
    :ivar tls_ca: PEM file of the CA certificates to trust instead of the system's.
    :ivar tls_cert: PEM file of the relay's certificate and its chain.
    :ivar tls_key: PEM file of its private key.
    :ivar http_proxy: ``http://[user[:password]@]host:port`` of a proxy to ask for a tunnel.
    :ivar read_proxy_password: reads that user's password, where it is not in the URL; raises `UplinkError`.
    :ivar read_headers: reads the site's own HTTP headers; raises `UplinkError`.
    """

    read_api_key: Callable[[], Secret]
    reconnect_delay: float = 5.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    http_proxy: str | None = None
    read_proxy_password: Callable[[], Secret | None] = lambda: None
    read_headers: Callable[[], Headers] = tuple

    def __repr__(self) -> str:  # the proxy's URL may hold a password
        return f"<{type(self).__name__}>"


class UplinkSettings(LiveUplinkSettings, frozen=True, kw_only=True):
    """
    All settings of an uplink: whom to dial, as whom, and how.

    :ivar server: URL of the main server: ``http(s)`` or ``ws(s)``.
    :ivar native_path: path of the WebSocket in the native dialect, appended to that of *server*.
    :ivar max_frame: bytes in the largest message that relayd takes.
    :ivar max_result: bytes in the largest result that relayd sends, where the main server names no limit.
    :ivar translate: to the language of acknowledgements and of the mark in cut results.
    :ivar describe: what the relay tells of itself when it is asked; gives ``None`` where it tells nothing.
    """

    server: str
    proxy_id: str
    dialect: Literal["auto", "socketio", "native"] = "auto"
    native_path: str = PROXY_PATH
    max_frame: int = DEFAULT_MAX_FRAME
    max_result: int = DEFAULT_MAX_RESULT
    translate: Translate = english
    describe: Describe = _say_nothing

    def __repr__(self) -> str:
        return f"<UplinkSettings {self.proxy_id!r} at {ServerAddress.of(self.server)}>"

    def changed(self, live: LiveUplinkSettings) -> UplinkSettings:
        """These settings with those of *live* that may change."""
        return replace(self, **{name: getattr(live, name) for name in LiveUplinkSettings.__struct_fields__})


class ConnectionSettings(Struct, frozen=True, kw_only=True):
    """
    The settings of one connection.

    :ivar server: the main server's name in errors and logs.
    :ivar path: where on it the connection is asked for, for errors.
    :ivar timing: the deadlines.
    :ivar max_result: bytes in the largest result that is sent, where the main server names no limit.
    :ivar defer_to_thread: runs a function in another thread.
    :ivar translate: to the language of acknowledgements and of the mark in cut results.
    :ivar describe: see `UplinkSettings`.
    :ivar quote: makes what the main server says fit to be shown.
    :ivar aside: whether the relay is connected to another main server, and leaves that when this one accepts it: the
        command logic gets this link only then.
    :ivar origin: the main server's name for the command logic; empty: there is only one.
    """

    server: str
    path: str
    timing: Timing
    max_result: int
    defer_to_thread: Callable[..., Deferred[Any]]
    translate: Translate = english
    describe: Describe = _say_nothing
    quote: Callable[[str], str] = Quoting()
    aside: bool = False
    origin: str = ""


class ServerAddress(Struct, frozen=True):
    """
    The host and port of a URL. As text it is that URL as it was given, in a form that is fit for logs: without user and
    query, which may hold secrets.

    :ivar host: ASCII, without the brackets of an IPv6 address.
    """

    host: str
    port: int
    secure: bool
    _shown: str

    def __str__(self) -> str:
        return self._shown

    @property
    def netloc(self) -> str:
        """Host and port as a URL has them (RFC 3986, section 3.2.2)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """
        The same without the scheme's own port, as a ``Host`` header should have it (RFC 9110, section 4.2.3), and
        without a zone, which means something on this machine alone (RFC 6874, section 4).
        """
        default = self.port == _DEFAULT_PORTS["https" if self.secure else "http"]
        named = re.sub(r"%[^]]*\]", "]", self.netloc)
        return named.rpartition(":")[0] if default else named

    @classmethod
    def of(cls, url: str, option: str = "--server") -> ServerAddress:
        """
        The address in *url*.

        :param option: the option with the URL.
        :raises ConfigError: when *url* has no host, or another scheme than http(s) or ws(s).
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError:  # a port beyond 65535, half an IPv6 address
            host, port = "", 0
        # What follows an IPv6 address after %25 is its zone (RFC 6874): eth0 in [fe80::1%25eth0].
        host = lookup_name(host.replace("%25", "%", 1) if ":" in host else host)
        if not host or not port or not host.isascii():
            raise ConfigError(option=option, reason="is not an http, https, ws or wss URL")
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return cls(host, port, parts.scheme in ("https", "wss"), printable(shown, 300))
