"""
What the users of a main server read, in Chinese: nothing is missing, and nothing is said that the English does not say.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd import errors
from relayd.language.catalogues import DIRECTORY, translator
from relayd.language.texts import Text, english, joined, message_template, span
from relayd.ssh.channels.output import OutputBuffer
from relayd.ssh.errors import LoginRefused, LoginResting, RunTimeout
from relayd.uplink.cutting import MARKER_ROOM, marker
from relayd.wire.failure_results import failure_result
from tests.support.catalogue import errors_for_main_servers, extract

ROOT = Path(__file__).resolve().parents[2]
FILE = DIRECTORY / "zh" / "LC_MESSAGES" / "relayd.po"
CHINESE = re.compile("[\u4e00-\u9fff]")


def fields(template: str) -> list[str]:
    """The names in a format string, each as often as it stands there."""
    return sorted(name for _, name, _, _ in Formatter().parse(template) if name is not None)


def catalogue() -> dict[str, str]:
    """The Chinese of each English text."""
    with FILE.open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id}


#: Texts without a word.
_WORDLESS = {
    " and ",
    "; ",
    '"{value}"',
    "{code}: {fields}",
    "{field} {reason}",
    "{path}: {error}",
    "{text} {advice}",
    "{tried} ({remarks})",
}


class CatalogueTests(SynchronousTestCase):
    """The file of translations against the source."""

    def test_it_has_what_the_source_says_and_nothing_else(self) -> None:
        """``make messages`` does away with any difference."""
        found = extract_from_dir(ROOT / "relayd", method_map=[("**.py", extract)])  # type: ignore[list-item]
        source = {message for _path, _line, message, _comments, _context in found}
        self.assertEqual(sorted(source ^ set(catalogue())), [])

    def test_every_error_for_a_main_server_has_a_text(self) -> None:
        known = catalogue()
        kinds = errors_for_main_servers()
        self.assertGreater(len(kinds), 50)
        for kind in kinds:
            text = known.get(message_template(kind.__doc__ or ""), "")
            self.assertRegex(text, CHINESE, kind.__qualname__)
            self.assertRegex(text, "[。}]$", kind.__qualname__)

    def test_every_text_is_translated(self) -> None:
        same = {english for english, chinese in catalogue().items() if not CHINESE.search(chinese)}
        self.assertEqual(same, _WORDLESS)

    def test_fields(self) -> None:
        for template, translation in catalogue().items():
            if fields_of := re.findall(r"\{(\w+)", template):
                self.assertEqual(fields(translation), sorted(fields_of), template)

    def test_what_is_to_be_typed_is_not_translated(self) -> None:
        for template, translation in catalogue().items():
            for word in re.findall(r"--[a-z]+(?:-[a-z]+)+|relayctl \w+|commandId|privateKey|Max[A-Z]\w+", template):
                self.assertIn(word, translation)

    def test_it_is_set_as_chinese_is(self) -> None:
        """Its own signs; a blank beside Latin letters and figures, and none between two Chinese characters."""
        wide = "[\u2018-\u201d\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
        faults = rf"{wide} +{wide}|[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]|[\u4e00-\u9fff][,;:!?()]"
        wrong = [found[0] for text in catalogue().values() for found in re.finditer(f".{{,9}}(?:{faults}).?", text)]
        self.assertEqual(wrong, [])

    def test_the_compiled_file_is_of_this_one(self) -> None:
        with FILE.with_suffix(".mo").open("rb") as file:
            compiled = {str(message.id): str(message.string) for message in read_mo(file) if message.id}
        self.assertEqual(compiled, catalogue())


class TextTests(SynchronousTestCase):
    """Texts within texts."""

    def setUp(self) -> None:
        self.translate = translator("zh")

    def test_english(self) -> None:
        self.assertIs(translator("en"), english)
        error = errors.Overloaded(running=3, queued=4)
        self.assertEqual(error.text.within(english), str(error))

    def test_an_error_and_its_reason(self) -> None:
        error = errors.ForbiddenHost(host="db", port=22, reason=Text("--deny-hosts of the relay forbids it"))
        self.assertEqual(str(error), "This relay's site forbids db:22: --deny-hosts of the relay forbids it.")
        self.assertEqual(
            failure_result("c", error, translate=self.translate).stderr,
            "中介服务所在站点禁止连接 db:22：中介服务的 --deny-hosts 禁止它。",
        )

    def test_an_error_within_an_error(self) -> None:
        tried = joined(["publickey", Text("password")], Text(" and "))
        refused = LoginRefused(host="db", port=22, username="u", tried=tried, offered="publickey")
        resting = LoginResting(host="db", port=22, username="u", reason=refused.text, time=span(5))
        self.assertIn("tried publickey and password; the server offers publickey.", str(resting))
        said = resting.text.within(self.translate)
        ways = "已尝试的登录方式：publickey、密码（password）；服务器给出的登录方式：publickey。"
        self.assertTrue(said.startswith(f"db:22 拒绝了 u 的登录。{ways}"), said)
        self.assertTrue(said.endswith("5 秒内不再尝试这一登录。"), said)

    def test_what_a_host_says_stays_as_it_is(self) -> None:
        """Even where it is a text that relayd has too, and where it looks like a template."""
        for word in ("password", "{seconds}"):
            error = LoginRefused(host="db", port=22, username=word, tried=word, offered="")
            self.assertIn(f"拒绝了 {word} 的登录。已尝试的登录方式：{word}；", error.text.within(self.translate))

    def test_markers(self) -> None:
        output = OutputBuffer(10)
        output.append(b"x" * 1010)
        self.assertIn("[relayd: 此处截去 1,000 字节]", output.taken().text(self.translate))
        self.assertIn("[relayd: 此处截去 1,000 字节]", output.taken().raw(self.translate).decode())
        self.assertIn("[relayd: 1,000 bytes cut here]", output.text())

    def test_markers_fit_where_room_was_left_for_them(self) -> None:
        for language in ("en", "zh"):
            text = marker(2**40, translator(language))
            self.assertLess(len(text.encode()) + text.count("\n"), MARKER_ROOM)


class SpanTests(SynchronousTestCase):
    """Lengths of time."""

    def test_as_people_say_them(self) -> None:
        for seconds, words in {
            -1: "0 s",
            0: "0 s",
            1e-7: "less than 1 ms",
            0.0001: "less than 1 ms",
            0.000890838: "1 ms",
            0.0154: "15 ms",
            0.25: "0.25 s",
            0.5: "0.5 s",
            1.5: "1.5 s",
            40: "40 s",
            39.9966: "40 s",
            90: "90 s",
            90.5: "90.5 s",
            99.99: "100 s",
            120: "2 min",
            306: "5 min 6 s",
            3599.7: "1 h",
            3600: "1 h",
            3659: "1 h 1 min",
            5400: "1 h 30 min",
            86369: "23 h 59 min",
            86399: "1 d",
            86400: "1 d",
            86400.25: "1 d",
            1e8: "1157 d 10 h",
        }.items():
            self.assertEqual(span(seconds), words)

    def test_in_another_language(self) -> None:
        chinese = translator("zh")
        self.assertEqual(span(40).within(chinese), "40 秒")
        self.assertEqual(span(306).within(chinese), "5 分 6 秒")
        self.assertEqual(span(0.0001).within(chinese), "不到 1 毫秒")
        self.assertIn("（40 秒）", RunTimeout(host="h", port=22, time=span(40), outcome="").text.within(chinese))

    @given(st.floats(0.0005, 1e9))
    def test_no_figure_that_nobody_said(self, seconds: float) -> None:
        """It is never off by more than a hundredth, or half a millisecond, and has few digits."""
        units = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
        words = span(seconds).split()
        said = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
        self.assertLessEqual(abs(said - seconds), max(0.0006, seconds / 100))
        self.assertLess(max(len(word) for word in words), 6)
