"""
relayd.network.credential_rules: ``[USER@]HOST[:PORT]``, alone and as jump hosts.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.credential_rules import Hop, parse_via


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
