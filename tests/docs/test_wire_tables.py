"""
The tables of messages in docs/protocol.rst against the types of relayd.wire: they have the same fields.
"""

from __future__ import annotations

from functools import cache
from typing import get_args, get_type_hints

import msgspec
from docutils.nodes import document, entry, literal, row, section, table
from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from relayd.wire.messages import CommandOutput, CommandState, Details, Timings
from relayd.wire.parsing import WireCommand
from relayd.wire.policy_answer import PolicyAnswer
from relayd.wire.relay_info import RelayInfo
from tests.docs.test_chinese import tree
from tests.support.pages import ROOT

PAGE = ROOT / "docs" / "protocol.rst"


@cache
def page() -> document:
    """The page, parsed once for all tests; `tree` brings the role ``doc``, which docutils keeps for each process."""
    return tree(PAGE)


def on_the_wire(kind: type[Struct]) -> set[str]:
    """The names that a message of this type has in JSON."""
    return {field.encode_name for field in msgspec.structs.fields(kind)}


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page = page()

    def rows(self, heading: str) -> dict[str, entry]:
        """The tables of a section, by the literal in the first cell of each row: the last cell."""
        (found,) = (each for each in self.page.findall(section) if each[0].astext() == heading)
        cells = [list(each.findall(entry)) for each in found.findall(row)]
        return {name[0].astext(): last for first, *_, last in cells if (name := list(first.findall(literal)))}

    def test_execute_command(self) -> None:
        """The first table of the section: those below it are about parts of it."""
        (found,) = (each for each in self.page.findall(section) if each[0].astext() == "execute_command")
        first = next(each for each in found.findall(table))
        cells = [next(line.findall(entry)) for line in first.findall(row)]
        named = {each.astext() for cell in cells for each in cell.findall(literal)}
        self.assertEqual(named, on_the_wire(WireCommand))

    def test_extended_result(self) -> None:
        """``encoding`` is in every result in base64, and so is described there."""
        self.assertEqual(set(self.rows("Extended results")), on_the_wire(Details) - {"encoding"})

    def test_timings(self) -> None:
        named = {each.astext() for each in self.rows("Extended results")["timings"].findall(literal)}
        self.assertEqual(named, set(Timings.__annotations__))

    def test_command_output(self) -> None:
        """Its own ``numericId`` is never sent."""
        self.assertEqual(set(self.rows("command_output")), on_the_wire(CommandOutput) - {"numericId"})

    def test_states(self) -> None:
        self.assertEqual(set(self.rows("command_status")), {state.value for state in CommandState})

    def test_relay_info(self) -> None:
        self.assertEqual(set(self.rows("relay_info")), on_the_wire(RelayInfo))

    def test_check_command(self) -> None:
        self.assertEqual(set(self.rows("check_command")), on_the_wire(PolicyAnswer))

    def test_killed(self) -> None:
        named = {each.astext() for each in self.rows("Extended results")["killed"].findall(literal)}
        words, _none = get_args(get_type_hints(Details)["killed"])
        self.assertEqual(named - {"cancel_command"}, set(get_args(words)))
