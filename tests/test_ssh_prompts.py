"""
What a server's question asks for, in the languages of PAM and in the words of one-time codes.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.prompts import Asks, what_it_asks
from tests.support.pam_words import PAM_QUESTIONS

USER = "alice"

PASSWORD = (
    "Password: ",
    "password:",
    "(alice@host) Password: ",
    "(alice@otp-1.token.example) Password: ",
    "Password for alice@new.example: ",
    "Password for alice: ",
    "alice's password: ",
    "user's password:",
    "LDAP Password",
    "Enter Windows password:",
    "Enter your Kerberos password: ",
    "AD password for CORP\\alice:",
    "Passwd:",
    "Kennwort",
    "Kodeord:",
    "请输入密码",
    "請輸入密碼：",
    "口令:",
    "请输入登录口令：",
    "비밀번호:",
    "First Factor: ",  # SSSD
    "Welcome to new-host\nnewton's password: ",
    "Your password will expire in 3 days.\nPassword: ",
    "alice@host's Passwort:",
    "密码(alice@token):",
    "Password for code.example.org: ",
    "Password [pin-3]: ",
)

SOMETHING_ELSE = (
    "Verification code:",
    "Enter PASSCODE:",
    "请输入动态口令:",
    "请输入动态密码:",
    "請輸入動態密碼：",
    "验证码：",
    "短信密码：",
    "一次性密码:",
    "令牌口令:",
    "ワンタイムパスワード:",
    "일회용 비밀번호: ",
    "Duo two-factor login for alice\n\nEnter a passcode or select one of the following options:\n\n"
    " 1. Duo Push to XXX-XXX-1234\n 2. SMS passcodes\n\nPasscode or option (1-3): ",
    "OTP:",
    "Token",
    "TOTP",
    "Token password:",
    "Password or token:",
    "Password and PIN:",
    "Second factor",
    "Second Factor: ",
    "Second password: ",
    "One-time password (OATH) for `alice': ",
    "otp-md5 97 ke1234 ext\nPassword: ",
    "s/key 97 ke1234\nPassword: ",
    "YubiKey for `alice': ",
    "SMS password:",
    "Password sent to your phone:",
    "Dynamic password:",
    "Challenge:",
    "Password (characters 2 and 5):",
    "SSH key password:",
    "Enter passphrase for key:",
    "Einmalpasswort:",
    "Einmal-Kennwort: ",
    "Mot de passe à usage unique : ",
    "Contraseña de un solo uso: ",
    "Código de verificación:",
    "Senha de uso único: ",
    "Password monouso:",
    "Одноразовый пароль: ",
    "Jednorázové heslo:",
    "Hasło jednorazowe:",
    "Engångslösenord:",
    "login:",
    "Favourite colour?",
    "Are you sure you want to continue connecting (yes/no)?",
    "Password required. Type yes to go on:\n> yes or no? ",
    "> ",
    "",
)


def asks(text: str, *before: str, username: str = USER) -> Asks:
    return what_it_asks(text.encode(), [each.encode() for each in before], username)


class PromptTests(SynchronousTestCase):
    """Each text has its meaning."""

    def test_the_languages_of_pam(self) -> None:
        kinds = (Asks.PASSWORD, Asks.OLD_PASSWORD, Asks.NEW_PASSWORD, Asks.NEW_PASSWORD)
        for language, questions in PAM_QUESTIONS.items():
            for question, kind in zip(questions, kinds, strict=True):
                if question:
                    self.assertIs(asks(question), kind, (language, question))
                    self.assertIs(asks(f"({USER}@host) {question}"), kind, (language, question))

    def test_the_password(self) -> None:
        for text in PASSWORD:
            self.assertIs(asks(text), Asks.PASSWORD, text)

    def test_something_else(self) -> None:
        for text in SOMETHING_ELSE:
            self.assertIs(asks(text), Asks.OTHER, text)

    def test_what_may_be_left_out(self) -> None:
        self.assertIs(asks("Second Factor (optional): "), Asks.OPTIONAL)  # SSSD

    def test_another_password(self) -> None:
        for text in ("New password: ", "Enter new UNIX password: ", "Confirm your password: ", "重新输入新的密码："):
            self.assertIs(asks(text), Asks.NEW_PASSWORD, text)
        for text in ("(current) UNIX password: ", "Old password: ", "現在のパスワード："):
            self.assertIs(asks(text), Asks.OLD_PASSWORD, text)

    def test_what_stands_above(self) -> None:
        self.assertIs(asks("Password: ", "Login", "Enter your one-time password"), Asks.OTHER)
        self.assertIs(asks("Password: ", "请输入动态口令"), Asks.OTHER)
        self.assertIs(asks("Password: ", "", "This system is for authorised use only."), Asks.PASSWORD)
        self.assertIs(asks(": ", "", "Enter your password"), Asks.PASSWORD)
        self.assertIs(asks("", "Password authentication", ""), Asks.PASSWORD)
        self.assertIs(asks("Passcode: ", "Enter your password"), Asks.OTHER)

    def test_a_user_of_any_name(self) -> None:
        for name in ("token", "otp", "code", "nova", "pin-2", "neu"):
            for text in ("Password for {}: ", "{}'s password: ", "Password for '{}': ", "({}@host) Password:"):
                self.assertIs(asks(text.format(name), username=name), Asks.PASSWORD, (name, text))
        self.assertIs(asks("Password: ", username=""), Asks.PASSWORD)

    def test_looked_at_from_the_end(self) -> None:
        self.assertIs(asks("passw" * 200_000 + "ord: "), Asks.PASSWORD)
        self.assertIs(asks("Password: " + "x" * 200_000), Asks.OTHER)

    @given(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=2), st.text(max_size=20))
    def test_anything(self, prompt: bytes, before: list[bytes], username: str) -> None:
        self.assertIsInstance(what_it_asks(prompt, before, username), Asks)

    @given(st.sampled_from(("one-time ", "OTP", "验证码", "Verification code", "PASSCODE")), st.text(max_size=40))
    def test_a_code_is_never_the_password(self, code: str, around: str) -> None:
        self.assertIsNot(asks(f"Password {code}: ", around), Asks.PASSWORD)
        self.assertIsNot(asks("Password: ", around, f"\n{code}\n"), Asks.PASSWORD)
