"""
Tests of `relayd.config.server_tables`: several main servers, and what each has for itself.
"""

from __future__ import annotations

from relayd.config.option import Effect
from relayd.config.reload import compare
from relayd.settings import uplink_settings_of
from tests.config.test_options import ConfigCase


class ServersTests(ConfigCase):
    def tables(self, *rows: str) -> str:
        self.argv["server"] = None
        return "\n".join(f"[[servers]]\n{row}" for row in rows)

    def test_one_option_for_all(self) -> None:
        for config in (
            self.load(server=["wss://a.example", "wss://b.example?x=1,2"]),
            self.load(
                'server = ["wss://a.example", "wss://c.example"]', server=["wss://a.example,wss://b.example?x=1,2"]
            ),
        ):
            self.assertEqual(config.server, ("wss://a.example", "wss://b.example?x=1,2"))
            self.assertEqual([each.url for each in config.each_server], list(config.server))
            self.assertEqual({each.api_key_file for each in config.each_server}, {self.key_file})
        self.argv["server"] = None
        self.assertEqual(len(self.load('server = ["wss://a.example", "wss://b.example"]').each_server), 2)
        self.environ["RELAYD_SERVER"] = "wss://a.example,wss://b.example,wss://c.example"
        self.assertEqual(len(self.load().each_server), 3)

    def test_one_alone_is_itself(self) -> None:
        config = self.load(server="wss://a.example?list=1,2")
        self.assertIs(config.each_server[0], config)
        self.assertEqual(config.url, "wss://a.example?list=1,2")

    def test_each_its_own(self) -> None:
        own, ca, common = self.write("own", "o" * 40), self.write("ca.pem", ""), self.write("common.pem", "")
        config = self.load(
            self.tables(
                'url = "wss://a.example"\napi-key-file = "own"\ntls-ca = "ca.pem"\ndialect = "native"',
                'url = "wss://b.example"\nhttp-proxy = "http://p.example:1"',
            ),
            tls_ca=common,
            http_proxy="http://relay@q.example:2",
            http_proxy_password_file=own,
        )
        first, second = map(uplink_settings_of, config.each_server)
        self.assertEqual((first.server, first.tls_ca, first.dialect), ("wss://a.example", ca, "native"))
        self.assertEqual((second.server, second.tls_ca, second.dialect), ("wss://b.example", common, "auto"))
        self.assertEqual((first.read_api_key().reveal(), len(second.read_api_key().reveal())), ("o" * 40, 40))
        self.assertNotEqual(second.read_api_key().reveal(), "o" * 40)
        self.assertEqual((first.http_proxy, second.http_proxy), ("http://relay@q.example:2", "http://p.example:1"))
        self.assertIsNone(second.read_proxy_password(), "the password is for the other proxy")

    def test_mistakes(self) -> None:
        """Each names the table and the key, and shows nothing that may be a secret."""
        for row, words in (
            ("", "url of [[servers]] number 1 in"),
            ('url = "ftp://x/?s3cret"', "expected a URL like wss://HOST"),
            ('url = "wss://a"\nserver = "x"', '"server" of [[servers]] number 1'),
            ('url = "wss://a"\ntls-ca = "nothing.pem"', "tls-ca of [[servers]] number 1"),
            ('url = "wss://a"\napi-key-file = "nothing"', "api-key-file of [[servers]] number 1"),
            ('url = "wss://a"\nhttp-proxy = "socks://u:s3cret@x"', "http-proxy of [[servers]] number 1"),
            ('url = "ws://a.example"', "would send the API key and all passwords unencrypted"),
            ('url = "wss://a"\n[[servers]]\nurl = "wss://a?x=s3cret"', "url of [[servers]] number 2"),
        ):
            said = self.refusal(self.tables(row))
            self.assertIn(words, said)
            self.assertNotIn("s3cret", said)
        self.argv["server"] = "wss://main.example"
        self.assertIn("[[servers]] tables in", self.refusal('[[servers]]\nurl = "wss://a"'))
        self.assertIn("not only the query differs", self.refusal("", server=["wss://a?x=1", "wss://a?x=2"]))
        self.assertIn("expected a URL", self.refusal("", server=["wss://a", "wss://b#c"]))

    def test_no_secret_in_a_repr(self) -> None:
        config = self.load(self.tables('url = "wss://a?k=s3cret"\nhttp-proxy = "http://u:s3cret@p:1"'))
        self.assertNotIn("s3cret", repr(config.servers))

    def test_reload(self) -> None:
        """What is read at each connection is used at the next one; where the relay dials waits for a restart."""
        self.write("other", "o" * 40)
        old = self.load(self.tables('url = "wss://a"', 'url = "wss://b"'))
        effective, changes = compare(
            old, self.load(self.tables('url = "wss://a"', 'url = "wss://b"\napi-key-file = "other"'))
        )
        self.assertEqual(list(changes.of(Effect.CONNECTION)), ["[[servers]]"])
        self.assertEqual(effective.each_server[1].read_api_key().reveal(), "o" * 40)
        effective, changes = compare(old, self.load(self.tables('url = "wss://b"', 'url = "wss://a"')))
        self.assertEqual(list(changes.of(Effect.RESTART)), ["[[servers]]"])
        self.assertEqual(effective.servers, old.servers)
