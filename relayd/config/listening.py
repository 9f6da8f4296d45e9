"""
What every program of ours does when it listens at a `ListenAddress`, and says when it cannot.
"""

from __future__ import annotations

import os
import socket
import stat
from errno import EACCES, EADDRINUSE, ENOENT, EPERM, EROFS

from relayd.config.listen_address import ListenAddress
from relayd.network.descriptors import words_of


def remove_stale(path: str) -> None:
    """Remove the socket that a killed process left; a socket with a listener stays, and so does any other file."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass  # listening says what is wrong


def why_not(address: ListenAddress, error: BaseException | None, program: str = "relayd") -> str:
    """
    Why nobody can listen at *address*, and what to do about it.

    :param program: the one that would.
    """
    error = getattr(error, "socketError", error)
    text = words_of(error, str(error)) if isinstance(error, OSError) else str(error)
    number = error.errno if isinstance(error, OSError) else None
    cure = "; give another address, or stop what listens there (see ss -lntxp)" if number == EADDRINUSE else ""
    if number in (EACCES, EPERM, EROFS, ENOENT) and address.path:
        cure = f"; give a path in a directory that {program}'s user can write to, such as /run/{program} under its unit"
    elif number in (EACCES, EPERM):
        cure = "; give a port from 1024 on"
    return f"cannot listen at {address}: {text}{cure}"
