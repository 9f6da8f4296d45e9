"""
The table of SSH servers in ``docs/ssh.rst``: what each is like, as the tests that are named there assert it.

``python -m tests.support.ssh_matrix`` writes the table into the page; ``tests.docs.test_ssh`` compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "ssh.rst"
BEGIN: Final = ".. begin: made from tests/support/ssh_matrix.py\n"
END: Final = ".. end: made from tests/support/ssh_matrix.py\n"
#: Sessions at a time that a client asks for, by default.
MOST: Final = 10


class Row(Struct, frozen=True, kw_only=True):
    """
    One real server.

    :ivar title: what people call it.
    :ivar version: what its version begins with.
    :ivar status: whether it passes on the exit status.
    :ivar killed: what it says of a command that ``TERM`` ended: the signal, the status, or nothing.
    :ivar stdin: whether a command gets its standard input and the end of that; ``False``: not the end; ``None``: the
        program behind it gives commands none.
    :ivar limit: commands that run at a time on one connection, as far as it is learned.
    :ivar single: whether it runs one command on a connection, ever.
    :ivar quiet: whether it has no good answer to a probe, and is silent for several of them.
    :ivar legacy: whether it is reached under that policy alone.
    :ivar note: what else is to be known.
    """

    title: str
    version: str
    status: bool = True
    killed: str | int | None = "TERM"
    stdin: bool | None = True
    limit: int = MOST
    single: bool = False
    quiet: bool = False
    legacy: bool = False
    note: str = ""


class Imitated(Struct, frozen=True):
    """
    A server that is not to be had, as it was described: imitated in memory.

    :ivar test: the method that holds it, in `IMITATED_BY`.
    """

    title: str
    does: str
    relayd: str
    test: str


REAL_BY: Final = "tests.peers.test_field"
IMITATED_BY: Final = "tests.ssh.testing.test_habits"

#: By the name in `tests.support.ssh_peers.KINDS`.
ROWS: Final = {
    "tinysshd": Row(
        title="TinySSH",
        version="SSH-2.0-tinyssh",
        limit=1,
        quiet=True,
        note="ends the connection with its command; answers a probe with ``UNIMPLEMENTED`` alone",
    ),
    "lsh": Row(title="GNU lsh", version="SSH-2.0-lshd-2.1", legacy=True),
    "erlang": Row(
        title="Erlang/OTP ``ssh``",
        version="SSH-2.0-Erlang/",
        status=False,
        killed=0,
        stdin=None,
        note="commands by ``os:cmd``, which has no status: 0 always",
    ),
    "go": Row(title="Go, ``x/crypto/ssh``", version="SSH-2.0-Go", killed=143),
    "gliderlabs": Row(title="Go, ``gliderlabs/ssh``", version="SSH-2.0-Go", killed=0xFFFFFFFF),
    "libssh": Row(
        title="libssh, ``ssh_server.c``",
        version="SSH-2.0-libssh_",
        killed=None,
        stdin=False,
        limit=1,
        single=True,
        note="does not end a command's standard input",
    ),
    "conch": Row(title="Twisted Conch, ``twist conch``", version="SSH-2.0-Twisted"),
    "ssh2": Row(title="ssh2 (Node.js)", version="SSH-2.0-ssh2js", stdin=None),
    "asyncssh": Row(title="asyncssh", version="SSH-2.0-AsyncSSH", stdin=None),
    "paramiko": Row(title="paramiko", version="SSH-2.0-paramiko", killed=143, stdin=None),
}

IMITATED: Final = (
    Imitated(
        "H3C, Huawei",
        "opens one session on a connection, and refuses all others",
        "one command a connection",
        "test_a_second_session_is_refused",
    ),
    Imitated(
        "Cisco IOS, IOS-XR",
        "closes TCP when any session closes",
        "one command at a time; what was under way beside the first is outcome-unknown, once",
        "test_tcp_is_closed_with_any_session",
    ),
    Imitated(
        "the same, after the status",
        "sends the exit status, and closes TCP instead of the session",
        "the status is known",
        "test_tcp_is_closed_after_the_status",
    ),
    Imitated(
        "appliances",
        "do not answer when they are asked for a second session",
        "another connection after 4 to 5 s, then one command at a time",
        "test_one_session_at_a_time",
    ),
    Imitated(
        "Nokia, Alcatel, netopeer2",
        "never answer a probe",
        "TCP tells whether they are there",
        "test_probes_are_not_answered",
    ),
)


def table() -> str:
    """The tables, in reST."""
    lines = [
        f"Each row is a test of ``{REAL_BY}.FieldTests``, which is made from it: ten commands at a time, each once;",
        "standard input; a command that a signal ends; where the server has no good answer to a probe, also a silence",
        "of several probes.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 22 10 16 14 14 24 20",
        "",
    ]
    lines += _row("server", "exit status", "ended by ``TERM``", "standard input", "at a time", "remarks", "test")
    for name, row in ROWS.items():
        lines += _row(
            row.title,
            "yes" if row.status else "no",
            _killed(row.killed),
            {True: "yes", False: "without its end", None: "the tests' program gives none"}[row.stdin],
            f"{row.limit}, one a connection" if row.single else str(row.limit),
            "needs ``--ssh-algorithms legacy``" if row.legacy else row.note,
            f"``test_{name}``",
        )
    lines += [
        "",
        f"Of others there are imitations only, in memory (``{IMITATED_BY}``):",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 18 34 34 26",
        "",
        *_row("server", "what it does", "relayd", "test"),
    ]
    for each in IMITATED:
        lines += _row(each.title, each.does, each.relayd, f"``{each.test}``")
    return "\n".join(lines) + "\n"


def _row(first: str, *others: str) -> list[str]:
    return [f"   * - {first}", *(f"     - {text}".rstrip() for text in others)]


def _killed(said: str | int | None) -> str:
    if said is None:
        return "no status"
    return f"the signal {said}" if isinstance(said, str) else f"status {said}"


def written(page: str) -> str:
    """*page* with the table in it."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
