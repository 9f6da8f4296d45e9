"""
relayd.process.environment_files, held against what systemd itself reads.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.process.environment_files import variables_in

#: A file with all that the format has.
EXAMPLE = r"""# a comment = not one \
still=the comment
; another
A=plain text with 'quotes' inside
  B = leading and trailing blanks   
C="double \"quotes\" \$ \n and a
second line"
D='single \ quotes'
E='two'" parts"
F=escaped\ blank\
 and more
G=
no assignment
H=x # no comment
1I=not a name
J="open" end
K=a
K=b
L=\#x
"""  # noqa: W291
#: What systemd 252 made of it: a unit with this EnvironmentFile printed its variables.
SYSTEMD = {
    "A": "plain text with 'quotes' inside",
    "B": "leading and trailing blanks",
    "C": 'double "quotes" $ \\n and a\nsecond line',
    "D": "single \\ quotes",
    "E": "two parts",
    "F": "escaped blank and more",
    "G": "",
    "H": "x # no comment",
    "J": "openend",
    "K": "b",
    "L": "#x",
}


class VariablesTests(SynchronousTestCase):
    """What a file sets."""

    def test_as_systemd_reads_it(self) -> None:
        self.assertEqual(variables_in(EXAMPLE), SYSTEMD)

    def test_nothing(self) -> None:
        self.assertEqual(variables_in(""), {})
        self.assertEqual(variables_in("\n#RELAYD_X=1\n"), {})

    def test_what_is_left_open(self) -> None:
        self.assertEqual(variables_in('A="open\nB=1'), {"A": "open\nB=1"})

    def test_nul(self) -> None:
        """It ends the file for systemd; no variable can hold one."""
        self.assertEqual(variables_in("A=1\nB=b\0c\nC=1\n"), {"A": "1", "B": "b"})
