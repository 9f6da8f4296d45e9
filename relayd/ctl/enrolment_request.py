"""
What ``relayctl enroll`` asks a hub: gives it a token, and gets the relay's key.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from relayd.config.values import is_private, server_url
from relayd.language.texts import printable
from relayd.wire.secret import Secret

_PATH: Final = "/api/v1/enrol"
#: Seconds to wait for each step, and bytes of the longest answer.
_PATIENCE: Final = 30.0
_MOST: Final = 64 * 1024
_OK: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_REFUSALS: Final = range(400, 500)
_UNAVAILABLE: Final = 503


class EnrolmentFailed(Exception):
    """There is no key; the text says why, and what to do."""


class _Answer(Struct):
    relay: str
    key: str
    url: str


class Enrolled(Struct, frozen=True):
    """
    What the hub gives.

    :ivar relay: the relay's name.
    :ivar url: where the relay connects.
    """

    relay: str
    key: Secret
    url: str


class _Problem(Struct):
    """RFC 9457."""

    title: str = ""
    detail: str = ""


def ask(url: str, token: Secret, tls_ca: str | None) -> Enrolled:
    """
    Use a token at a hub.

    :param url: of the hub: ``https``, or ``http`` on this machine.
    :param tls_ca: PEM file of the authorities to trust instead of the system's.
    :raises EnrolmentFailed: when there is no key.
    """
    connection = _connection(url, tls_ca)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        why = printable(error.verify_message or "it is not valid", 200)
        raise EnrolmentFailed(
            f"the hub's TLS certificate cannot be trusted ({why}). Check the name in the URL, or name the authority "
            "with --tls-ca. Nothing was sent"
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = printable(str(getattr(error, "strerror", None) or error), 200)
        raise EnrolmentFailed(f"{_place(url)} cannot be reached: {reason}. Nothing was sent") from None
    try:
        return _answer_of(url, *_exchange(connection, _base(url), token))
    finally:
        connection.close()


def _connection(url: str, tls_ca: str | None) -> http.client.HTTPConnection:
    try:
        text = server_url(url)
    except ValueError as error:
        raise EnrolmentFailed(f"the URL of the hub: expected {error}") from None
    parts = urlsplit(text)
    if not is_private(text, None):
        raise EnrolmentFailed("the URL of the hub must begin with https://: the key would come unencrypted")
    if parts.scheme in ("https", "wss"):
        try:
            context = ssl.create_default_context(cafile=tls_ca)
        except OSError as error:  # also of a file without certificates
            reason = error.strerror or "it holds no certificates in PEM"
            raise EnrolmentFailed(f"--tls-ca: {printable(str(tls_ca), 200)} cannot be used: {reason}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_PATIENCE, context=context)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)


def _exchange(connection: http.client.HTTPConnection, base: str, token: Secret) -> tuple[int, bytes]:
    """Status and body of the answer."""
    body = msgspec.json.encode({"token": token.reveal()})
    headers = {"Content-Type": "application/json", "Accept": "application/json, application/problem+json"}
    try:
        connection.request("POST", base + _PATH, body, headers)
        response = connection.getresponse()
        return response.status, response.read(_MOST + 1)
    except (http.client.HTTPException, OSError):
        raise EnrolmentFailed(_LOST) from None


#: What to do when it is not known whether the hub has used the token.
_LOST: Final = (
    "the connection was lost before the hub's answer came. Run the same command again. If the hub then says that the "
    "token was used, its answer was lost with the key: have a new token made, and the key of that time revoked"
)


def _answer_of(url: str, status: int, body: bytes) -> Enrolled:
    if status in _OK:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            told = server_url(answer.url)
        except (msgspec.DecodeError, ValueError):
            answer = None
        if answer is None or len(body) > _MOST or not answer.key.isprintable() or not answer.relay.isprintable():
            raise EnrolmentFailed(f"{_place(url)} answers with something else than a key. Is it a hub of relayd?")
        if is_private(url, None) and not is_private(told, None):
            raise EnrolmentFailed(
                f"the hub says that relays connect to {printable(told, 200)}, which is not encrypted. The token is "
                "used. Have the hub's URL set to wss://, and a new token made"
            )
        return Enrolled(answer.relay, Secret(answer.key), told)
    if status in _REDIRECTS:
        raise EnrolmentFailed(
            f"{_place(url)} redirects (HTTP {status}), which is not followed. Use the URL that it leads to"
        )
    said = _words_of(body)
    if status in _REFUSALS:
        raise EnrolmentFailed(f"the hub refuses (HTTP {status}){said}")
    if status == _UNAVAILABLE:
        raise EnrolmentFailed(f"the hub cannot do it now (HTTP {status}){said}. Try again later with the same token")
    raise EnrolmentFailed(f"the hub fails (HTTP {status}){said}. {_LOST.partition('. ')[2]}")


def _words_of(body: bytes) -> str:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return ""
    words = printable(problem.detail or problem.title, 500)
    return f": {words}" if words else ""


def _base(url: str) -> str:
    return urlsplit(url).path.rstrip("/")


def _place(url: str) -> str:
    parts = urlsplit(url)
    return printable(parts.netloc.rpartition("@")[2], 200)
