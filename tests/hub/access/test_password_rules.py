"""
Tests of `relayd.hub.access.password_rules`: long passwords that are not easily guessed.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.errors import WeakPassword
from relayd.hub.access.password_rules import check_password, is_possible, normalized
from relayd.wire.secret import Secret

GOOD = (
    "correct horse battery staple",
    "kx9-Pm2z qT4w",
    "nur kleine buchstaben",
    "длинный пароль",
    "пример пароля 口令",
    "x" * 4 + "yz!?" + "ab " * 40,
)
WEAK = {
    "elevenchars": "fewer than 12 characters",
    "a    b    c    d": "fewer than 12 characters",
    "x1y2" * 32 + "!": "more than 128 characters",
    "\N{LATIN SMALL LIGATURE FFI}1y2z" * 25: "more than 128 characters",
    "line\nbreak in it": "cannot be printed",
    "nul\0 in the middle": "cannot be printed",
    "abababababab": "fewer than 5 different characters",
    "Justinbieber": "most common",
    "1Q2W3E4R5T6Y": "most common",
    "Alice.Smith1!": "name of the user",
    "smithsmith2026": "name of the user",
    "relayd-relayd-1": "name of this program",
    "abcdefghijkl": "keys in a row",
    "0123456789876": "keys in a row",
    "asdfghjklqwe": "keys in a row",
    "Password2026!": "common password",
    "sunshinesunshine": "common password",
}


class PasswordTests(SynchronousTestCase):
    def test_good_ones(self) -> None:
        for password in GOOD:
            check_password(Secret(password), "alice.smith")

    def test_weak_ones(self) -> None:
        for password, reason in WEAK.items():
            error = self.assertRaises(WeakPassword, check_password, Secret(password), "alice.smith")
            self.assertIn(reason, str(error), password)

    def test_nothing_of_it_is_quoted(self) -> None:
        for password in WEAK:
            error = self.assertRaises(WeakPassword, check_password, Secret(password), "alice.smith")
            self.assertNotIn(password, str(error) + repr(error))

    def test_a_name_of_two_letters_is_in_many_good_ones(self) -> None:
        check_password(Secret("correct horse battery"), "or")

    def test_one_password_from_every_keyboard(self) -> None:
        self.assertEqual(normalized(Secret("u\N{COMBINING DIAERESIS}")), normalized(Secret("ü")))

    def test_what_need_not_be_hashed(self) -> None:
        self.assertTrue(is_possible(Secret("x" * 128)))
        for wrong in ("", "x" * 129, "x" * 10_000_000, "\N{LATIN SMALL LIGATURE FFI}" * 100):
            self.assertFalse(is_possible(Secret(wrong)))
