"""
What may be written of a host: each field with the relay's own rules, since a relay has to take it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from relayd.hub.store.host_records import Host
from relayd.language.texts import Fault, Text, printable
from relayd.network.credential_rules import parse_via
from relayd.network.spelling import read_address
from relayd.ssh.keys.public import BadPublicKey, PublicKey, fingerprint
from relayd.ssh.keys.types import MIN_RSA_BITS, key_type
from relayd.wire import fields

#: Characters of the longest name of a host or credential, key of a label, and value of a label.
MAX_NAME: Final = 255
MAX_KEY: Final = 128
MAX_VALUE: Final = 255
#: Most labels and relays of a host.
MAX_LABELS: Final = 200
MAX_RELAYS: Final = 16
#: What selectors keep for themselves (`relayd.hub.decisions.selectors`).
_RESERVED: Final = frozenset({"all", "in", "notin", "and"})
_NAME: Final = re.compile(r"\w[\w.:@+~-]*")
_KEY: Final = re.compile(r"\w[\w.:/+~-]*")


class HostMistake(Fault):
    """
    A field of a host is wrong; the argument says why.

    :ivar field: its name as the API has it.
    """

    def __init__(self, field: str, template: str, /, **texts: object) -> None:
        super().__init__(template, **texts)
        self.field = field


def checked_name(value: object, field: str = "name") -> str:
    """
    The name of a host or of a credential.

    :raises HostMistake: when it is not one.
    """
    if value is None or value == "":
        raise HostMistake(field, "is missing")
    if not isinstance(value, str):
        raise HostMistake(field, "is not a text: {value}", value=_shown(value))
    if len(value) > MAX_NAME:
        raise HostMistake(field, "is longer than {most} characters", most=MAX_NAME)
    if not _NAME.fullmatch(value):
        raise HostMistake(
            field, "{value} has other characters than letters, digits and . : @ + ~ - _, or begins with one of these",
            value=_shown(value),
        )  # fmt: skip
    if ":" in value and read_address(value) is None:
        raise HostMistake(field, "{value} has a colon, and is not an IPv6 address", value=_shown(value))
    if value in _RESERVED:
        raise HostMistake(field, "{value} is a word of selectors; take another name", value=_shown(value))
    return value


def checked_host(given: Mapping[str, Any]) -> Host:
    """
    A host from what somebody wrote.

    :param given: fields by their names in the API; those that are not there have their defaults.
    :raises HostMistake: for the first field that is wrong.
    """
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        raise HostMistake(
            printable(str(unknown[0]), 60), "is not a field of a host; there are {names}", names=", ".join(FIELDS)
        )
    values: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        if name in given:
            try:
                values[ATTRIBUTES[name]] = check(given[name])
            except fields.Invalid as error:
                raise HostMistake(name, error.text) from None
    if "name" not in values:
        raise HostMistake("name", "is missing")
    if "address" not in values:  # one that is given was checked with the others
        values["address"] = values["name"]
        try:
            fields.host("address", values["address"])
        except fields.Invalid as error:
            raise HostMistake("address", error.text) from None
    return Host(**values)


def _address(value: object) -> str:
    return fields.host("address", value)


def _port(value: object) -> int:
    return fields.port("port", None if value == "" else value)


def _user(value: object) -> str:
    return "" if value is None or value == "" else fields.username("user", value)


def _relays(value: object) -> tuple[str, ...]:
    names = _list("relays", value, MAX_RELAYS)
    for name in names:
        if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise HostMistake("relays", "{value} is not the name of a relay", value=_shown(name))
        if "," in name or ";" in name:
            raise HostMistake("relays", "{value} has a comma or a semicolon; give a list of names", value=_shown(name))
    if len(set(names)) < len(names):
        raise HostMistake("relays", "names a relay twice")
    return names


def checked_labels(value: object) -> dict[str, str]:
    """
    Labels from an object of keys and values.

    :raises HostMistake: when one is not valid.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise HostMistake("labels", "is not an object of keys and values")
    if len(value) > MAX_LABELS:
        raise HostMistake("labels", "has more than {most} labels", most=MAX_LABELS)
    found: dict[str, str] = {}
    for key, written in value.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key) or len(key) > MAX_KEY:
            raise HostMistake(
                "labels", "{value} is not the key of a label: letters, digits and . : / + ~ - _, at most {most}",
                value=_shown(key), most=MAX_KEY,
            )  # fmt: skip
        if key in _RESERVED or key == "name":
            raise HostMistake("labels", "{value} is a word of selectors; take another key", value=_shown(key))
        content = "" if written is None else written
        if not isinstance(content, str):
            raise HostMistake("labels", "the value of {key} is not a text", key=key)
        if len(content) > MAX_VALUE or not content.isprintable() or '"' in content or content != content.strip():
            raise HostMistake(
                "labels",
                "the value of {key} has more than {most} characters, a double quote, a control character, or a blank "
                "at an end",
                key=key,
                most=MAX_VALUE,
            )
        found[key] = content
    return dict(sorted(found.items()))


def _via(value: object) -> str:
    if value is None or value == "":
        return ""
    text = fields.text("via", value, most=8 * MAX_NAME)
    try:
        hops = parse_via(text)
    except ValueError:
        raise HostMistake(
            "via", "{value} is not of the form [user@]host[:port], with commas between several", value=_shown(text)
        ) from None
    if len(hops) > fields.MAX_HOPS:
        raise HostMistake("via", "names more than {most} hosts", most=fields.MAX_HOPS)
    return ",".join(part.strip() for part in text.split(","))


def _host_key(value: object) -> str:
    """A fingerprint, or a public key as ``known_hosts`` has it, of which the fingerprint is kept."""
    if value is None or value == "":
        return ""
    text = fields.text("hostKey", value, most=16 * 1024).strip()
    words = text.split()
    at = next((number for number, word in enumerate(words) if word.startswith("AAAA")), 0)
    if not at:
        return fields.fingerprint("hostKey", text) or ""
    try:
        blob = base64.b64decode(words[at], validate=True)
        PublicKey(blob, MIN_RSA_BITS)
    except (binascii.Error, ValueError):
        raise HostMistake("hostKey", "is a public key that cannot be read") from None
    except BadPublicKey as fault:
        raise HostMistake("hostKey", "is a public key of which {reason}", reason=fault.text) from None
    if key_type(blob).decode("ascii", "replace") != words[at - 1]:
        raise HostMistake("hostKey", "names another type of key than it holds")
    return fingerprint(blob)


def _credential(value: object) -> str | None:
    return None if value is None or value == "" else checked_name(value, "credential")


def _list(field: str, value: object, most: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise HostMistake(field, "is not a list of names")
    if len(value) > most:
        raise HostMistake(field, "names more than {most}", most=most)
    return tuple(value)


def _shown(value: object) -> str:
    return Text('"{value}"', value=printable(str(value), 60))


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": checked_name,
    "address": _address,
    "port": _port,
    "user": _user,
    "relays": _relays,
    "labels": checked_labels,
    "via": _via,
    "hostKey": _host_key,
    "credential": _credential,
}
#: The fields of a host as the API and files name them, in the order in which people see them.
FIELDS: Final = tuple(_CHECKS)
#: Their names as attributes of `Host`.
ATTRIBUTES: Final = {name: "host_key" if name == "hostKey" else name for name in FIELDS}
