"""
``relayctl login``: logs in to a hub, and keeps a token of its own for the other subcommands.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import socket
import sys
import time
from typing import Any, Final

from relayd.ctl.client.options import ca_of, token_in, url_of
from relayd.errors import ConfigError
from relayd.wire.secret import Secret

#: Days for which the token is good.
_DAYS: Final = 30
_DAY: Final = 86400


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("url", metavar="URL", nargs="?", help="URL of the hub, such as https://hub.example.com")
    parser.add_argument("--user", metavar="NAME", help="user to log in as [the user of this machine]")
    parser.add_argument("--token-file", metavar="FILE", help="file with an API token, instead of a password")
    parser.add_argument("--ca", metavar="FILE", help="PEM file of the CA certificates to trust instead of the system's")
    parser.add_argument("--logout", action="store_true", help="revoke the token, and forget it")


def run(arguments: argparse.Namespace) -> int:
    """
    Log in, or out.

    :raises ConfigError: for a mistake on the command line.
    """
    from relayd.ctl.client.http import Hub
    from relayd.ctl.client.logins import Login, Logins, path_of
    from relayd.language.texts import printable

    logins = Logins(path_of(os.environ))
    if arguments.logout:
        return _log_out(logins, arguments.url)
    if arguments.url is None:
        raise ConfigError(option="URL", reason="missing; give that of the hub, such as https://hub.example.com")
    url, ca = url_of("URL", arguments.url), ca_of(arguments.ca)
    if arguments.token_file is not None:
        token = token_in(arguments.token_file)
    else:
        token = _by_password(Hub(Login(url, Secret(""), ca)), arguments.user or getpass.getuser())
    login = Login(url, token, ca)
    me = Hub(login).get("/me")
    logins.store(login)
    print(f"logged in to {url} as {printable(str(me.get('name')), 200)} ({printable(str(me.get('role')), 40)})")
    return 0


def _by_password(hub: Any, user: str) -> Secret:
    """A new token for *user*, whose password is asked for."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {user} at {hub.login.url}: ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    session = hub.open("POST", "/session", {"user": user, "password": password})
    said = json.loads(session.read(65536))
    cookies = "; ".join(each.partition(";")[0] for each in session.headers.get_all("Set-Cookie") or ())
    own = {"Cookie": cookies, "X-CSRF-Token": str(said.get("csrfToken", ""))}
    if said.get("mustChangePassword"):
        raise ConfigError(option="--user", reason="has to choose a new password first: POST /api/v1/me/password")
    machine = re.sub("[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0])[:30].strip("-") or "somewhere"
    name = f"relayctl-{machine}-{time.strftime('%Y%m%d-%H%M%S')}"
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _DAYS * _DAY))
    order = {"name": name, "scopes": said.get("scopes") or [], "expiresAt": expires}
    made = hub.call("POST", "/tokens", order, headers=own)
    hub.call("DELETE", "/session", headers=own)
    return Secret(str(made["text"]))


def _log_out(logins: Any, url: str | None) -> int:
    from relayd.ctl.client.errors import HubError
    from relayd.ctl.client.http import Hub, segment

    login = logins.find(None if url is None else url_of("URL", url))
    hub = Hub(login)
    try:
        me = hub.get("/me")
        for each in hub.items("/tokens"):
            if each.get("name") == me.get("token"):
                hub.call("DELETE", f"/tokens/{segment(str(each['id']))}")
    except HubError as error:
        print(f"relayctl: the token could not be revoked: {error}", file=sys.stderr)
    logins.forget(login.url)
    print(f"logged out of {login.url}")
    return 0
