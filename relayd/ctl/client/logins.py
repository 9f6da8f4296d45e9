"""
Stored logins: which hubs there are, and the token for each. One file, which only its user can read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from relayd.ctl.client.errors import LoginUnusable, NoLogin
from relayd.network.descriptors import words_of
from relayd.process.whole_files import write_whole
from relayd.wire.secret import Secret

_MOST_BYTES: Final = 1024 * 1024


class Login(Struct, frozen=True):
    """
    How to reach one hub.

    :ivar url: without a path.
    :ivar ca: PEM file of the authorities to trust instead of the system's; empty: the system's.
    """

    url: str
    token: Secret
    ca: str = ""


def path_of(environ: Mapping[str, str]) -> str:
    """The file of logins (XDG Base Directory Specification)."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "relayd", "hubs.json")


class Logins:
    """
    The file of logins.

    :param path: need not exist.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def find(self, url: str | None) -> Login:
        """
        The login for a hub.

        :param url: ``None``: the hub that was logged in to last.
        :raises NoLogin: when there is none.
        :raises LoginUnusable: when the file cannot be used.
        """
        content = self._read()
        url = content.get("current") if url is None else url
        found = content["hubs"].get(url)
        if not isinstance(url, str) or not isinstance(found, dict) or not isinstance(found.get("token"), str):
            raise NoLogin
        return Login(url, Secret(found["token"]), str(found.get("ca") or ""))

    def store(self, login: Login) -> None:
        """
        Keep a login, which is the current one then.

        :raises LoginUnusable: when that fails.
        """
        content = self._read()
        content["hubs"][login.url] = {"token": login.token.reveal(), "ca": login.ca}
        self._write(content | {"current": login.url})

    def forget(self, url: str) -> None:
        """Keep a login no longer."""
        content = self._read()
        content["hubs"].pop(url, None)
        if content.get("current") == url:
            content["current"] = next(iter(content["hubs"]), None)
        self._write(content)

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, "rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise LoginUnusable(reason=f"others may use {self._path}: chmod 600 it")
                content = json.loads(file.read(_MOST_BYTES))
        except FileNotFoundError:
            return {"hubs": {}}
        except OSError as error:
            raise LoginUnusable(reason=f"{self._path}: {words_of(error)}") from None
        except ValueError:
            raise LoginUnusable(reason=f"{self._path} is damaged: remove it, and log in again") from None
        if not isinstance(content, dict) or not isinstance(content.get("hubs"), dict):
            raise LoginUnusable(reason=f"{self._path} is damaged: remove it, and log in again")
        return content

    def _write(self, content: dict[str, Any]) -> None:
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            write_whole(self._path, json.dumps(content, indent=1).encode())
        except OSError as error:
            raise LoginUnusable(reason=f"{self._path} cannot be written: {words_of(error)}") from None
