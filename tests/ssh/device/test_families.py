"""Prompts, questions and pages of devices, as their manuals and public transcripts show them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.device.families import FAMILIES, PAGE, PASSWORD, QUESTION, FamilyName, Prompt, could_be_prompt

PROMPTS: tuple[tuple[FamilyName, bytes, tuple[bytes, ...]], ...] = (
    ("cisco", b"router1>", (b"router1#", b"router1(config)#", b"router1(config-if-range)#")),
    ("cisco", b"RP/0/RP0/CPU0:ios#", (b"RP/0/RP0/CPU0:ios(config)#",)),
    ("huawei", b"<HUAWEI>", (b"[HUAWEI]", b"[~HUAWEI]", b"[*HUAWEI-GigabitEthernet0/0/1]", b"[HUAWEI-aaa]")),
    ("h3c", b"<H3C>", (b"[H3C]", b"[H3C-Vlan-interface1]")),
    ("juniper", b"admin@mx480>", (b"admin@mx480#", b"admin@mx480%")),
    ("mikrotik", b"[admin@MikroTik] > ", (b"[admin@MikroTik] /interface> ", b"[admin@MikroTik] <SAFE>> ")),
    ("generic", b"user@box:~$ ", (b"user@box:~$",)),
)


class PromptTests(SynchronousTestCase):
    def test_known_in_each_mode(self) -> None:
        for family, first, others in PROMPTS:
            self.assertTrue(could_be_prompt(first, FAMILIES[family]), first)
            prompt = Prompt(first, FAMILIES[family])
            self.assertTrue(prompt.is_base(first))
            for other in others:
                self.assertTrue(prompt.matches(other), other)

    def test_others_are_not_taken_for_it(self) -> None:
        for family, first, _ in PROMPTS:
            prompt = Prompt(first, FAMILIES[family])
            for other in (
                b"",
                b"other#",
                first + b"show version",
                b"  " + first,
                b"[confirm]",
                b"Interface: up",
                b"50%",
            ):
                self.assertFalse(prompt.matches(other), (first, other))

    def test_questions_are_no_prompts(self) -> None:
        for line in (
            b"Continue? [Y/N]",
            b"Proceed with reload? [confirm]",
            b"Are you sure (yes/no)? ",
            b"Change now? [Y/N]:",
        ):
            self.assertTrue(QUESTION.search(line), line)
            for family in FAMILIES.values():
                self.assertFalse(could_be_prompt(line, family), line)

    def test_pages(self) -> None:
        for line in (
            b"--More--",
            b" --More-- ",
            b"  ---- More ----",
            b"<--- More --->",
            b"---(more 52%)---",
            b"-- [Q quit|D dump] --",
        ):
            self.assertTrue(PAGE.match(line), line)
        for line in (b"More or less", b"----", b"router#"):
            self.assertFalse(PAGE.match(line), line)

    def test_passwords(self) -> None:
        for line in (b"Password: ", b"Enter password:", b"[sudo] password for x:"):
            self.assertTrue(PASSWORD.search(line), line)


class RefusalTests(SynchronousTestCase):
    def test_what_devices_say(self) -> None:
        said: dict[FamilyName, tuple[bytes, ...]] = {
            "cisco": (
                b"% Invalid input detected at '^' marker.",
                b"% Incomplete command.",
                b"% Unknown command or computer name",
            ),
            "huawei": (b"Error: Unrecognized command found at '^' position.", b"Error:Wrong parameter found."),
            "h3c": (b"% Unrecognized command found at '^' position.", b"% Incomplete command found at '^' position."),
            "juniper": (b"error: command is not valid on the mx480", b"            syntax error.", b"unknown command."),
            "mikrotik": (
                b"bad command name foo (line 1 column 1)",
                b"expected end of command (line 1 column 5)",
                b"failure: already have such",
            ),
        }
        for family, lines in said.items():
            for line in lines:
                self.assertTrue(FAMILIES[family].refused.match(line), (family, line))

    def test_output_is_no_refusal(self) -> None:
        for family in FAMILIES.values():
            for line in (
                b"  5 minute input rate 0 bits/sec, 0% errors",
                b"Input errors: 0",
                b"*Mar  1 00:00:10.123: %SYS-5-CONFIG_I: x",
            ):
                self.assertFalse(family.refused.match(line), line)
