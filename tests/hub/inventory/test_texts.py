"""
Inventories as texts: what is written is read back, and what is wrong is said with its line.
"""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.csv_text import read_labels
from relayd.hub.inventory.plans import MAX_TEXT, Defaults, Parsed
from relayd.hub.inventory.texts import (
    READ_FORMATS,
    WRITTEN_FORMATS,
    ReadFormat,
    guessed_format,
    read_inventory,
    write_inventory,
)
from relayd.hub.store.host_records import Host
from tests.support.inventories import HOSTS

HEADER = "name,address,port,user,relays,labels,via,hostKey,credential\r\n"


def said(parsed: Parsed) -> list[tuple[str, int | None, str]]:
    return [(remark.kind, remark.line, remark.text) for remark in parsed.remarks]


class RoundTripTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(HOSTS, max_size=5, unique_by=lambda host: host.name), st.sampled_from(WRITTEN_FORMATS))
    def test_what_is_written_is_read_back(self, hosts: list[Host], form: ReadFormat) -> None:
        text = write_inventory(hosts, form)  # type: ignore[arg-type]  # each format that is written is read
        parsed = read_inventory(text.encode(), form)
        self.assertEqual(parsed.errors, [], text)
        self.assertEqual([planned.host for planned in parsed.hosts], hosts, text)

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.text(max_size=300), st.binary(max_size=300)), st.sampled_from(READ_FORMATS))
    def test_any_text_gives_hosts_or_remarks(self, content: str | bytes, form: ReadFormat) -> None:
        for remark in read_inventory(content, form).remarks:
            self.assertTrue(remark.text.isprintable(), remark)

    @given(st.lists(HOSTS, max_size=3, unique_by=lambda host: host.name))
    def test_no_cell_is_a_formula(self, hosts: list[Host]) -> None:
        """OWASP ASVS 5.0, 1.2.10."""
        for row in csv.reader(io.StringIO(write_inventory(hosts, "csv"), newline="")):
            for cell in row:
                self.assertNotIn(cell[:1], tuple("=+-@\t\r\0＝＋－＠"))

    def test_formats_are_guessed(self) -> None:
        for name, content, form in (
            ("hosts.CSV", "", "csv"),
            ("x.json", "", "json"),
            ("hosts.yml", "", "ansible-yaml"),
            ("hosts.ini", "", "ansible-ini"),
            ("hosts", "# x\n[web]\n", "ansible-ini"),
            ("hosts", "all:\n  hosts:\n", "ansible-yaml"),
            ("hosts", "---\n", "ansible-yaml"),
            ("-", '{"hosts": []}', "json"),
            ("-", "a b\n", None),
        ):
            self.assertEqual(guessed_format(name, content), form, (name, content))


class AnyFormatTests(SynchronousTestCase):
    def test_what_is_not_a_text(self) -> None:
        for form in READ_FORMATS:
            for content, line, words in (
                (b"a\n\xff", 2, "the text is not in UTF-8; save it as UTF-8"),
                ("a\n\nb\0", 3, "the text has a NUL character"),
                ("\n$ANSIBLE_VAULT;1.1;AES256\n6162", 1, "the text is encrypted with Ansible Vault"),
                ("#" * (MAX_TEXT + 1), None, "the text is longer than 8 MiB"),
            ):
                [(kind, at, text)] = said(read_inventory(content, form))
                self.assertEqual((kind, at), ("error", line))
                self.assertIn(words, text)

    def test_defaults_are_for_what_a_text_does_not_say(self) -> None:
        defaults = Defaults(user="ops", relays=("paris",), credential="site")
        parsed = read_inventory('[{"name": "a"}, {"name": "b", "user": "x", "relays": ["oslo"]}]', "json", defaults)
        a, b = (planned.host for planned in parsed.hosts)
        self.assertEqual((a.user, a.relays, a.credential), ("ops", ("paris",), "site"))
        self.assertEqual((b.user, b.relays, b.credential), ("x", ("oslo",), "site"))
        self.assertEqual(parsed.hosts[0].given, {"name"})  # what is there already keeps what it has


class CSVTests(SynchronousTestCase):
    def test_columns_in_any_order_and_spelling(self) -> None:
        for text in (
            "Host Key,NAME,labels,colour\r\n,web1,env=prod; web,red\r\n",
            '\ufeffname;host_key;labels\nweb1;;"env=prod,web"\n',
            "labels\tname\n web ;env = prod\tweb1\n",
        ):
            parsed = read_inventory(text, "csv")
            [planned] = parsed.hosts
            self.assertEqual((planned.host.name, planned.host.labels), ("web1", {"env": "prod", "web": ""}))
            self.assertEqual((planned.line, planned.host.address), (2, "web1"))
        self.assertIn('the column "colour" is left out', said(read_inventory("name,colour\n", "csv"))[0][2])

    def test_lines_are_those_of_the_text(self) -> None:
        text = 'name,labels\n\n"web1","a=1;\n b=2"\nweb 2,\nweb3,"=x"\nweb1,\n'
        parsed = read_inventory(text, "csv")
        self.assertEqual([planned.line for planned in parsed.hosts], [3])
        self.assertEqual([line for _, line, _ in said(parsed)], [5, 6, 7])
        self.assertIn("web1 is here twice; it is in line 3 first", said(parsed)[2][2])

    def test_what_is_wrong(self) -> None:
        for text, line, words in (
            ("", None, "the text is empty"),
            ("a,b\n1,2\n", 1, "no column is named name"),
            ("name,Name\n", 1, "the field name has two columns"),
            ('name\n"a', 2, "is not CSV"),
            ("name,port\na,22,x\n", 2, "has 3 cells, and the first line has 2"),
            ("name,port\na,ssh\n", 2, "port is not a number"),
            ("name,address\na,b:22\n", 2, "address names a port too"),
            ("name,via\na,b c\n", 2, 'via "b c" is not of the form'),
            ("name,credential\na,b c\n", 2, 'credential "b c" has other characters'),
            ("name,relays\na,b;b\n", 2, "relays names a relay twice"),
            ("name,hostKey\na,MD5:aa\n", 2, "hostKey is not a fingerprint"),
        ):
            errors = [each for each in said(read_inventory(text, "csv")) if each[0] == "error"]
            self.assertEqual(errors[0][1], line, text)
            self.assertIn(words, errors[0][2])

    def test_labels(self) -> None:
        for text, labels in (
            ("", {}),
            (" ; ,", {}),
            ('note="a; b, c = d";web', {"note": "a; b, c = d", "web": ""}),
            ("a=b=c", {"a": "b=c"}),
            ("a;a", None),
            ('a="b', None),
            ('a=b"c"', None),
        ):
            self.assertEqual(read_labels(text), labels, text)
        self.assertIsNone(read_labels('a" ' * 20000))


class JSONTests(SynchronousTestCase):
    def test_lines_are_those_of_entries(self) -> None:
        text = '{"note": [1],\n "hosts": [\n\n {"name": "a"},\n {"name": "b c"}, 3,\n{"name": "d", "colour": 1}]}'
        parsed = read_inventory(text, "json")
        self.assertEqual([(planned.host.name, planned.line) for planned in parsed.hosts], [("a", 4)])
        self.assertEqual(
            [(line, words.partition(" ")[0]) for _, line, words in said(parsed)],
            [(5, "name"), (5, "is"), (6, "colour")],
        )

    def test_what_is_wrong(self) -> None:
        for text, words in (
            ("", "[ is missing"),
            ("{}", 'there is no list "hosts"'),
            ("[", "Expecting value"),
            ('[{"name": "a"}', "] is missing"),
            ('[{"name": "a"}] x', "something follows its end"),
            ('{"hosts": [], "hosts": []}', "hosts is there twice"),
            ("[NaN]", "NaN is not JSON"),
            ("[" * 100_000, "it nests too deeply"),
            ('[{"port": ' + "9" * 5000 + "}]", "too many digits"),
            ('[{"name": ["a"]}]', "name is not a text"),
            ('[{"name": "a", "port": {"a": 1}}]', "port is not a number"),
            ('[{"name": "a", "labels": ["x"]}]', "labels is not an object"),
            ('[{"name": "a", "labels": {"in": ""}}]', 'labels "in" is a word of selectors'),
            ('[{"name": "a", "labels": {"x": 1}}]', "labels the value of x is not a text"),
            ('[{"name": "a", "relays": "b"}]', "relays is not a list of names"),
            ('[{"name": "all"}]', 'name "all" is a word of selectors'),
            ('[{"name": "web:22"}]', 'name "web:22" has a colon'),
        ):
            errors = read_inventory(text, "json").errors
            self.assertIn(words, errors[0].text)

    def test_a_public_key_becomes_its_fingerprint(self) -> None:
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB+qq1bD2sUcXEnBxCjqmJzg3JmqwXWsAVpLMyRS4RzP"
        for written in (key, f"web1,10.0.0.1 {key} a comment"):
            [planned] = read_inventory(json.dumps([{"name": "a", "hostKey": written}]), "json").hosts
            self.assertRegex(planned.host.host_key, r"^ssh-ed25519 SHA256:[A-Za-z0-9+/]{43}$")
        for written in (key.replace("ssh-ed25519", "ssh-rsa"), key[:-8], "ssh-ed25519 AAAA"):
            [error] = read_inventory(json.dumps([{"name": "a", "hostKey": written}]), "json").errors
            self.assertIn("hostKey", error.text)
