"""
Whether a file that holds a secret is for this user alone.
"""

from __future__ import annotations

import os


def is_exposed(status: os.stat_result) -> bool:
    """
    Whether others may use a file of this user.

    The owner of a file answers for who else may read it, as with OpenSSH: a file of another user is that user's choice.
    """
    return status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)
