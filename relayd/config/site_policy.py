"""
The rules of the site, from its settings.
"""

from __future__ import annotations

from relayd.config.options import Config
from relayd.policy.rules import Policy


def policy_of(config: Config) -> Policy:
    """The rules of the site."""
    return Policy(
        allow_hosts=config.allow_hosts,
        deny_hosts=config.deny_hosts,
        allow_users=config.allow_users,
        allow_commands=config.allow_commands,
        deny_commands=config.deny_commands,
        allow_files=config.allow_files,
        deny_files=config.deny_files,
    )
