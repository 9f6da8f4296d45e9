"""
What a relay tells of itself, made to fit a message.
"""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import InvalidMessage
from relayd.wire.parsing import parse_relay_info
from relayd.wire.relay_info import MAX_INFO, KnownHosts, RelayInfo, RelayLimits
from tests.support.schemas import TO_MAIN_SERVER, fault_of

LIMITS = RelayLimits(
    max_commands=1, max_queue=2, max_sessions=3, max_connections=4, max_output=5, default_timeout=6, max_timeout=7
)


def info(hosts: int = 0, labels: int = 0) -> RelayInfo:
    return RelayInfo(
        version="1",
        uptime=1.5,
        limits=LIMITS,
        features=("cwd",),
        labels={f"key{number}": "ü" * 100 for number in range(labels)},
        hosts=tuple(KnownHosts(patterns=(f"host-{number}.example",)) for number in range(hosts)),
    )


class FitTests(SynchronousTestCase):
    @given(st.integers(0, 3000), st.integers(0, 32), st.integers(0, 2 * MAX_INFO))
    def test_it_fits_and_is_whole_where_it_can_be(self, hosts: int, labels: int, most: int) -> None:
        whole = info(hosts, labels)
        size = len(msgspec.json.encode(msgspec.to_builtins(whole)))
        wire = whole.to_wire(most)
        if wire is None:
            self.assertLess(most, len(msgspec.json.encode(info())) + len(',"truncated":true'))
            return
        self.assertLessEqual(len(msgspec.json.encode(wire)), min(most, MAX_INFO))
        self.assertEqual("truncated" in wire, size > min(most, MAX_INFO))
        self.assertEqual(parse_relay_info(wire), whole if size <= min(most, MAX_INFO) else parse_relay_info(wire))
        self.assertIsNone(fault_of(TO_MAIN_SERVER, "relay_info", wire))

    def test_as_many_hosts_as_half_of_them(self) -> None:
        """Labels stay as long as there are hosts to leave out."""
        wire = info(1000, 3).to_wire(20_000)
        assert wire is not None
        self.assertEqual(len(wire["labels"]), 3)
        self.assertGreater(len(wire["hosts"]), 200)
        self.assertIs(wire["truncated"], True)

    def test_nonsense_at_the_main_server(self) -> None:
        good = info(1, 1).to_wire(10_000)
        assert good is not None
        self.assertEqual(parse_relay_info(good | {"more": 1}), info(1, 1))
        for change in (
            {"version": 1},
            {"limits": None},
            {"labels": []},
            {"hosts": [{"patterns": "x"}]},
            {"features": {}},
        ):
            self.assertIn("relay_info", str(self.assertRaises(InvalidMessage, parse_relay_info, good | change)))
        self.assertRaises(InvalidMessage, parse_relay_info, None)
