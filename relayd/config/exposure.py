"""
What a relay's settings expose to other users of the machine: said by ``relayctl check``, and in the log at each start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from relayd.config.options import Config
from relayd.config.reading import Reading
from relayd.config.secret_files import open_to_others


def exposures(reading: Reading, environ: Mapping[str, str]) -> list[str]:
    """
    One line each, with what to do about it. The API key is not among them: who reads it says so.

    :param environ: where *reading* was read from.
    """
    config = reading.config
    if config is None:
        return []
    found = []
    for whose, path in (
        ("the private key of --tls-key", config.tls_key),
        ("the password of --http-proxy-password-file", config.http_proxy_password_file),
        ("the headers of --header-file", config.header_file),
    ):
        if path is not None and open_to_others(path, environ):
            found.append(f"other users can read {whose} in {path}: chmod 600 it")
    for whose, path in (
        ("the keys of hosts that --known-hosts vouches for", config.known_hosts),
        ("the authorities of --tls-ca", config.tls_ca),
    ):
        if path is not None and (what := _changeable(path)):
            found.append(f"others can change {whose}, in {path}: chmod go-w {what}")
    proxy = reading.given.get("http-proxy")
    password = proxy is not None and "@" in proxy.text and config.http_proxy_password_file is None
    if proxy is not None and password and proxy.in_environment:
        found.append(
            f"{proxy.where} holds the proxy's password, which systemctl show, docker inspect and /proc can show to "
            "others: put it into a file, and name that in --http-proxy-password-file"
        )
        password = False
    return found + _of_the_file(config, password)


def _changeable(path: str) -> str:
    """By which name others can write to a file, or put another one in its place; empty: they cannot."""
    for each in (path, os.path.dirname(os.path.abspath(path))):
        try:
            mode = os.stat(each).st_mode
        except OSError:  # it is not there yet
            continue
        if mode & 0o022 and not mode & stat.S_ISVTX:  # in /tmp nobody can take it away
            return each
    return ""


def _of_the_file(config: Config, password: bool) -> list[str]:
    """Of the file of options, which may hold a *password*."""
    path = config.config
    if path is None:
        return []
    try:
        mode = os.stat(path).st_mode
    except OSError:  # it was there a moment ago
        return []
    found = []
    if mode & 0o022:
        found.append(f"others can change {path}, and with it the site's rules: chmod go-w it")
    if mode & 0o044 and password:
        found.append(f"others can read {path}, which may hold the proxy's password: chmod 600 it")
    return found
