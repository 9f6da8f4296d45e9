"""
No command ever rides on a connection that another credential opened: a server tells who logged in how, and what ran.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from relayd.ssh import Completed
from relayd.ssh.pool import refused_logins
from relayd.ssh.target import Credential, Target
from tests.support.script import ScriptServer
from tests.support.ssh import ServerTestCase, key_pair
from tests.support.sshd import make_key

SERVER = str(Path(__file__).resolve().parents[1] / "support" / "asyncssh_server.py")
USERS = ("alice", "bob", "carol")
COMMANDS = 300


class Proof(NamedTuple):
    """
    A credential, as the server sees it.

    :ivar shown: the passwords and public keys in it.
    """

    credential: Credential
    shown: frozenset[str]


class RandomPairTests(ServerTestCase):
    """Many users, two hosts, credentials good and bad, that share parts of each other."""

    async def test_no_command_rides_on_a_foreign_login(self) -> None:
        # Most credentials are wrong here: no host shall be spared those that it has not accepted yet.
        self.patch(refused_logins, "HOST_REFUSALS", COMMANDS)
        seed = random.randrange(2**32)
        chance = random.Random(seed)
        keys = [make_key() for _ in range(6)]
        passwords = [f"password {number}" for number in range(6)]
        # Every user has some of the same passwords and keys as the others: a mix-up would not be refused.
        users = {
            user: {"passwords": chance.sample(passwords, 4), "keys": [key[1] for key in chance.sample(keys, 4)]}
            for user in USERS
        }
        config = self.directory / "config.json"
        config.write_text(json.dumps({"host_key": key_pair()[0], "users": users}))
        servers = [ScriptServer([sys.executable, SERVER, str(config)]) for _ in range(2)]
        for server in servers:
            await server.start()
            self.addCleanup(server.stop)

        proofs = [Proof(Credential(password=password), frozenset([password])) for password in passwords]
        for private, public in keys:
            proofs.append(Proof(Credential(private_key=private), frozenset([public])))
            password = chance.choice(passwords)
            proofs.append(Proof(Credential(password=password, private_key=private), frozenset([password, public])))

        client = self.make_client(max_connections=2, max_sessions=4)
        orders: dict[str, tuple[ScriptServer, str, Proof]] = {}
        running: dict[str, Deferred[Completed]] = {}
        for number in range(COMMANDS):
            order = chance.choice(servers), chance.choice(USERS), chance.choice(proofs)
            server, user, proof = order
            command = f"echo {number}"
            orders[command] = order
            target = Target("127.0.0.1", server.port, user, proof.credential)
            running[command] = self.run_command(client, target, command)
            if chance.random() < 0.1:  # some find an open connection, others wait for one
                await self.sleep(0.02)
        ended: dict[str, Any] = {}
        for command, each in running.items():
            ended[command] = await each.addErrback(lambda failure: failure.value)

        ran: dict[str, int] = defaultdict(int)
        for server in servers:
            logins: dict[int, tuple[str, str]] = {}
            tried: dict[int, set[str]] = defaultdict(set)
            for line in server.lines:
                if "tried" in line:
                    tried[line["connection"]].add(line["tried"])
                    if line["good"]:
                        logins[line["connection"]] = line["user"], line["tried"]
                elif "ran" in line:
                    command = line["ran"]
                    ran[command] += 1
                    its_server, user, proof = orders[command]
                    context = f"seed {seed}, {command}"
                    self.assertIs(server, its_server, context)
                    self.assertEqual(logins[line["connection"]][0], user, context)
                    # All that was ever shown on the connection is this command's own; of a key and a password, what
                    # came first and was enough.
                    self.assertLessEqual(tried[line["connection"]], proof.shown, context)
        for command, (_server, user, proof) in orders.items():
            good = not proof.shown.isdisjoint((*users[user]["passwords"], *users[user]["keys"]))
            succeeded = isinstance(ended[command], Completed) and ended[command].stdout.text() == command[5:]
            self.assertEqual((succeeded, ran[command]), (good, int(good)), (seed, command, ended[command]))
        self.assertGreater(sum(ran.values()), COMMANDS // 3)
        self.assertLess(sum(ran.values()), COMMANDS)

    async def test_parts_of_a_credential_are_not_shared(self) -> None:
        # Whoever has the password only must not get in by the key of another, nor the other way round.
        private, public = make_key()
        config = self.directory / "config.json"
        user = {"passwords": [], "keys": [public]}
        config.write_text(json.dumps({"host_key": key_pair()[0], "users": {"alice": user}}))
        server = ScriptServer([sys.executable, SERVER, str(config)])
        await server.start()
        self.addCleanup(server.stop)
        client = self.make_client()

        def target(**parts: str) -> Target:
            return Target("127.0.0.1", server.port, "alice", Credential(**parts))

        done = await self.run_command(client, target(password="wrong", private_key=private), "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        for other in (target(password="wrong"), target(password="wrong", private_key=make_key()[0])):
            await self.failure_of(self.run_command(client, other, "echo stolen"))
        self.assertEqual([line["ran"] for line in server.lines if "ran" in line], ["echo ok"])
