"""
The status as JSON and as HTML.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser

from relayd.commands import stats
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.summary import MOST_ROWS
from relayd.uplink.service import UplinkStatus
from tests.status.test_responses import StatusCase
from tests.support.dispatching import PASSWORD
from tests.support.status import MainServerInUse

TEXT = "canary-text --of a-command"
EVIL = "<script>alert(1)</script>\"'&\x00\u202e"


class PageTests(StatusCase):
    """JSON and HTML."""

    def fill(self, text: str, count: int = 1) -> None:
        for number in range(count):
            self.relay.begin(f"{text}{number}", host=text, text=TEXT)
            self.relay.end(f"{text}{number}", host=text, user=text)
        self.relay.host_counts = [HostCounts(f"{text}{number}:22", 1, 1, 1, 0, 3) for number in range(count)]

    def test_neither_text_nor_secret(self) -> None:
        self.fill("c")
        for path in ("/status", "/status.html", "/metrics"):
            body = self.get(path).body.decode()
            self.assertNotIn(TEXT, body)
            self.assertNotIn(PASSWORD, body)

    def test_what_others_chose_is_escaped(self) -> None:
        self.fill(EVIL)
        self.relay.status = UplinkStatus(last_error=EVIL)
        page = self.get("/status.html").body.decode()
        self.assertNotIn("<script>", page)
        self.assertEqual(page.count("<script"), 1)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;", page)
        self.assertEqual(json.loads(self.get("/status").body)["active"][0]["host"], EVIL)

    def test_several_main_servers(self) -> None:
        """Which one is in use."""
        main, standby = self.relay.servers[0], MainServerInUse("wss://standby.example.com", 7)
        self.relay.servers.append(standby)
        self.relay.current = standby
        document = json.loads(self.get("/status").body)
        self.assertEqual((document["server"], document["uplink"]["server"]), (main.address, standby.address))
        self.assertEqual(
            document["servers"],
            [
                {"server": main.address, "current": False, "attempts": 4},
                {"server": standby.address, "current": True, "attempts": 7},
            ],
        )
        page = self.get("/status.html").body.decode()
        self.assertIn(f"<dt>address</dt><dd>{standby.address}</dd>", page)
        self.assertIn(f"<dt>others</dt><dd>{main.address}</dd>", page)
        metrics = self.get("/metrics").body.decode()
        self.assertIn(f'relayd_uplink_server_current{{server="{standby.address}"}} 1.0', metrics)
        self.assertIn(f'relayd_uplink_server_current{{server="{main.address}"}} 0.0', metrics)
        self.assertIn(f'relayd_uplink_attempts_total{{server="{standby.address}"}} 7.0', metrics)

    def test_half_a_surrogate_pair(self) -> None:
        self.fill("\udc80")
        self.assertEqual(json.loads(self.get("/status").body)["active"][0]["id"], "?0")
        self.assertEqual(self.get("/status.html").code, 200)

    def test_bounds(self) -> None:
        self.fill("c" * 300, MOST_ROWS + 20)
        document = json.loads(self.get("/status").body)
        for rows, count in (("active", "activeInAll"), ("hosts", "hostsInAll")):
            self.assertEqual((len(document[rows]), document[count]), (MOST_ROWS, MOST_ROWS + 20))
        self.assertEqual(len(document["recent"]), stats.RECENT)
        self.assertEqual(document["recent"][0]["id"], "c" * 300 + str(MOST_ROWS + 19))
        self.assertIn("Commands running or queued, oldest first: 100 of 120", self.get("/status.html").body.decode())
        self.assertLess(len(self.get("/status.html").body), 200_000)

    def test_what_was_refused_has_its_codes(self) -> None:
        self.relay.stats.refused.update({"overloaded": 1, "forbidden-host": 4})
        self.assertIn("<dd>4 forbidden-host, 1 overloaded</dd>", self.get("/status.html").body.decode())

    def test_the_page_is_well_formed_and_says_what_its_tables_are(self) -> None:
        self.fill("c", 3)
        checker = _Checker()
        checker.feed(self.get("/status.html").body.decode())
        checker.close()
        self.assertEqual(checker.open, [])
        self.assertEqual(checker.seen["table"], 3)
        self.assertEqual(checker.seen["caption"], 3)
        self.assertEqual(checker.inline, [])


class _Checker(HTMLParser):
    """Every element is closed, and nothing is inline that the Content-Security-Policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag
