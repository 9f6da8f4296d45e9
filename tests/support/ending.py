"""
What the tests of commands that run out of time share.
"""

from __future__ import annotations

from typing import Any

from relayd.ssh import Completed, SSHClient, execution
from relayd.ssh.ending import ending
from relayd.ssh.errors import RunTimeout
from relayd.ssh.target import Target
from tests.support.ssh import DEADLINE, ServerTestCase, processes

#: Seconds within which a command has to be gone from its host.
GONE_WITHIN = 5.0


class EndingTestCase(ServerTestCase):
    """Lets commands on a real sshd run out of time."""

    def be_patient(self) -> None:
        """Wait for the processes to be found and gone, however slow this machine is."""
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        self.patch(ending, "FIND_WITHIN", DEADLINE)
        self.patch(ending, "KILL_AFTER", DEADLINE)
        self.patch(ending, "LEAVE_AFTER", DEADLINE)

    async def end(
        self, command: str, *marks: str, client: SSHClient | None = None, target: Target | None = None, **options: Any
    ) -> Completed:
        """Let *command* run out of time once the processes *marks* are there, and wait until they are gone."""
        if client is None or target is None:
            client, target = self.make_client(), self.target(await self.start_server())
        # So that the time runs while the command does, and not while the connection is opened
        await self.run_command(client, target, "true")
        deadline = self.reactor.seconds() + 1.0
        running = client.run(target, command.encode(), deadline, **options)
        await self.until(lambda: all(processes(mark) for mark in marks), "it runs")
        completed = await running
        self.late = self.reactor.seconds() - deadline
        self.assertIsInstance(completed.error, RunTimeout)
        await self.until(lambda: not any(processes(mark) for mark in marks), "it is gone")
        self.assertLess(self.reactor.seconds() - deadline, GONE_WITHIN + 20)  # generous: the machine may be slow
        return completed
