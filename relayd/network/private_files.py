"""
Files that hold secrets to log in with: whether other users may use them.
"""

from __future__ import annotations

import os


def is_open_to_others(status: os.stat_result) -> bool:
    """
    Whether other users may use a file of this user.

    As in OpenSSH, the owner of a file decides who reads it: root may let the group of this user read one.
    """
    return status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)
