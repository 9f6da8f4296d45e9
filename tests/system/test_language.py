"""
``twistd relayd --language zh`` on a real main server and a real sshd: users read Chinese, and the operator English.
"""

from __future__ import annotations

import re
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.support.schemas import wrong
from tests.support.ssh import end_marked_sleeps, marked_sleep
from tests.system.test_end_to_end import EndToEndCase

CHINESE = re.compile("[\u4e00-\u9fff]")


class ChineseEndToEnd(EndToEndCase):
    """Everything that a relay says by itself."""

    async def begin_in_chinese(self, *options: str) -> None:
        await self.begin("socketio_server.js", "--language", "zh", *options)

    async def result_of(self, command_id: str, command: str, **changes: Any) -> dict[str, Any]:
        self.order(command_id, command, **changes)
        return await self.socketio_result(command_id)

    def check_log(self, *phrases: str) -> None:
        self.assertIsNone(CHINESE.search(self.relay.log), self.relay.log)
        for phrase in phrases:
            self.assertIn(phrase, self.relay.log)

    async def test_until_it_stops(self) -> None:
        await self.begin_in_chinese("--deny-commands", "halt")
        self.addCleanup(end_marked_sleeps)
        await self.check_what_works_says_nothing()
        await self.check_an_order_that_is_not_valid()
        await self.check_refusals()
        await self.check_a_command_that_takes_too_long()
        await self.check_output_that_the_link_does_not_take()
        await self.check_what_a_crash_left_unfinished()
        await self.check_refusal_at_the_end()
        self.check_log(
            "execute_command was refused: port is not a whole number from 1 to 65535.", "refused the login of"
        )

    async def check_what_works_says_nothing(self) -> None:
        result = await self.result_of("a1", "echo fine; echo oops >&2")
        self.assertEqual((result["stdout"], result["stderr"], result["exitCode"]), ("fine", "oops", 0))

    async def check_an_order_that_is_not_valid(self) -> None:
        self.server.send({"op": "execute", "ack": True, "data": wrong(self.data("b1", "true", port=0))})
        acknowledged = await self.server.wait_for(lambda line: line.get("ack") == "b1")
        text = "execute_command 被拒绝：port 不是 1 到 65535 的整数。"
        self.assertEqual(acknowledged["answer"], [{"error": text}])
        self.assertEqual((await self.socketio_result("b1"))["stderr"], text)

    async def check_refusals(self) -> None:
        """By the site's policy, and by the host."""
        result = await self.result_of("c1", "halt", extended=True)
        self.assertEqual(result["stderr"], "中介服务所在站点禁止这条命令：中介服务的 --deny-commands 禁止它。")
        self.assertEqual(result["more"]["error"]["code"], "forbidden-command")
        result = await self.result_of("c2", "true", privateKey=None, password="wrong")
        where = f"{self.sshd.host}:{self.sshd.port}"
        self.assertTrue(
            result["stderr"].startswith(f"{where} 拒绝了 {self.sshd.user} 的登录。已尝试的登录方式："), result
        )

    async def check_a_command_that_takes_too_long(self) -> None:
        result = await self.result_of("d1", f"echo so far >&2; {marked_sleep()[1]}", timeout=2000)
        where = f"{self.sshd.host}:{self.sshd.port}"
        self.assertRegex(result["stderr"], f"^so far\n命令在 {where} 上执行超时（2 秒）。(命令已被终止|已要求命令结束)")

    async def check_output_that_the_link_does_not_take(self) -> None:
        result = await self.result_of("e1", "head -c 3000000 /dev/zero | tr '\\0' x")
        self.assertRegex(result["cut"], r"relayd: 此处截去 2,\d{3},\d{3} 字节")

    async def check_what_a_crash_left_unfinished(self) -> None:
        self.order("f1", f"echo begun; {marked_sleep()[1]}", stream=True)
        await self.server.wait_for(lambda line: line.get("output") == "f1")
        await self.relay.signal(signal.SIGKILL)
        self.relay.start()
        result = await self.socketio_result("f1", 60)
        self.assertTrue(result["stderr"].startswith("命令执行期间，中介服务失去了对它的控制"), result)

    async def check_refusal_at_the_end(self) -> None:
        """Because the relay goes."""
        self.order("g1", "sleep 2")
        await self.server.wait_for(lambda line: line.get("ack") == "g1")
        ended = self.relay.signal(signal.SIGTERM)
        while "SIGTERM: running commands have" not in self.relay.log:
            await deferLater(reactor, 0.05)
        result = await self.result_of("g2", "true")
        self.assertEqual(result["stderr"], "中介服务正在停止，不再接受新命令。请过一会儿重新发送。")
        self.assertEqual(await ended, 0)

    async def test_output_that_was_cut(self) -> None:
        """By the relay's own limit; by the link's: above."""
        await self.begin_in_chinese("--max-output", "64K")
        result = await self.result_of("small", "head -c 300000 /dev/zero | tr '\\0' x")
        self.assertEqual(result["cut"], "[relayd: 此处截去 234,464 字节]")
