"""
The open connections of the pool: which `Member` of its plan each of them is, and which jobs run on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from relayd.ssh.channels.channel import ChannelUser
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.members import Member, hops_of


class OpenConnections:
    """
    A table with three columns: connection, member, jobs.

    :ivar members: by connection.
    :ivar by_member: the same the other way round.
    """

    def __init__(self) -> None:
        self.members: dict[ClientConnection, Member[Job]] = {}
        self.by_member: dict[Member[Job], ClientConnection] = {}
        # What runs on each, or is about to; what was withdrawn is not there.
        self._jobs: dict[ClientConnection, dict[ChannelUser, Job]] = {}

    def __bool__(self) -> bool:
        return bool(self.members)

    def add(self, connection: ClientConnection, member: Member[Job]) -> None:
        """*member* is open."""
        self.members[connection] = member
        self.by_member[member] = connection
        self._jobs[connection] = {}

    def remove(self, connection: ClientConnection) -> tuple[Member[Job], dict[ChannelUser, Job]]:
        """*connection* is gone; gives the rest of its row."""
        member = self.members.pop(connection)
        del self.by_member[member]
        return member, self._jobs.pop(connection)

    def farthest_first(self) -> list[ClientConnection]:
        """All of them, those behind jump hosts before those of the jump hosts, through which they pass."""
        return sorted(self.members, key=lambda each: len(hops_of(self.members[each].target)), reverse=True)

    def commands_elsewhere(self, job: Job) -> list[bytes]:
        """What runs on the host of *job*, on other connections than its own."""
        where = job.target.host, job.target.port
        return [
            session.command
            for connection, member in self.members.items()
            if connection is not job.connection and (member.target.host, member.target.port) == where
            for session in connection.executing()
        ]

    # Jobs

    def put(self, job: Job, connection: ClientConnection) -> None:
        """*job* is about to run on *connection*."""
        job.connection = connection
        self._jobs[connection][job.channel] = job

    def take(self, user: ChannelUser, connection: ClientConnection) -> Job | None:
        """The job of *user* runs there no longer; gives it, unless it was withdrawn."""
        jobs = self._jobs.get(connection)
        return None if jobs is None else jobs.pop(user, None)

    def job(self, user: ChannelUser, connection: ClientConnection) -> Job | None:
        """The job of *user*, which runs there, unless it was withdrawn."""
        return self._jobs[connection].get(user)

    def jobs(self, connection: ClientConnection) -> Iterable[Job]:
        """What runs on *connection*."""
        return self._jobs[connection].values()
