"""
``relayctl enroll``: fetches this relay's key from a hub, for a one-time token, and writes key file and settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from relayd.config.secret_files import MOST_BYTES, Unusable, read_line
from relayd.ctl.enrolment_files import FileInTheWay, NewFile, settings_before, with_settings
from relayd.ctl.enrolment_request import Enrolled, EnrolmentFailed, ask
from relayd.ctl.settings import FILE, UNIT
from relayd.language.texts import printable
from relayd.process.unit_files import loaded_credentials
from relayd.wire.secret import Secret

#: The name of the key among the credentials of a unit.
_CREDENTIAL: Final = "api-key"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("url", metavar="URL", help="the hub, such as https://hub.example.com")
    token = parser.add_mutually_exclusive_group(required=True)
    token.add_argument(
        "token", metavar="TOKEN", nargs="?", help="the token; - reads it from standard input, where nobody else sees it"
    )
    token.add_argument("--token-file", metavar="PATH", help="file that holds the token")
    parser.add_argument("--tls-ca", metavar="PATH", help="CA certificates to trust instead of the system's (PEM)")
    parser.add_argument("--config", metavar="PATH", default=FILE, help="file of settings to write [%(default)s]")
    parser.add_argument("--api-key-file", metavar="PATH", help="key file to write [api-key beside the settings]")
    parser.add_argument("--force", action="store_true", help="replace a key file and settings that are there")


def run(arguments: argparse.Namespace) -> int:
    """Enroll, and try the connection; 1 when either fails."""
    key_path = arguments.api_key_file or os.path.join(os.path.dirname(arguments.config), "api-key")
    tls_ca = None if arguments.tls_ca is None else os.path.abspath(arguments.tls_ca)
    files: list[NewFile] = []
    try:
        token = _token(arguments)
        before = settings_before(arguments.config, force=arguments.force)
        with_settings(before, {"server": "wss://hub.example.com"})  # whether that can be done at all
        files.append(NewFile(key_path, 0o600, replaces=arguments.force))
        # What else the file of settings has stays, so it may be written anew.
        files.append(NewFile(arguments.config, 0o644, replaces=bool(before) or arguments.force))
        enrolled = ask(arguments.url, token, tls_ca)
        print(f"enrolled as {printable(enrolled.relay, 100)}")
        _write(enrolled, before, files, tls_ca)
    except (EnrolmentFailed, FileInTheWay) as error:
        print(f"relayctl: {error}", file=sys.stderr)
        return 1
    finally:
        for file in files:
            file.discard()
    return _check(arguments.config, files[0].path)


def _token(arguments: argparse.Namespace) -> Secret:
    try:
        if arguments.token_file is not None:
            return read_line(arguments.token_file)
        text = sys.stdin.readline(MOST_BYTES) if arguments.token == "-" else arguments.token
    except Unusable as error:
        raise EnrolmentFailed(f"the token: {error}") from None
    text = text.strip()
    if not text or not text.isprintable():
        raise EnrolmentFailed("the token is empty, or is no token")
    return Secret(text)


def _write(enrolled: Enrolled, before: str, files: list[NewFile], tls_ca: str | None) -> None:
    """Write both files; without the key there is nothing to begin again with."""
    key_file, config = files
    try:
        key_file.write(enrolled.key.reveal().encode() + b"\n")
    except FileInTheWay as error:
        raise FileInTheWay(
            f"{error}. The token is used, and the key is lost: have the key revoked and a new token made"
        ) from None
    print(f"wrote {key_file.path}")
    values = {"server": enrolled.url, "proxy-id": enrolled.relay}
    if not _is_of_unit(key_file.path, config.path):
        values["api-key-file"] = key_file.path
    if tls_ca is not None:
        values["tls-ca"] = tls_ca
    text = with_settings(before, values)
    try:
        config.write(text.encode())
    except FileInTheWay as error:
        lines = "; ".join(text.splitlines()[: len(values)])
        raise FileInTheWay(f"{error}. The key is in its file; write these settings by hand: {lines}") from None
    print(f"wrote {config.path}")


def _is_of_unit(key_path: str, config_path: str) -> bool:
    """Whether systemd hands that key to the relay of the usual unit, whose user cannot read the file itself."""
    return config_path == FILE and loaded_credentials(UNIT).get(_CREDENTIAL) == key_path


def _check(config: str, key_path: str) -> int:
    """Do what ``relayctl check`` does."""
    from relayd.ctl import check

    print()
    parser = argparse.ArgumentParser()
    check.configure(parser)
    given = [] if _is_of_unit(key_path, os.path.abspath(config)) else ["--config", config]
    return check.run(parser.parse_args(given))
