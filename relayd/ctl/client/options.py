"""
The options by which every subcommand for people finds its hub.
"""

from __future__ import annotations

import argparse
import os
from typing import Final

from relayd.ctl.client.errors import NoLogin
from relayd.ctl.client.http import Hub, read_url
from relayd.ctl.client.logins import Login, Logins, path_of
from relayd.errors import ConfigError
from relayd.wire.secret import Secret

#: The exit status of a mistake on the command line.
MISTAKE: Final = 2


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that lead to a hub."""
    group = parser.add_argument_group("hub")
    group.add_argument("--hub", metavar="URL", help="hub to use [the one logged in to last]")
    group.add_argument("--token-file", metavar="FILE", help="file with an API token [that of relayctl login]")
    group.add_argument("--ca", metavar="FILE", help="PEM file of the CA certificates to trust instead of the system's")


def hub_of(arguments: argparse.Namespace) -> Hub:
    """
    The hub that is meant.

    :raises NoLogin: when none is known.
    :raises ConfigError: for a URL or a file that cannot be used.
    """
    url = url_of("--hub", arguments.hub) if arguments.hub is not None else None
    if arguments.token_file is None:
        login = Logins(path_of(os.environ)).find(url)
        return Hub(Login(login.url, login.token, ca_of(arguments.ca) or login.ca))
    if url is None:
        try:
            known = Logins(path_of(os.environ)).find(None)
        except NoLogin:
            raise ConfigError(option="--token-file", reason="needs --hub URL too") from None
        url, ca = known.url, ca_of(arguments.ca) or known.ca
    else:
        ca = ca_of(arguments.ca)
    return Hub(Login(url, token_in(arguments.token_file), ca))


def url_of(option: str, text: str) -> str:
    """
    The URL of a hub.

    :raises ConfigError: when it is none.
    """
    try:
        return read_url(text)
    except ValueError as error:
        raise ConfigError(option=option, reason=f"expected {error}") from None


def ca_of(path: str | None) -> str:
    """
    The path of ``--ca``, absolute; empty without one.

    :raises ConfigError: when there is no such file, or no certificate in it.
    """
    if path is None:
        return ""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # that of ssl is one
        reason = error.strerror if isinstance(error, FileNotFoundError) else "it holds no certificates in PEM"
        raise ConfigError(option="--ca", reason=f"{path} cannot be used: {reason}") from None
    return os.path.abspath(path)


def token_in(path: str) -> Secret:
    """
    The token in a file.

    :raises ConfigError: when it holds none, or others can read it.
    """
    from relayd.config.secret_files import Unusable, open_to_others, read_line

    try:
        token = read_line(path)
    except Unusable as error:
        reason = "; ".join(filter(None, (str(error), error.cure)))
        raise ConfigError(option="--token-file", reason=f"the token cannot be used: {reason}") from None
    if open_to_others(path, os.environ):
        raise ConfigError(option="--token-file", reason="other users can read the file: chmod 600 it")
    return token
