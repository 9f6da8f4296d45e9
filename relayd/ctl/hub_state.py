"""
``relayctl hub init``, ``backup`` and ``rotate-secrets``: what is done to the state of a hub itself, on its machine.
"""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from relayd.ctl.hub_settings import add_options, load_hub
from relayd.hub.config.options import HubConfig

T = TypeVar("T")


def configure_init(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``init``."""
    parser.add_argument("--admin", metavar="NAME", default="admin", help="name of the administrator [%(default)s]")
    parser.add_argument("--password-file", metavar="FILE", help="file with the administrator's password [asked for]")
    add_options(parser)
    parser.set_defaults(act=_init)


def configure_backup(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``backup``."""
    parser.add_argument("file", metavar="FILE", help="the copy; one that exists is replaced")
    add_options(parser)
    parser.set_defaults(act=_backup)


def configure_rotate_secrets(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``rotate-secrets``."""
    parser.add_argument(
        "--remove-old-keys", action="store_true", help="take out the keys that seal nothing any more, instead"
    )
    add_options(parser)
    parser.set_defaults(act=_rotate)


def _init(arguments: argparse.Namespace) -> int:
    config = load_hub(arguments)
    from relayd.config.state_directory import StateDirectory
    from relayd.hub.access.first_administrator import read_new_password

    password = read_new_password(arguments.password_file)
    state = StateDirectory(config.state_dir, "hub")
    state.claim()
    try:
        _run(lambda reactor: _make(reactor, config, arguments.admin, password))
    finally:
        state.release()
    print(f"the hub's state is in {config.state_dir}, and {arguments.admin} is its administrator")
    print(f"keep a copy of {config.secrets_file}: without it, stored credentials are lost")
    print("now: twistd relayd-hub, and then relayctl login URL")
    return 0


async def _make(reactor: Any, config: HubConfig, name: str, password: Any) -> None:
    from relayd.hub.access.access import time_of_day
    from relayd.hub.access.audit import Actor
    from relayd.hub.access.first_administrator import make_first_administrator
    from relayd.hub.access.password_hashes import PasswordHashes
    from relayd.hub.service.parts import audit_of, open_database, sealer_of

    sealer_of(config, make=True)
    audit = audit_of(reactor, config)
    audit.start()
    hashes = PasswordHashes(reactor)
    hashes.start()
    try:
        store = open_database(reactor, config)
        try:
            actor = Actor(f"local:{getpass.getuser()}", "")
            await make_first_administrator(store, hashes, audit, actor, time_of_day, name, password)
        finally:
            await store.close()
    finally:
        hashes.stop()
        await audit.close()


def _backup(arguments: argparse.Namespace) -> int:
    config = load_hub(arguments)
    from relayd.hub.service.parts import place_of
    from relayd.hub.store.backup import back_up

    back_up(place_of(config), os.path.abspath(arguments.file))
    print(f"{arguments.file} is a copy of the database; the keys of {config.secrets_file} are not in it")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    config = load_hub(arguments)
    from relayd.hub.inventory.rotation import remove_old_keys, rotate
    from relayd.hub.inventory.sealing import KeyFile
    from relayd.hub.service.parts import open_database

    file = KeyFile(config.secrets_file, os.environ)

    async def act(reactor: Any) -> int:
        store = open_database(reactor, config)
        try:
            if arguments.remove_old_keys:
                print(f"{await remove_old_keys(store, file)} old keys are removed from {file.path}")
                return 0
            done = await rotate(store, file)
        finally:
            await store.close()
        print(f"{done.anew} secrets are sealed anew, {done.current} were sealed with the newest key already")
        for row in done.lost:
            print(f"no key opens {row}: give that credential its secret again")
        return 1 if done.lost else 0

    return _run(act)


def _run(act: Callable[[Any], Awaitable[T]]) -> T:
    """
    Run something that needs the event loop.

    :raises RelayError: what it raises.
    """
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    outcome: list[T] = []
    failed: list[Exception] = []

    async def run(reactor: Any) -> None:
        try:
            outcome.append(await act(reactor))
        except Exception as error:
            failed.append(error)

    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    except SystemExit as end:
        if end.code:
            raise
    if failed:
        raise failed[0]
    return outcome[0]
