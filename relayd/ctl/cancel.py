"""
``relayctl cancel``: cancels a run, or pauses and resumes it.
"""

from __future__ import annotations

import argparse

from relayd.ctl.client.options import add_hub_options, hub_of
from relayd.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("run_id", metavar="RUN", help="id of the run")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--host", metavar="NAME", help="on this host alone")
    how.add_argument("--pause", action="store_true", help="start nothing more until it is resumed, instead")
    how.add_argument("--resume", action="store_true", help="go on after a pause, instead")
    add_hub_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """
    Ask for it; what runs already ends in its own time.

    :raises ConfigError: for a host that the run does not have.
    """
    from relayd.ctl.client.http import segment
    from relayd.language.texts import printable

    hub, path = hub_of(arguments), f"/runs/{segment(arguments.run_id)}"
    if arguments.host is not None:
        for each in hub.items(f"{path}/invocations"):
            if each.get("host") == arguments.host:
                hub.call("POST", f"/invocations/{segment(str(each['id']))}/cancel", {}, again=True)
                print(f"asked to cancel it on {printable(arguments.host, 100)}")
                return 0
        raise ConfigError(option="--host", reason="the run has no such host; relayctl show lists them")
    verb = "pause" if arguments.pause else "resume" if arguments.resume else "cancel"
    found = hub.call("POST", f"{path}/{verb}", {}, again=True) or {}
    print(f"run {arguments.run_id}: {printable(str(found.get('state') or verb), 40)}")
    return 0
