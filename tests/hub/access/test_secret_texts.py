"""
Tests of `relayd.hub.access.secret_texts`: ids, tokens and cookies.
"""

from __future__ import annotations

from hashlib import sha256
from http.cookies import SimpleCookie

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.secret_texts import (
    LOOPBACK_COOKIE,
    SECURE_COOKIE,
    csrf_token,
    digest_of_session,
    digest_of_token,
    is_csrf_token,
    may_send_password,
    new_api_token,
    new_session_id,
    no_session_cookie,
    session_cookie,
    session_in_cookies,
    token_in_authorization,
)
from relayd.wire.secret import Secret

ID = Secret("0123456789abcdef" * 4)
TOKEN = Secret("rlh_" + "0123456789abcdef" * 4)


class TextTests(SynchronousTestCase):
    def test_they_are_random_and_scanners_find_tokens(self) -> None:
        self.assertEqual(len({new_session_id() for _ in range(1000)}), 1000)
        self.assertRegex(new_session_id().reveal(), r"\A[0-9a-f]{64}\Z")
        self.assertEqual(len({new_api_token() for _ in range(1000)}), 1000)
        self.assertRegex(new_api_token().reveal(), r"\Arlh_[0-9a-f]{64}\Z")

    def test_digests(self) -> None:
        self.assertEqual(digest_of_session(ID), sha256(ID.reveal().encode()).digest())
        self.assertEqual(digest_of_token(TOKEN), sha256(TOKEN.reveal().encode()).digest())
        for wrong in ("", ID.reveal() + "\n", ID.reveal()[1:], ID.reveal().upper(), TOKEN.reveal(), "x" * 10_000_000):
            self.assertIsNone(digest_of_session(Secret(wrong)))
        for wrong in ("", TOKEN.reveal() + "\n", "RLH_" + ID.reveal(), ID.reveal()):
            self.assertIsNone(digest_of_token(Secret(wrong)))

    def test_a_csrf_token_belongs_to_one_session(self) -> None:
        other = new_session_id()
        token = csrf_token(ID)
        self.assertTrue(is_csrf_token(ID, token))
        self.assertFalse(is_csrf_token(other, token))
        for wrong in (None, "", token[1:], ID.reveal(), "\udcff", "é" * 64):
            self.assertFalse(is_csrf_token(ID, wrong))
        self.assertNotIn(ID.reveal(), token)


class CookieTests(SynchronousTestCase):
    def test_over_tls(self) -> None:
        text = session_cookie(ID, True)
        [morsel] = SimpleCookie(text).values()
        self.assertEqual((morsel.key, morsel.value), (SECURE_COOKIE, ID.reveal()))
        self.assertTrue(morsel.key.startswith("__Host-"))
        self.assertTrue(morsel["secure"] and morsel["httponly"])
        self.assertEqual((morsel["samesite"], morsel["path"], morsel["domain"]), ("Strict", "/", ""))
        self.assertEqual((morsel["max-age"], morsel["expires"]), ("", ""))

    def test_on_loopback(self) -> None:
        [morsel] = SimpleCookie(session_cookie(ID, False)).values()
        self.assertEqual((morsel.key, morsel["secure"]), (LOOPBACK_COOKIE, ""))
        self.assertTrue(morsel["httponly"])
        self.assertEqual((morsel["samesite"], morsel["path"], morsel["domain"]), ("Strict", "/", ""))

    def test_the_end(self) -> None:
        for secure, name in ((True, SECURE_COOKIE), (False, LOOPBACK_COOKIE)):
            [morsel] = SimpleCookie(no_session_cookie(secure)).values()
            self.assertEqual((morsel.key, morsel.value, morsel["max-age"]), (name, "", "0"))
            self.assertEqual(bool(morsel["secure"]), secure)

    def test_read(self) -> None:
        own, other = f"{SECURE_COOKIE}={ID.reveal()}", f"{LOOPBACK_COOKIE}={ID.reveal()}"
        self.assertEqual(session_in_cookies(f"a=b; {own};c=d", True), ID)
        self.assertEqual(session_in_cookies(other, False), ID)
        for header, secure in (
            (own, False),  # a neighbour without TLS can set no cookie that counts over TLS, and the other way round
            (other, True),
            (f"{own}; {own}", True),
            (f"{SECURE_COOKIE}=x", True),
            (f"{SECURE_COOKIE}", True),
            ("", True),
            (";;=;", True),
        ):
            self.assertIsNone(session_in_cookies(header, secure), header)

    def test_where_a_password_may_be_sent(self) -> None:
        self.assertTrue(may_send_password(True, "192.0.2.1"))
        for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
            self.assertTrue(may_send_password(False, address))
        for address in ("192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "localhost", ""):
            self.assertFalse(may_send_password(False, address), address)

    def test_authorization(self) -> None:
        self.assertEqual(token_in_authorization(f"Bearer {TOKEN.reveal()}"), TOKEN)
        self.assertEqual(token_in_authorization(f"bearer  {TOKEN.reveal()} "), TOKEN)
        for wrong in ("", "Bearer", "Basic abc", f"Token {TOKEN.reveal()}", f"Bearer {ID.reveal()}"):
            self.assertIsNone(token_in_authorization(wrong))
