"""
The checks of a request that need nothing but its head: names, origins, what the client takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Final

from relayd.hub.api.problems import CrossSite, InvalidHeader, MalformedRequest, Misdirected, NotAcceptable
from relayd.language.texts import Text, printable

_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_PORTS: Final = {"http": "80", "https": "443"}
#: What browsers say of a request that this site's own pages, or the person, made.
_OWN: Final = frozenset({"same-origin", "none"})


def check_host(host: str | None, version: bytes, names: Set[str]) -> str:
    """
    Whose name the request has.

    :param names: those that the hub goes by, in lower case; with none, any.
    :return: the authority, in lower case; empty without.
    :raises MalformedRequest: when it is not one, or not there.
    :raises Misdirected: when it is another's.
    """
    if host is None or not host:
        if version == b"HTTP/1.1":
            raise MalformedRequest(reason=Text("it has no header Host"))
        return ""
    found = _AUTHORITY.fullmatch(host)
    if found is None:
        raise MalformedRequest(reason=Text("its header Host is not a host and a port"))
    if names and found[1].lower() not in names:
        raise Misdirected(host=printable(found[1], 100))
    return host.lower()


def check_origin(headers: Mapping[str, str], authority: str, secure: bool) -> None:
    """
    Refuse a request that a page of another site makes a browser send.

    :raises CrossSite: when it says that it is one.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site.lower() not in _OWN:
        raise CrossSite(reason=Text("the browser says {site}", site=printable(site, 30)))
    origin = headers.get("origin")
    if origin is not None and not _is_own(origin, authority, secure):
        raise CrossSite(reason=Text("its Origin is {origin}", origin=printable(origin, 100)))


def _is_own(origin: str, authority: str, secure: bool) -> bool:
    scheme, separator, rest = origin.lower().partition("://")
    if not separator or scheme not in _PORTS or (secure and scheme != "https"):
        return False
    return _with_port(rest, scheme) == _with_port(authority, scheme)


def _with_port(authority: str, scheme: str) -> str | None:
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else f"{found[1]}:{found[2] or _PORTS[scheme]}"


def check_accept(accept: str | None, offered: str) -> None:
    """
    Hold the answer's media type against ``Accept`` (RFC 9110, section 12.5.1).

    :raises NotAcceptable: when it is ruled out.
    """
    if accept is None or not accept.strip():
        return
    kind = offered.partition(";")[0]
    general = kind.partition("/")[0]
    best: tuple[int, float] = (-1, 0.0)
    for each in accept.split(","):
        media, *parameters = (part.strip().lower() for part in each.split(";"))
        rank = {kind: 2, f"{general}/*": 1, "*/*": 0}.get(media, -1)
        if rank > best[0]:
            best = (rank, _quality(parameters))
    if best[1] <= 0:
        raise NotAcceptable(offered=kind)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                raise InvalidHeader(header="Accept", reason=Text("has a q that is no number")) from None
    return 1.0


def media_type_of(content_type: str) -> str:
    """``Text/CSV; charset=UTF-8`` as ``text/csv``; empty where the character set is another than UTF-8."""
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            return ""
    return media
