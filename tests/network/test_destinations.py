"""
relayd.network.destinations: ``[USER@]HOST[:PORT]``, alone and as jump hosts.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.destinations import Hop, parse_via, split_destination


class SplitTests(SynchronousTestCase):
    """`split_destination`."""

    def test_parts(self) -> None:
        for text, parts in (
            ("db", (None, "db", None)),
            ("root@db:2222", ("root", "db", "2222")),
            ("root@corp@db", ("root@corp", "db", None)),
            ("[fd00::1]", (None, "[fd00::1]", None)),
            ("root@[fd00::1]:22", ("root", "[fd00::1]", "22")),
            ("@db:", ("", "db", "")),
        ):
            self.assertEqual(split_destination(text), parts)


class ViaTests(SynchronousTestCase):
    """`parse_via`."""

    def test_several(self) -> None:
        hops = parse_via("jump@Gate:2222, [fe80::1%eth0],inner.")
        self.assertEqual(
            hops,
            (
                Hop("gate", 2222, "jump"),
                Hop("fe80::1", looked_up="fe80::1%eth0"),
                Hop("inner", looked_up="inner."),
            ),
        )
        self.assertEqual(parse_via(",".join(map(str, hops))), hops)
        self.assertEqual(parse_via(""), ())

    def test_mistakes(self) -> None:
        for text in (",", "a,,b", "@a", "a:", "a:0", "a:ssh", "a:99999", "a b", "[::1", "u@", "a/b", "::1", "r:x@a"):
            self.assertRaises(ValueError, parse_via, text)
