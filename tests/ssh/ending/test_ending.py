"""
Commands that run out of time: what is left of them on the host, and what the result says of it.
"""

from __future__ import annotations

from relayd.ssh import execution
from relayd.ssh.ending import ending
from relayd.ssh.errors import RunCancelled, RunTimeout
from tests.support.ending import EndingTestCase
from tests.support.ssh import DEADLINE, marked_sleep, processes
from tests.support.sshd import make_key


class EndingTests(EndingTestCase):
    """Against a real sshd."""

    async def test_plain(self) -> None:
        self.be_patient()
        mark, sleep = marked_sleep()
        completed = await self.end(f"cd / ; {sleep}", mark)
        self.assertEqual(completed.killed, "confirmed")
        self.assertIn("none of its processes is left", str(completed.error))

    async def test_children(self) -> None:
        self.be_patient()
        marks, sleeps = zip(*(marked_sleep() for _ in range(3)), strict=True)
        completed = await self.end(f"{sleeps[0]} & ({sleeps[1]}) & {sleeps[2]}; wait", *marks)
        self.assertEqual(completed.killed, "confirmed")

    async def test_ignores_the_first_signal(self) -> None:
        mark, sleep = marked_sleep()
        completed = await self.end(f"trap '' TERM; echo begun; {sleep}; {sleep}", mark)
        self.assertEqual((completed.stdout.text(), completed.killed), ("begun", "unconfirmed"))
        self.assertIn("not known yet", str(completed.error))

    async def test_result_that_is_wanted_soon(self) -> None:
        """It comes before the end is known, as it was ordered, and the command is ended behind its back."""
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        mark, sleep = marked_sleep()
        completed = await self.end(f"trap '' TERM; echo begun; {sleep}; {sleep}", mark, timeout=1.1, grace=0.05)
        self.assertEqual((completed.stdout.text(), completed.killed), ("begun", "unconfirmed"))
        self.assertIn("timed out after 1.1 s", str(completed.error))

    async def test_long_output_takes_its_time(self) -> None:
        """A result that is long is given earlier, so that it arrives when it is wanted."""
        self.patch(execution, "BYTE_TAKES", DEADLINE)
        mark, sleep = marked_sleep()
        completed = await self.end(f"trap '' TERM; echo begun; {sleep}; {sleep}", mark, grace=DEADLINE)
        self.assertEqual((completed.stdout.text(), completed.killed), ("begun", "unconfirmed"))

    async def test_flood(self) -> None:
        """The host cannot send more than it was allowed to: others end by now, too."""
        self.patch(ending, "RESUME_AFTER", DEADLINE)
        self.patch(ending, "KILL_AFTER", 4.0)
        client, target = self.make_client(max_output=1000), self.target(await self.start_server())
        mark, sleep = marked_sleep()
        flood = f"trap '' TERM; yes & {sleep}; {sleep}"
        running = client.run(target, flood.encode(), self.reactor.seconds() + 1.0, grace=0.05)
        await self.until(lambda: processes(mark), "it runs")
        completed = await running
        seen = [0, completed.stdout.total]
        while seen[-1] != seen[-2]:
            await self.sleep(0.2)
            seen.append(completed.stdout.total)
        self.assertGreater(seen[-1], 1000)
        self.assertTrue(processes(mark))
        await self.until(lambda: not processes(mark), "it is gone")

    async def test_flood_where_only_the_server_can_end_it(self) -> None:
        """The server closes the channel when it has sent all: it may, once the command is killed."""
        self.patch(ending, "LEAVE_AFTER", 2 * DEADLINE)
        client, target = self.make_client(max_output=1000), self.target(await self.start_server())
        deadline = self.reactor.seconds() + 1.0
        await client.run(target, b"trap '' TERM; yes", deadline, grace=0.05, shell=False)
        await self.until(lambda: client.counts().sessions == 0, "it is gone")

    async def test_children_that_outlive_their_parent(self) -> None:
        mark, sleep = marked_sleep()
        await self.end(f"(trap '' TERM; {sleep}; {sleep}) >/dev/null 2>&1 & sleep 1000; wait", mark)

    async def test_children_in_a_group_of_their_own(self) -> None:
        self.be_patient()
        mark, sleep = marked_sleep()
        completed = await self.end(f"timeout 2000 {sleep}; true", mark)
        self.assertEqual(completed.killed, "confirmed")

    async def test_only_this_one_of_many_that_look_the_same(self) -> None:
        self.be_patient()
        client, target = self.make_client(), self.target(await self.start_server())
        mark, sleep = marked_sleep()
        await self.run_command(client, target, "true")
        far = self.reactor.seconds() + 60
        running = [client.run(target, sleep.encode(), far) for _ in range(3)]
        await self.until(lambda: len(processes(mark)) == 3, "three run")
        deadline = self.reactor.seconds() + 1.0
        ended = client.run(target, sleep.encode(), deadline)
        await self.until(lambda: len(processes(mark)) == 4, "the fourth runs")
        running += [client.run(target, sleep.encode(), far) for _ in range(3)]
        completed = await ended
        self.assertEqual(completed.killed, "confirmed")
        await self.until(lambda: len(processes(mark)) == 6, "six are left")
        await self.sleep(0.5)
        self.assertEqual(len(processes(mark)), 6)
        self.assertFalse([each for each in running if each.called])
        for each in running:
            each.cancel()
            result = await each
            self.assertIsInstance(result.error, RunCancelled)
        await self.until(lambda: not processes(mark), "all are gone")

    async def test_one_session_a_connection(self) -> None:
        self.be_patient()
        server = await self.start_server("MaxSessions 1")
        mark, sleep = marked_sleep()
        completed = await self.end(f"{sleep} & wait", mark, client=self.make_client(), target=self.target(server))
        self.assertEqual(completed.killed, "confirmed")

    async def test_no_place_left_anywhere(self) -> None:
        """Then the server passes the signals on."""
        server = await self.start_server("MaxSessions 1")
        mark, sleep = marked_sleep()
        client = self.make_client(max_connections=1)
        completed = await self.end(f"{sleep} & wait", mark, client=client, target=self.target(server))
        self.assertEqual(completed.killed, "unconfirmed")

    async def test_ends_by_itself_before_anything_was_done(self) -> None:
        """Then it ended as it would have a moment earlier."""
        self.be_patient()
        server = await self.start_server("MaxSessions 1")
        client, target = self.make_client(max_connections=1), self.target(server)
        mark, sleep = marked_sleep()
        await self.run_command(client, target, "true")
        deadline = self.reactor.seconds() + 1.0
        running = client.run(target, f"{sleep} & echo begun; sleep 3; kill $!; exit 3".encode(), deadline)
        await self.until(lambda: processes(mark), "it runs")
        completed = await running
        self.assertEqual((completed.error, completed.exit.status, completed.killed), (None, 3, None))
        self.assertGreater(self.reactor.seconds(), deadline)

    async def test_host_without_a_shell(self) -> None:
        """Nothing but the command itself is run there."""
        mark, sleep = marked_sleep()
        completed = await self.end(sleep, mark, shell=False)
        self.assertEqual(completed.killed, "unsupported")
        self.assertIn("no way to make sure", str(completed.error))

    async def test_forced_command_is_not_run_again(self) -> None:
        server = await self.start_server()
        mark, sleep = marked_sleep()
        count = self.directory / "count"
        self.directory.chmod(0o777)
        private, public = make_key()
        server.authorize(f'command="echo >> {count}; {sleep}" {public}')
        target = self.target(server, private_key=private)
        client = self.make_client()
        deadline = self.reactor.seconds() + 3.0
        completed = await client.run(target, b"true", deadline)
        self.assertEqual(completed.killed, "unsupported")
        await self.sleep(1)
        self.assertEqual(count.read_text(), "\n")
        self.assertEqual(len(processes(mark)), 1)  # OpenSSH passes no signal to a forced command

    async def test_places_are_free_again(self) -> None:
        client, target = self.make_client(max_connections=1), self.target(await self.start_server())
        marks, sleeps = zip(*(marked_sleep() for _ in range(5)), strict=True)
        deadline = self.reactor.seconds() + 2.0
        running = [client.run(target, sleep.encode(), deadline) for sleep in sleeps]
        for each in running:
            self.assertIsInstance((await each).error, RunTimeout)
        await self.until(lambda: not any(map(processes, marks)), "all are gone")
        await self.until(lambda: client.counts().sessions == 0, "all places are free")
