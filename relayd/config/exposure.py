"""
What a relay's settings expose to other users of the machine, for ``relayctl check`` and the log at each start.
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
    One line for each exposure, with what to do about it. The API key is left out: its reader warns by itself.

    :param environ: the environment that *reading* was read from.
    """
    config = reading.config
    if config is None:
        return []
    found = []
    secrets = [
        (whose, path)
        for each in config.each_server
        for whose, path in (
            ("the private key of --tls-key", each.tls_key),
            ("the password of --http-proxy-password-file", each.http_proxy_password_file),
            ("the headers of --header-file", each.header_file),
        )
    ]
    for whose, path in dict.fromkeys(secrets):
        if path is not None and open_to_others(path, environ):
            found.append(f"other users can read {whose} in {path}: chmod 600 it")
    for whose, path in dict.fromkeys(
        [
            ("the host keys of --known-hosts", config.known_hosts),
            *(("the CA certificates of --tls-ca", each.tls_ca) for each in config.each_server),
        ]
    ):
        if path is not None and (what := _changeable(path)):
            found.append(f"others can change {whose}, in {path}: chmod go-w {what}")
    proxy = reading.given.get("http-proxy")
    password = proxy is not None and "@" in proxy.text and config.http_proxy_password_file is None
    if proxy is not None and password and proxy.in_environment:
        found.append(
            f"{proxy.where} holds the proxy's password, which others can see with systemctl show, docker inspect or "
            "in /proc: put it into a file, and give that to --http-proxy-password-file"
        )
        password = False
    password = password or any("@" in (each.http_proxy or "") for each in config.servers)
    return found + _of_the_file(config, password)


def _changeable(path: str) -> str:
    """The path whose mode lets others write to a file or replace it; empty: they cannot."""
    for each in (path, os.path.dirname(os.path.abspath(path))):
        try:
            mode = os.stat(each).st_mode
        except OSError:  # it does not exist yet
            continue
        if mode & 0o022 and not mode & stat.S_ISVTX:  # in a directory like /tmp, others cannot replace it
            return each
    return ""


def _of_the_file(config: Config, password: bool) -> list[str]:
    """Exposures of the file of options, which may hold a *password*."""
    path = config.config
    if path is None:
        return []
    try:
        mode = os.stat(path).st_mode
    except OSError:  # it is gone since it was read
        return []
    found = []
    if mode & 0o022:
        found.append(f"others can change {path}, and with it the site's rules: chmod go-w it")
    if mode & 0o044 and password:
        found.append(f"others can read {path}, which may hold the proxy's password: chmod 600 it")
    return found
