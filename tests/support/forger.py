"""
A process of another user of the host, who gives it any arguments and environment: runs as root, becomes that user.

    python forger.py '{"uid": 1000, "program": "…", "argv": […], "environment": ["A=b", "A=c"]}'
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


def main() -> None:
    """Become the program."""
    told = json.loads(sys.argv[1])
    os.setsid()
    os.setgroups([])
    os.setresgid(told["uid"], told["uid"], told["uid"])
    os.setresuid(told["uid"], told["uid"], told["uid"])
    # os.execve takes no variable twice.
    ctypes.CDLL(None).execve(told["program"].encode(), _array(told["argv"]), _array(told["environment"]))
    raise SystemExit(f"{told['program']} cannot be run")


def _array(texts: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    array = (ctypes.c_char_p * (len(texts) + 1))()
    array[: len(texts)] = [text.encode() for text in texts]
    return array


if __name__ == "__main__":
    main()
