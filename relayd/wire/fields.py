"""
The rules of each field that its type cannot express; errors name the field at fault and never its value.

Source: the specification's "execute_command", and docs/protocol.rst for what it leaves open.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from binascii import Error as BadBase64
from typing import Final

from msgspec import UNSET

from relayd.language.charsets import charset
from relayd.language.texts import Fault, without_surrogates
from relayd.network.spelling import MAX_NAME, MAX_USERNAME, fault_of_username, is_host
from relayd.wire.hosts import fault_of_host
from relayd.wire.messages import BASE64, MAX_COMMAND_ID
from relayd.wire.unsent import NO_UTF8, Unsent

#: Longest password and passphrase taken, in characters: tokens that are sent as passwords have some thousands.
MAX_PASSWORD: Final = 16 * 1024
#: Longest private key and certificate taken, in characters: an RSA key of 16,384 bits takes 13,000.
MAX_PRIVATE_KEY: Final = 64 * 1024
MAX_CERTIFICATE: Final = 64 * 1024
#: Longest fingerprint, with the key's type before it, that is looked at, in characters.
MAX_FINGERPRINT: Final = 128
#: Longest timeout taken, in seconds (a year); larger numbers are surely another unit.
MAX_TIMEOUT: Final = 366 * 86400.0
#: Longest working directory taken, in bytes: ``PATH_MAX`` of Linux.
MAX_CWD: Final = 4096
#: Most variables of a command, and most bytes of their names and values together.
MAX_VARIABLES: Final = 256
MAX_ENVIRONMENT: Final = 128 * 1024
#: Most jump hosts on the way to a host.
MAX_HOPS: Final = 8
#: Where an SSH server is looked for.
SSH_PORT: Final = 22

_FLAGS: Final[dict[object, bool]] = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}

#: An absolute path of Windows.
_ON_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_FINGERPRINT = re.compile(r"([a-z0-9@.-]{1,64} )?SHA256:[A-Za-z0-9+/]{43}=?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Invalid(Fault):
    """A field is wrong: its name and the reason, never its value."""

    def __init__(self, field: str, template: str, /, **fields: object) -> None:
        super().__init__(template, **fields)
        self.field = field


def half_a_pair(field: str) -> Invalid:
    """The error for a text that UTF-8 cannot hold."""
    return Invalid(field, "contains half of a surrogate pair")


def absent(value: object) -> bool:
    """Whether a field counts as not sent: main servers send ``null``, or an empty value, from an empty column."""
    return value is UNSET or value is None or (isinstance(value, (str, dict, list)) and not value)


def text(field: str, value: object, *, single_line: bool = True, most: int | None = None) -> str:
    """
    A text that is not blank.

    :param most: characters that it may have; checked first, because every other check takes time for each character.
    """
    if value is UNSET or value is None:
        raise Invalid(field, "is missing")
    value = _as_text(field, value, most)
    if not value.strip():
        raise Invalid(field, "is empty")
    if single_line and "\0" not in value and not value.isprintable():
        raise Invalid(field, "contains a control character")
    return _unicode(field, value)


def command_id(value: object) -> tuple[str, bool]:
    """
    The name of a command: a text, or a number, which stands for its digits as a text.

    :return: the text, and whether it was a number. ``5.0`` becomes ``5``: JSON does not tell them apart.
    """
    if type(value) is int and -(2**63) <= value < 2**64:  # the numbers that JSON libraries write
        return str(value), True
    if type(value) is float and abs(value) < 2**63:  # a larger one may stand for several numbers of the sender's
        return str(int(value)) if value == int(value) else repr(value), True
    if type(value) in (int, float):
        raise Invalid("commandId", "is a number of more than 64 bits; send it as a string")
    value = plain("commandId", value)
    if value is not UNSET and value is not None and not isinstance(value, str | bytes):
        raise Invalid("commandId", "is neither a string nor a number")
    return text("commandId", value, most=MAX_COMMAND_ID), False


def readable_id(value: object) -> tuple[str | None, bool]:
    """
    As much of a ``commandId`` as can be read, to answer the sender of an invalid one.

    :return: the text, or the beginning of a long one, or ``None``; and whether it was a number.
    """
    try:
        return command_id(value)
    except Invalid:
        pass
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (repr(float(value)), True) if abs(value) < 10**308 else (None, False)
    if not isinstance(value, str) or not value:
        return None, False
    shown = value if len(value) <= MAX_COMMAND_ID else value[: MAX_COMMAND_ID - 1] + "…"
    return without_surrogates(shown), False


def server_id(value: object) -> float | str | None:
    """The main server's own name for the host. An unusable one is dropped, and never a reason to refuse a command."""
    if isinstance(value, str) and 0 < len(value) <= MAX_COMMAND_ID and value.isprintable():
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 2**63:
        return value
    return None


def flag(field: str, value: object) -> bool:
    """A boolean, also in the forms of databases: 0 and 1, or a string."""
    if absent(value):
        return False
    value = _bare(field, value)
    known = _FLAGS.get(value.lower() if isinstance(value, str) else value) if isinstance(value, (str, int)) else None
    if known is None:
        raise Invalid(field, "is neither true nor false")
    return known


def readable_flag(value: object) -> bool:
    """A boolean of a message that is not valid: whatever is none is false."""
    try:
        return flag("", value)
    except Invalid:
        return False


def host(field: str, value: object) -> str:
    """A host's name or address."""
    name = text(field, value, most=MAX_NAME).strip()
    if name.startswith("[") and name.endswith("]"):  # an IPv6 address as it stands in a URL
        name = name[1:-1].replace("%25", "%", 1)  # before its zone (RFC 6874)
    if any(char.isspace() or char in "/@,;*?!|#[]" for char in name) or not is_host(name):
        raise Invalid(field, fault_of_host(name))
    return name


def username(field: str, value: object) -> str:
    """A user's name, which every server reads as the site's rules do."""
    name = text(field, value, most=MAX_USERNAME)
    fault = fault_of_username(name)
    if fault is not None:
        raise Invalid(field, fault)
    return name


def fingerprint(field: str, value: object) -> str | None:
    """The fingerprint of a host's key, with or without the key's type before it."""
    if absent(value):
        return None
    shown = text(field, value, most=MAX_FINGERPRINT).strip()
    if not _FINGERPRINT.fullmatch(shown):
        raise Invalid(field, "is not a fingerprint as ssh-keygen -l shows it: SHA256: and 43 characters")
    return shown


def optional_text(field: str, value: object, most: int) -> str | None:
    """
    A text of any number of lines, such as a secret or a certificate; an empty one counts as absent.

    :param most: characters that it may have.
    """
    if absent(value):
        return None
    return _unicode(field, _as_text(field, value, most)) or None


def number(field: str, value: object) -> float | None:
    """A finite number, or a string that holds one, as databases give them; ``None`` where the field is absent."""
    value = _bare(field, value)
    if absent(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            # Python would read many digits as infinity, and it takes "1_000" and the digits of other scripts.
            value = float(value if value.isascii() and "_" not in value else "") if len(value) <= 32 else math.nan
        except ValueError:
            raise Invalid(field, "is not a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(field, "is not a number")
    if not abs(value) <= 2**63:
        raise Invalid(field, "is not a finite number of at most 63 bits")
    return int(value) if value == int(value) else value


def port(field: str, value: object) -> int:
    """A TCP port; where the field is absent, that of SSH."""
    chosen = number(field, value)
    if chosen is None:
        return SSH_PORT
    if chosen != int(chosen) or not 1 <= chosen <= 65535:
        raise Invalid(field, "is not a whole number from 1 to 65535")
    return int(chosen)


def timeout(value: object) -> float | None:
    """Seconds; milliseconds on the wire. With 0, null or no field, the relay chooses (``None``)."""
    seconds = (number("timeout", value) or 0) / 1000
    if seconds < 0:
        raise Invalid("timeout", "is negative")
    if seconds > MAX_TIMEOUT:
        raise Invalid("timeout", "is longer than a year; it is in milliseconds")
    return seconds or None


def cwd(value: object) -> str | None:
    """
    A working directory: absolute, also as Windows has it (``C:\\x``, ``C:/x``), or relative to a home directory as a
    shell writes it (``~/x``, ``~user/x``).
    """
    if absent(value):
        return None
    path = text("cwd", value, single_line=False, most=MAX_CWD)
    if "\n" in path or "\r" in path:
        raise Invalid("cwd", "contains a line break")
    if not path.startswith(("/", "~")) and not _ON_DRIVE.match(path):
        raise Invalid("cwd", "is neither an absolute path nor one that begins with ~")
    if len(path.encode()) > MAX_CWD:
        raise Invalid("cwd", "is longer than {most} bytes", most=MAX_CWD)
    return path


def environment(value: object) -> tuple[tuple[str, str], ...]:
    """Environment variables, in their order. An empty value is a value."""
    if absent(value):
        return ()
    value = plain("env", value)
    if not isinstance(value, dict):
        raise Invalid("env", "is not an object of names and strings")
    if len(value) > MAX_VARIABLES:
        raise Invalid("env", "has more than {most} variables", most=MAX_VARIABLES)
    size = 0
    variables: list[tuple[str, str]] = []
    for name, given in value.items():
        if not _VARIABLE.fullmatch(name):
            raise Invalid("env", "has a name with other characters than A-Z, a-z, 0-9 and _, or with a digit first")
        size += len(name)
        if size > MAX_ENVIRONMENT:  # before the name is quoted
            break
        field = f"env.{name}" if len(name) <= 64 else "env"
        content = plain(field, given)
        if not isinstance(content, str | bytes):
            raise Invalid(field, 'is not a string; write numbers and booleans as strings, as in "1"')
        text = _unicode(field, _as_text(field, content, None))
        size += len(text.encode())
        variables.append((name, text))
    if size > MAX_ENVIRONMENT:
        raise Invalid("env", "takes more than {most} KiB", most=MAX_ENVIRONMENT // 1024)
    return tuple(variables)


def stdin(value: object) -> tuple[bytes, bool]:
    """The command's standard input; see `encoded_or_text`."""
    return encoded_or_text("stdin", value)


def encoded_or_text(field: str, value: object) -> tuple[bytes, bool]:
    """
    Bytes in one of two ways: a text, or ``{"base64": …}``.

    :return: the bytes, of a text in UTF-8, and whether it is a text.
    """
    if absent(value):
        return b"", False
    value = plain(field, value)
    if isinstance(value, bytes):
        return value, False
    if isinstance(value, str):
        try:
            return value.encode(), True
        except UnicodeEncodeError:
            raise half_a_pair(field) from None
    if not isinstance(value, dict) or set(value) != {"base64"}:
        raise Invalid(field, 'is neither a string nor an object {"base64": "…"}')
    if absent(value["base64"]):
        return b"", False
    written = _as_text(f"{field}.base64", value["base64"], None)
    try:
        try:
            return b64decode(written, validate=True), False
        except (BadBase64, ValueError):
            return b64decode("".join(written.split()), validate=True), False  # encoders like to break lines
    except (BadBase64, ValueError):
        raise Invalid(f"{field}.base64", "is not base64 (RFC 4648, section 4)") from None


def encoding(value: object) -> str | None:
    """How outputs come back: as base64, or decoded from a character set."""
    if absent(value):
        return None
    value = _bare("encoding", value)
    if value == BASE64:
        return BASE64
    found = charset(value) if isinstance(value, str) else None
    if found is None:
        raise Invalid("encoding", "is neither base64 nor a character set that relayd knows, such as utf-8 or gbk")
    return found


def plain(field: str, value: object) -> object:
    """
    A field's value, with a Node.js Buffer turned into bytes: JSON has it as ``{"type": "Buffer", "data": [104, 105]}``.

    :raises Invalid: when bytes were announced and did not come (`relayd.wire.unsent.Unsent`).
    """
    if isinstance(value, Unsent):
        raise Invalid(field, value.fault)
    if isinstance(value, dict) and value.get("type") == "Buffer" and isinstance(value.get("data"), list):
        try:
            return bytes(value["data"])
        except (ValueError, TypeError, OverflowError):
            raise Invalid(field, "is a Buffer that holds something other than bytes") from None
    return value


def _bare(field: str, value: object) -> object:
    """The value of a field that need not be a text; bytes are decoded."""
    value = plain(field, value)
    return _as_text(field, value, None) if isinstance(value, bytes) else value


def _as_text(field: str, value: object, most: int | None) -> str:
    """
    A text, also one that comes as bytes.

    :param most: characters that it may have; checked first, because every other check takes time for each character.
    """
    value = plain(field, value)
    if not isinstance(value, str | bytes):
        raise Invalid(field, "is not a string")
    if most is not None and len(value) > (most if isinstance(value, str) else 4 * most):
        raise Invalid(field, "is longer than {most} characters", most=most)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise Invalid(field, NO_UTF8) from None
        if most is not None and len(value) > most:
            raise Invalid(field, "is longer than {most} characters", most=most)
    return value


def _unicode(field: str, value: str) -> str:
    if "\0" in value:
        raise Invalid(field, "contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise half_a_pair(field) from None
    return value
