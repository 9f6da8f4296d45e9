"""
What both dialects share: a JSON codec that fails only with `ProtocolError`, the queue of frames, and the URL.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

import msgspec

from relayd.errors import ConfigError, ProtocolError
from relayd.wire.dialects.repair import huge_numbers, outside_of_strings, repaired, shallow

#: `IDialect.max_payload` of a peer that names no limit.
NO_LIMIT: Final = 2**62

#: Characters that the name of an event, or of a namespace, may have.
MAX_NAME: Final = 256

#: The main server's endpoint in the specification's "connection URL": a path in one dialect, a namespace in the other.
PROXY_PATH: Final = "/proxy"

#: Characters of a JSON text from which on it is checked before it is decoded, and how many of them may then be outside
#: of strings.  Decoding a value takes up to 0.2 µs, so 16 MiB of brackets would take a second; a large command is large
#: because of a few long strings.
MOST_UNCHECKED: Final = 16 * 1024
_MAX_STRUCTURE: Final = 512 * 1024
#: Numbers from 1e300 on that it may then have: msgspec takes 10 µs for each.
_MOST_HUGE: Final = 1000

#: Characters that need no encoding in a path and a query (RFC 3986, section 3.3).
_SAFE: Final = "/%:@!$&'()*+,;=~"
#: A percent sign that encodes nothing.
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

_WEBSOCKET_SCHEMES = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}

#: Writes JSON in the compact form, as bytes.
json_encoder = msgspec.json.Encoder()
#: Reads JSON as it should be; `read_json` also reads what has faults.
plain_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def read_json(text: str, decoder: msgspec.json.Decoder[Any] = plain_decoder) -> Any:
    """
    Decode one JSON text, or one with these faults, which main servers send:

    - Half of a surrogate pair, which JavaScript may send, becomes U+FFFD, as in a text that JavaScript encodes.
    - ``NaN``, which Python's json writes for an empty cell of a table, becomes ``null``, as JavaScript writes it.
    - Infinities, and numbers beyond the floats, become the largest float, which no field takes.
    - What nests too deep for Python becomes ``null``: no field is that deep.

    msgspec decodes it: its errors give a position and never the text, which may hold a password.

    :param decoder: for a type of your own.
    :raises ProtocolError: when it is not JSON, or holds too many values.
    """
    if len(text) > MOST_UNCHECKED:
        check_cost((text,))
    try:
        return _decode_or_repair(text, decoder)
    except msgspec.ValidationError as error:
        reason = f"JSON with an unexpected shape ({error})"
    except (msgspec.DecodeError, UnicodeError) as error:
        reason = "malformed JSON" + (f" ({error})" if isinstance(error, msgspec.DecodeError) else "")
    except RecursionError:
        reason = "JSON that nests too deeply"
    raise ProtocolError(reason=reason)


def check_cost(texts: Collection[str]) -> None:
    """
    Check that the JSON texts of one message can be decoded in some milliseconds, but for what long strings take.

    :raises ProtocolError: when they hold too many values.
    """
    outside = [outside_of_strings(text, _MAX_STRUCTURE) for text in texts]
    if sum(_MAX_STRUCTURE if each is None else len(each) for each in outside) >= _MAX_STRUCTURE:
        raise ProtocolError(reason="JSON with too many values")
    if sum(map(huge_numbers, filter(None, outside))) > _MOST_HUGE:
        raise ProtocolError(reason="JSON with too many numbers from 1e300 on")


def write_json(data: object) -> str:
    """Encode *data* in the compact form."""
    return json_encoder.encode(data).decode()


def _decode_or_repair(text: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    for _ in range(2):  # it may be too deep, and have faulty tokens
        try:
            return decoder.decode(text)
        except RecursionError:
            better = shallow(text)
        except msgspec.DecodeError:
            better = repaired(text)
            if better == text:
                raise
        text = better
    return decoder.decode(text)


class FrameQueue:
    """The frames that a dialect has made, and that wait for `frames_to_send`."""

    def __init__(self) -> None:
        self._frames: list[str] = []

    def frames_to_send(self) -> list[str]:
        """The text messages queued since the last call, in order."""
        frames, self._frames = self._frames, []
        return frames


def websocket_url(server: str, path: str, parameters: dict[str, str], reserved: Collection[str] = ()) -> str:
    """
    The URL to dial.

    :param server: the main server as an operator writes it: ``http(s)`` or ``ws(s)``, with or without a path and a
        query. A final ``/proxy``, as in the specification's examples, is not doubled, and ``/proxy/`` keeps its slash.
    :param path: the dialect's path, which follows.
    :param parameters: appended to the query, percent-encoded (RFC 3986, section 2.1); each replaces one of the same
        name in *server*.
    :param reserved: names of further parameters that are removed from the query of *server*.
    :raises ConfigError: when *server* is not such a URL.
    """
    try:
        parts = urlsplit(server.strip())
        scheme, host, port = _WEBSOCKET_SCHEMES.get(parts.scheme), parts.hostname, parts.port
    except ValueError:
        scheme = host = port = None
    if not scheme or not host:
        raise ConfigError(option="--server", reason="is not an http, https, ws or wss URL")
    address = f"[{host}]" if ":" in host else host
    if port is not None:
        address += f":{port}"
    if path == PROXY_PATH and parts.path.endswith(PROXY_PATH + "/"):
        path += "/"  # some frameworks need it
    base = parts.path.rstrip("/").removesuffix(PROXY_PATH).rstrip("/")
    taken = {*parameters, *reserved}
    others = [each for each in parts.query.split("&") if unquote_plus(each.partition("=")[0]) not in taken]
    own = urlencode(parameters, quote_via=quote, safe="")
    query = "&".join([_encoded(each, _SAFE + "?") for each in others if each] + [own])
    return f"{scheme}://{address}{_encoded(base + path)}?{query}"


def _encoded(text: str, safe: str = _SAFE) -> str:
    """A part of a URL that a person wrote, percent-encoded; what is encoded in it already stays as it is."""
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
