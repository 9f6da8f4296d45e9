"""
Secrets that the hub makes: ids of sessions, CSRF tokens, API tokens; and the cookie of a session.  No I/O.

The store has SHA-256 digests of ids and tokens.  As these are 256 random bits, nobody can find them by their digests,
and to look one up by its digest tells nothing by the time it takes.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from ipaddress import ip_address
from secrets import token_hex
from typing import Final

from relayd.wire.secret import Secret

#: How an API token begins, so that a scanner finds one that was published by mistake; all of it is `API_TOKEN`.
TOKEN_PREFIX: Final = "rlh_"
API_TOKEN: Final = re.compile(r"rlh_[0-9a-f]{64}")
_SESSION: Final = re.compile(r"[0-9a-f]{64}")
_CSRF: Final = b"relayd hub: CSRF token of a session"

#: Names of the cookie: over TLS, where no other site and no other port can set it; and on loopback without TLS.
SECURE_COOKIE: Final = "__Host-relayd-hub"
LOOPBACK_COOKIE: Final = "relayd-hub-loopback"


def new_session_id() -> Secret:
    """The id of a new session: 256 random bits."""
    return Secret(token_hex(32))


def new_api_token() -> Secret:
    """A new API token: a prefix and 256 random bits."""
    return Secret(TOKEN_PREFIX + token_hex(32))


def digest_of_session(session_id: Secret) -> bytes | None:
    """The digest of the id of a session; ``None``: it is none."""
    return _digest(session_id, _SESSION)


def digest_of_token(token: Secret) -> bytes | None:
    """The digest of an API token; ``None``: it is none."""
    return _digest(token, API_TOKEN)


def _digest(secret: Secret, shape: re.Pattern[str]) -> bytes | None:
    text = secret.reveal()
    return sha256(text.encode()).digest() if shape.fullmatch(text) else None


def csrf_token(session_id: Secret) -> str:
    """
    The CSRF token of a session.

    It follows from the id of the session, so it need not be kept, and belongs to that session alone; the id does not
    follow from it.  Pages send it in a header, which other sites cannot.
    """
    return hmac.digest(session_id.reveal().encode(), _CSRF, "sha256").hex()


def is_csrf_token(session_id: Secret, given: str | None) -> bool:
    """Whether the token that came with a request is that of the session."""
    return given is not None and hmac.compare_digest(csrf_token(session_id).encode(), given.encode("utf-8", "replace"))


def may_send_password(secure: bool, address: str) -> bool:
    """
    Whether a password, and then a session, may travel so.

    :param secure: whether the request came over TLS, to us or to a proxy that is trusted.
    :param address: of whoever sent it.
    """
    if secure:
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def session_cookie(session_id: Secret, secure: bool) -> str:
    """
    The value of ``Set-Cookie`` that gives a browser its session.

    It has no ``Max-Age``: the browser forgets it when it ends, and the hub ends it earlier.

    Over TLS its name begins with ``__Host-``: so browsers take it only with ``Secure``, ``Path=/`` and without
    ``Domain``, and no neighbour in the same domain can set one.  On loopback without TLS there is no ``Secure``, as not
    every browser keeps such a cookie from ``http://localhost``; it has another name, which is never read over TLS.
    """
    attributes = "HttpOnly; SameSite=Strict; Path=/"
    if secure:
        return f"{SECURE_COOKIE}={session_id.reveal()}; Secure; {attributes}"
    return f"{LOOPBACK_COOKIE}={session_id.reveal()}; {attributes}"


def no_session_cookie(secure: bool) -> str:
    """The value of ``Set-Cookie`` that has a browser forget its session."""
    name, extra = (SECURE_COOKIE, "Secure; ") if secure else (LOOPBACK_COOKIE, "")
    return f"{name}=; Max-Age=0; {extra}HttpOnly; SameSite=Strict; Path=/"


def session_in_cookies(header: str, secure: bool) -> Secret | None:
    """
    The id of the session in a ``Cookie`` header; ``None``: there is none, or more than one.

    :param secure: whether the request came over TLS.
    """
    wanted = SECURE_COOKIE if secure else LOOPBACK_COOKIE
    found = [value for name, _, value in (each.strip().partition("=") for each in header.split(";")) if name == wanted]
    return Secret(found[0]) if len(found) == 1 and _SESSION.fullmatch(found[0]) else None


def token_in_authorization(header: str) -> Secret | None:
    """The API token in an ``Authorization`` header (RFC 6750, section 2.1); ``None``: there is none."""
    scheme, _, text = header.strip().partition(" ")
    token = text.strip()
    return Secret(token) if scheme.lower() == "bearer" and API_TOKEN.fullmatch(token) else None
