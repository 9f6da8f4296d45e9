"""
Tests of `relayd.commands.fingerprints`: what makes a command another one.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.fingerprints import Fingerprints
from relayd.wire.messages import Become, ExecuteCommand, Fetch, File, JumpHost, Pty, Script, Secret
from tests.support.dispatching import command


class FingerprintTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked = 0
        self.fingerprints = Fingerprints(self.read_key)

    def read_key(self) -> bytes:
        self.asked += 1
        return b"key"

    def test_key_is_read_once_and_late(self) -> None:
        self.assertEqual(self.asked, 0)
        first, again = (self.fingerprints.fingerprint_of(command()) for _ in range(2))
        self.assertEqual((first == again, len(first), self.asked), (True, 16, 1))
        self.assertNotEqual(Fingerprints(lambda: b"another").fingerprint_of(command()), first)

    def test_what_is_the_same_command(self) -> None:
        """Credentials can change, variables come in any order, and the id is for others to compare."""
        one, other = (command(become=Become(password=Secret(text))) for text in ("old", "new"))
        self.assertEqual(self.fingerprints.fingerprint_of(one), self.fingerprints.fingerprint_of(other))
        hop, changed = (JumpHost(host="gate", username="jump", password=Secret(text)) for text in ("old", "new"))
        same = (
            command("c1", via=(hop,), env=(("A", "1"), ("B", "2"))),
            command("c2", via=(changed,), env=(("B", "2"), ("A", "1")), timeout=5.0, private_key=Secret("key")),
        )
        self.assertEqual(len(set(map(self.fingerprints.fingerprint_of, same))), 1)

    def test_every_field_was_thought_of(self) -> None:
        """Each either makes another command, as below, or does not, as said in docs/protocol.rst."""
        asked = {"host", "written", "port", "username", "command", "cwd", "env", "stdin", "via"}
        asked |= {"pty", "become", "script", "files", "fetch"}
        credentials = {"password", "private_key", "passphrase", "certificate", "host_key"}
        answer = {"command_id", "numeric_id", "server_id", "timeout", "extended", "stream", "encoding", "stdin_is_text"}
        # The main server that ordered it is told apart only where a result goes to that one alone.
        self.assertEqual(set(ExecuteCommand.__struct_fields__), asked | credentials | answer | {"origin"})

    def test_what_is_another_command(self) -> None:
        hop = JumpHost(host="gate", username="jump")
        others = (
            command(),
            command(text="uptime -p"),
            command(host="web2"),
            command(written="web1."),
            command(cwd="/tmp"),
            command(env=(("A", "1"),)),
            command(stdin=b"x"),
            command(via=(hop,)),
            command(pty=Pty()),
            command(pty=Pty(cols=132)),
            command(pty=False),
            command(become=Become()),
            command(become=Become(user="app")),
            command(become=Become(method="su")),
            command(become=False),
            command(script=Script()),
            command(script=Script(interpreter="bash")),
            command(script=Script(args=("x",))),
            command(files=(File(path="/x"),)),
            command(files=(File(path="/y"),)),
            command(files=(File(path="/x", content=b"x"),)),
            command(files=(File(path="/x", mode=0o644),)),
            command(fetch=(Fetch(path="/x"),)),
            command(fetch=(Fetch(path="/x", max_bytes=7),)),
        )
        self.assertEqual(len(set(map(self.fingerprints.fingerprint_of, others))), len(others))
