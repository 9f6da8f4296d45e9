"""
Credentials of the hub: checked when they are given, sealed at once, and opened only to log in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from relayd.hub.inventory.checks import checked_name
from relayd.hub.inventory.errors import NotOpened
from relayd.hub.inventory.sealing import Sealer
from relayd.hub.store.host_records import Method, SealedCredential
from relayd.language.texts import Fault, Text
from relayd.ssh.keys.certificates import BadCertificate, read_user_certificate
from relayd.ssh.keys.private import UnreadableKey, parse_private_key
from relayd.wire import fields
from relayd.wire.secret import Secret

#: How a credential may log in.
METHODS: Final[tuple[Method, ...]] = get_args(Method)
#: The fields of each method, and those that it needs.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "password": ("password",),
    "key": ("privateKey", "passphrase"),
    "certificate": ("privateKey", "passphrase", "certificate"),
    "at-the-site": (),
}
_NEEDED: Final = ("password", "privateKey", "certificate")
_LENGTHS: Final = {
    "password": fields.MAX_PASSWORD,
    "privateKey": fields.MAX_PRIVATE_KEY,
    "passphrase": fields.MAX_PASSWORD,
    "certificate": fields.MAX_CERTIFICATE,
}


class CredentialMistake(Fault):
    """
    A field of a credential is wrong; the argument says why, and shows nothing of it.

    :ivar field: its name as the API has it.
    """

    def __init__(self, field: str, template: str, /, **texts: object) -> None:
        super().__init__(template, **texts)
        self.field = field


class Login(Struct, frozen=True, kw_only=True):
    """What a credential logs in with; none of it where the site has it."""

    method: Method
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None
    certificate: str | None = None

    def __repr__(self) -> str:
        return f"<Login by {self.method}>"


def checked_login(method: object, given: Mapping[str, Any], now: float) -> Login:
    """
    Check what somebody gave as a credential.  An encrypted key may take seconds: call this in a thread.

    :param given: ``password``, ``privateKey``, ``passphrase`` and ``certificate`` as the API has them.
    :param now: in Unix time; a certificate has to be valid.
    :raises CredentialMistake: for the first field that is wrong.
    """
    if not isinstance(method, str) or method not in _FIELDS:
        raise CredentialMistake("method", "is none of {methods}", methods=", ".join(METHODS))
    texts: dict[str, str] = {}
    for name, value in given.items():
        if value is None or value == "":
            continue
        if name not in _LENGTHS:
            raise CredentialMistake("fields", "are method, name, {names}", names=", ".join(_LENGTHS))
        if name not in _FIELDS[method]:
            raise CredentialMistake(name, "does not belong to the method {method}", method=method)
        try:
            text = fields.optional_text(name, value, _LENGTHS[name])
        except fields.Invalid as error:
            raise CredentialMistake(name, error.text) from None
        if text is not None:
            texts[name] = text
    for name in _FIELDS[method]:
        if name in _NEEDED and not texts.get(name, "").strip():
            raise CredentialMistake(name, "is missing: the method {method} needs it", method=method)
    _check_key(texts, now)
    return _login(method, texts)


def seal_login(sealer: Sealer, login: Login, credential_id: str) -> bytes | None:
    """
    What is secret of a login, sealed for the credential of that id; ``None``: the site has it.

    :raises SealingKeysUnusable: when it cannot be sealed.
    """
    if login.method == "at-the-site":
        return None
    secrets = {"password": login.password, "privateKey": login.private_key, "passphrase": login.passphrase}
    content = {name: secret.reveal() for name, secret in secrets.items() if secret is not None}
    if login.certificate is not None:
        content["certificate"] = login.certificate
    return sealer.seal(msgspec.json.encode(content), _context(credential_id))


def sealed_credential(sealer: Sealer, login: Login, *, credential_id: str, name: object) -> SealedCredential:
    """
    A credential to be stored.

    :raises HostMistake: when its name is not one.
    :raises SealingKeysUnusable: when it cannot be sealed.
    """
    return SealedCredential(
        id=credential_id,
        name=checked_name(name),
        method=login.method,
        sealed=seal_login(sealer, login, credential_id),
    )


def opened(sealer: Sealer, credential: SealedCredential) -> Login:
    """
    What a credential logs in with.

    :raises NotOpened: when it cannot be opened.
    :raises SealingKeysUnusable: when there is no key to open it.
    """
    if credential.sealed is None:
        if credential.method != "at-the-site":
            raise NotOpened(reason=Text("it is empty"))
        return Login(method=credential.method)
    content = sealer.open(credential.sealed, _context(credential.id)).reveal()
    try:
        texts = msgspec.json.decode(content, type=dict[str, str])
    except msgspec.DecodeError:
        raise NotOpened(reason=Text("what was sealed is not a credential")) from None
    return _login(credential.method, texts)


def _context(credential_id: str) -> str:
    return f"credential:{credential_id}"


def _login(method: Any, texts: Mapping[str, str]) -> Login:
    def secret(name: str) -> Secret | None:
        return Secret(texts[name]) if name in texts else None

    return Login(
        method=method,
        password=secret("password"),
        private_key=secret("privateKey"),
        passphrase=secret("passphrase"),
        certificate=texts.get("certificate"),
    )


def _check_key(texts: Mapping[str, str], now: float) -> None:
    """Check a private key and its certificate, as the relay will when it uses them."""
    if "privateKey" not in texts:
        return
    try:
        key = parse_private_key(texts["privateKey"], texts.get("passphrase"))
    except UnreadableKey as fault:
        raise CredentialMistake("privateKey", "cannot be used: {reason}", reason=fault.text) from None
    if "certificate" not in texts:
        return
    try:
        certificate = read_user_certificate(texts["certificate"], now)
    except BadCertificate as fault:
        raise CredentialMistake("certificate", "cannot be used: {reason}", reason=fault.text) from None
    if certificate.key != key.public().blob():
        raise CredentialMistake("certificate", "is for another key than the private key")
