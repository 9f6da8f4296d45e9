"""
Which of several main servers a command is from, and to which its result goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import count
from typing import Final

from relayd.interfaces import IJournal, ILink

#: The journal notes the name of each main server under this, followed by a number.
_NOTE: Final = "server {number}"


class Origins:
    """
    The main servers of a relay, as far as results are told apart by them.

    A result goes to the main server that ordered the command; to the first one where that is not known, or is no main
    server of this relay any more.

    :param servers: their names, the first one first. With fewer than two, every result goes to whichever is connected.
    """

    def __init__(self, journal: IJournal, servers: Sequence[str] = ()) -> None:
        self._journal = journal
        self._servers = tuple(servers) if len(servers) > 1 else ()

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Their numbers in the journal, which outlive the process; read once that is open."""
        known: dict[str, int] = {}
        for number in count(1):
            name = self._journal.noted(_NOTE.format(number=number))
            if name is None:
                break
            known[name] = number
        for name in self._servers:
            if name not in known:
                known[name] = number
                self._journal.note(_NOTE.format(number=number), name)
                number += 1
        return {name: known[name] for name in self._servers}

    @cached_property
    def _names(self) -> dict[int, str]:
        return {number: name for name, number in self._numbers.items()}

    def number_of(self, server: str) -> int:
        """The number under which the journal records the main server of a command; 0: it records none."""
        return self._numbers.get(server, 0) if self._servers else 0

    def distinct(self, server: str) -> str:
        """What a fingerprint has of the main server: nothing of the first one, as where there is only one."""
        return server if server in self._servers[1:] else ""

    def name_of(self, number: int) -> str:
        """The main server to which the result of a command goes that is from number *number*; empty: to any."""
        return self._names.get(number, self._servers[0]) if self._servers else ""

    def takes(self, link: ILink, server: str) -> bool:
        """Whether what is for the main server *server* goes over *link*."""
        return not self._servers or self.is_for(server, link.server)

    def is_for(self, server: str, other: str) -> bool:
        """Whether what is for the main server *server* goes to *other*."""
        return not self._servers or (server if server in self._servers else self._servers[0]) == other

    def outstanding(self, server: str) -> int:
        """How many results in the journal are to be sent to the main server *server*."""
        if not self._servers:
            return self._journal.outstanding
        if server != self._servers[0]:
            return self._journal.outstanding_from(self.number_of(server))
        return self._journal.outstanding - sum(map(self.outstanding, self._servers[1:]))
