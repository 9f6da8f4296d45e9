"""
What main servers that were written for the specification's example meet first at relayd: fields that one of the two
takes and the other does not, the texts of errors, ids that come again, connections.  Every field of each answer is
compared; docs/protocol.rst has the table.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from relayd.wire.messages import COMMAND_RESULT
from tests.peers.test_parity import RELAYS, ParityCase, closed_port
from tests.support.pages import ROOT
from tests.support.schemas import TO_MAIN_SERVER, fault_of, malformed, wrong
from tests.support.sshd import OpenSSHServer

HELLO = ("hello", "", 0)


def failure(text: str) -> tuple[str, str, int]:
    """That with a message: a pattern of all of it."""
    return ("", text, 1)


class Row(Struct, frozen=True):
    """
    One ``execute_command``.

    :ivar fields: those that are not as usual; ``None``: absent.
    :ivar example: stdout, a pattern of stderr, and exitCode; ``None``: no result.
    :ivar relayd: the same of relayd's; by default as the example's.
    """

    name: str
    fields: dict[str, Any]
    example: tuple[str, str, int] | None
    relayd: tuple[str, str, int] | bool | None = True


#: Stands for a field that is not there.
ABSENT = "absent"
PAGE = ROOT / "docs" / "protocol.rst"
REFUSED = "execute_command was refused: "


def refused(text: str) -> tuple[str, str, int]:
    return failure(re.escape(REFUSED + text))


def rows(sshd: OpenSSHServer, closed: int) -> list[Row]:
    """The table, for this server and a port where nobody listens."""
    place = re.escape(f"{sshd.host}:{sshd.port}")
    login = failure("All configured authentication methods failed")
    return [
        # The same
        Row("port as text", {"port": str(sshd.port)}, HELLO),
        Row("no serverId", {"serverId": ABSENT}, HELLO),
        Row("serverId null", {"serverId": None}, HELLO),
        Row("serverId as text", {"serverId": "web-1"}, HELLO),
        Row("commandId as number", {"commandId": 7001}, HELLO),
        Row("a field that nobody knows", {"priority": 3}, HELLO),
        Row("timeout as text", {"timeout": "9000"}, HELLO),
        Row("timeout with a fraction", {"timeout": 9000.5}, HELLO),
        Row("timeout null", {"timeout": None}, HELLO),
        Row("timeout 0", {"timeout": 0}, HELLO),
        Row("host by name", {"host": "localhost"}, HELLO),
        Row("host in capitals", {"host": "LOCALHOST"}, HELLO),
        Row("host as a number", {"host": "2130706433"}, HELLO),
        Row("host in short", {"host": "127.1"}, HELLO),
        Row("key with line ends of Windows", {"privateKey": sshd.key.replace("\n", "\r\n")}, HELLO),
        Row("key without its last line end", {"privateKey": sshd.key.strip()}, HELLO),
        Row("key with blanks around", {"privateKey": f"\n  {sshd.key}\n\n"}, HELLO),
        # relayd takes more
        Row("key with line ends in words", {"privateKey": sshd.key.replace("\n", "\\n")}, failure(".+"), HELLO),
        Row("blanks around host", {"host": f" {sshd.host} "}, failure("getaddrinfo ENOTFOUND .+"), HELLO),
        Row("cwd", {"command": "pwd", "cwd": "/tmp"}, ("/", "", 0), ("/tmp", "", 0)),
        Row("env", {"command": "echo $A", "env": {"A": "1"}}, ("", "", 0), ("1", "", 0)),
        Row("stdin", {"command": "cat", "stdin": "x"}, ("", "", 0), ("x", "", 0)),
        # relayd takes less
        Row("no commandId", {"commandId": ABSENT}, HELLO, None),
        Row("commandId null", {"commandId": None}, HELLO, None),
        Row("commandId empty", {"commandId": ""}, HELLO, None),
        Row("commandId of 300 characters", {"commandId": "x" * 300}, HELLO, None),
        Row("commandId of two lines", {"commandId": "a\nb"}, HELLO, refused("commandId contains a control character.")),
        Row("command empty", {"command": ""}, ("", "", 0), refused("command is empty.")),
        Row("command of blanks", {"command": "  "}, ("", "", 0), refused("command is empty.")),
        Row("host empty", {"host": ""}, HELLO, refused("host is empty.")),
        Row("port 0", {"port": 0}, failure(".+"), refused("port is not a whole number from 1 to 65535.")),
        Row("user with a colon", {"username": f"{sshd.user}:x"}, HELLO, failure(".*username contains : or /.*")),
        Row("timeout negative", {"timeout": -1}, failure(".*timed out.*"), refused("timeout is negative.")),
        Row("timeout as a word", {"timeout": "soon"}, failure(".*timed out.*"), refused("timeout is not a number.")),
        Row(
            "unspecified address",
            {"host": "0.0.0.0"},
            HELLO,
            failure("This relay's site forbids 0.0.0.0:.+--allow-hosts of the relay.+"),
        ),
        Row(
            "link-local address",
            {"host": "fe80::1"},
            failure("(?!.*forbids).+"),
            failure("This relay's site forbids .*fe80::1.*:.+link-local.+--allow-hosts of the relay.+"),
        ),
        # Texts
        Row(
            "nobody listens",
            {"port": closed},
            failure(f"connect ECONNREFUSED .+:{closed}"),
            failure(rf".+:{closed} refused the connection\..+"),
        ),
        Row(
            "name that does not exist",
            {"host": "nowhere.invalid"},
            failure("getaddrinfo (ENOTFOUND|EAI_AGAIN) nowhere.invalid"),
            failure("The name nowhere.invalid cannot be resolved.+|.*nowhere.invalid.*"),
        ),
        Row(
            "wrong password", {"password": "x", "privateKey": None}, login, failure(f"{place} refused the login of .+")
        ),
        Row("no such user", {"username": "relayd-nobody"}, login, failure(f"{place} refused the login of .+")),
        Row(
            "a text that is no key",
            {"privateKey": "secret"},
            failure("Cannot parse privateKey: .+"),
            failure("The private key for .+ cannot be used: .+"),
        ),
        Row("no credential", {"privateKey": None}, failure(".+"), failure("The command has neither password nor .+")),
        Row("no host", {"host": ABSENT}, failure("Either config.host or .+"), refused("host is missing.")),
        Row(
            "no command", {"command": ABSENT}, failure("command must be a valid string"), refused("command is missing.")
        ),
        Row(
            "no username",
            {"username": ABSENT},
            failure("config.username must be a valid string"),
            refused("username is missing."),
        ),
    ]


class DifferenceTests(ParityCase):
    """A main server that asks for no acknowledgements, as the specification's."""

    timeout = 240
    _number = 0

    def fields(self, relay: str, **changes: Any) -> dict[str, Any]:
        """The data of a command, with a ``serverId`` and a ``commandId`` of its own."""
        self._number += 1
        data = {
            "commandId": f"{relay}-{self._number}",
            "serverId": 1000 + self._number,
            "host": self.sshd.host,
            "port": self.sshd.port,
            "username": self.sshd.user,
            "privateKey": self.sshd.key,
            "command": "echo hello",
            **changes,
        }
        return {name: value for name, value in data.items() if value != ABSENT}

    async def tell(self, relay: str, data: dict[str, Any], **more: Any) -> list[tuple[str, str, int]]:
        """Its results, which have the fields of the specification and no others."""
        _, results = await self.main_server.tell(relay, wrong(data), **more)
        for answer in results:
            self.assertEqual(answer.get("commandId"), data.get("commandId"))
            self.assertEqual(set(answer["result"]), {"stdout", "stderr", "exitCode"})
        return [(each["result"]["stdout"], each["result"]["stderr"], each["result"]["exitCode"]) for each in results]

    async def test_fields(self) -> None:
        """Each row: both do as the table says."""
        table = rows(self.sshd, closed_port())
        self.assertEqual([name for name, times in Counter(row.name for row in table).items() if times > 1], [])
        self.assertGreaterEqual(len(table), 30)
        faults = []
        for row in table:
            for relay in RELAYS:
                wanted = row.example if relay == "example" or row.relayd is True else row.relayd
                data = self.fields(relay, **row.fields)
                more = {"count": 1} if wanted else {"timeout": 1.0}
                if relay == "example" and row.relayd is None:
                    self.expect_odd_id(data, row.example)
                got = await self.tell(relay, data, **more)
                if not self.fits(got, wanted):
                    faults.append(f"{row.name}: {relay} gives {got}; the table says {wanted}")
        self.assertEqual(faults, [])

    def expect_odd_id(self, data: dict[str, Any], outcome: Any) -> None:
        """The example gives back any id, also one that its result must not have."""
        stdout, stderr, code = outcome
        answer = {"result": {"stdout": stdout, "stderr": stderr, "exitCode": code}}
        if "commandId" in data:
            answer = {"commandId": data["commandId"], **answer}
        if fault_of(TO_MAIN_SERVER, COMMAND_RESULT, answer) is not None:
            malformed(answer, COMMAND_RESULT, TO_MAIN_SERVER)

    def fits(self, got: list[tuple[str, str, int]], wanted: Any) -> bool:
        if wanted is None or len(got) != 1:
            return not got and wanted is None
        (stdout, stderr, code), (out, pattern, status) = got[0], wanted
        return (stdout, code) == (out, status) and re.fullmatch(pattern, stderr, re.DOTALL) is not None

    async def test_other_differences(self) -> None:
        """Of several commands."""
        await self.check_codes()
        await self.check_same_command_again()
        await self.check_another_command_under_the_same_id()
        await self.check_server_id_again()
        await self.check_lost_connection()

    async def check_codes(self) -> None:
        """Those that docs/protocol.rst names beside the example's texts, in its order."""
        cases: list[dict[str, Any]] = [
            {"port": closed_port()},
            {"host": "nowhere.invalid"},
            {"username": "relayd-nobody"},
            {"privateKey": "secret"},
            {"privateKey": None},
            {"command": "sleep 5", "timeout": 500},
            {"command": ABSENT},
        ]
        codes = []
        for changes in cases:
            data = self.fields("relayd", extended=True, **changes)
            _, (answer,) = await self.main_server.tell("relayd", wrong(data))
            error = answer["result"].get("error") or {}
            codes.append(error.get("code"))
        table = PAGE.read_text("utf-8").partition("     - relayd's code\n")[2]
        self.assertEqual(re.findall(r"^   \* - .+\n     - .+\n     - ``([a-z-]+)``$", table, re.MULTILINE), codes)

    def scratch(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="relayd-parity-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o777)
        return directory

    async def check_same_command_again(self) -> None:
        """The example runs it each time; relayd once, and gives the same result again."""
        counts = {}
        for relay in RELAYS:
            file = self.scratch() / "runs"
            data = self.fields(relay, command=f"echo ran >> {file}; wc -l < {file}")
            answers = [await self.tell(relay, data) for _ in range(2)]
            counts[relay] = [(stdout, code) for ((stdout, _, code),) in answers]
        self.assertEqual(counts, {"example": [("1", 0), ("2", 0)], "relayd": [("1", 0)] * 2})

    async def check_another_command_under_the_same_id(self) -> None:
        """The example runs it; relayd refuses it at once, and the result of the first comes as well."""
        for relay in RELAYS:
            first = self.fields(relay, command="echo begun; sleep 1; echo first")
            both = Deferred.fromCoroutine(self.tell(relay, first, count=2))
            answers = await self.tell(relay, {**first, "command": "echo second"}, count=2)
            self.assertEqual(await both, answers)
            if relay == "example":
                self.assertEqual(sorted(answers), [("begun\nfirst", "", 0), ("second", "", 0)])
            else:
                self.assertEqual([answers[0][::2], answers[1]], [("", 1), ("begun\nfirst", "", 0)])
                self.assertIn("A different command with this commandId was already accepted", answers[0][1])

    async def check_server_id_again(self) -> None:
        """The example goes by it alone, whatever host, user and password the command names; relayd does not."""
        answers = {}
        for relay in RELAYS:
            known = self.fields(relay)
            self.assertEqual(await self.tell(relay, known), [HELLO])
            other = {**known, "commandId": f"{relay}-other", "host": "127.0.0.2", "port": 1, "privateKey": None}
            answers[relay] = await self.tell(relay, {**other, "username": "somebody", "password": "wrong"})
        self.assertEqual(answers["example"], [HELLO])
        ((stdout, stderr, code),) = answers["relayd"]
        self.assertEqual((stdout, code), ("", 1))
        self.assertIn("127.0.0.2:1", stderr)

    async def check_lost_connection(self) -> None:
        """Every further command of that serverId fails in the example; relayd connects again."""
        for relay in RELAYS:
            known = self.fields(relay)
            self.assertEqual(await self.tell(relay, known), [HELLO])
            self.sshd.drop_connections()
            after = [await self.tell(relay, {**known, "commandId": f"{relay}-after-{turn}"}) for turn in range(2)]
            if relay == "relayd":
                self.assertEqual(after, [[HELLO]] * 2)
            else:
                self.assertEqual([code for ((_, _, code),) in after], [1, 1], after)
