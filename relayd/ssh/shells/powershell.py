"""
The text for PowerShell: ``powershell -EncodedCommand BASE64``, which cmd.exe and PowerShell read alike, so that it does
not matter which of the two the server's shell is.

Whatever comes from outside is in the script as base64, so that no quotation mark of PowerShell, of which Unicode has
many, can end it.  A script that is too long for a line goes before the standard input of the command.  No I/O here.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from typing import Final

from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.errors import DirectoryUnusable, ShellUnsuitable, SSHError, VariablesRefused
from relayd.ssh.shells.prepared import Order, Prepared, code_page

#: ``InputFormat None``: PowerShell itself leaves standard input alone, for the command. ``OutputFormat Text``: else its
#: errors are XML where they are redirected ("#< CLIXML").
START: Final = "powershell -NoProfile -NonInteractive -InputFormat None -OutputFormat Text -EncodedCommand "
#: Characters in a line that cmd.exe starts it with (8,191), less what is put around it.
_MOST: Final = 8191 - 96
#: What is sent for a long script, with its size.
_FROM_STDIN: Final = (
    "$s=[Console]::OpenStandardInput();$b=New-Object byte[] {size};$i=0;"
    "while($i -lt {size}){{$n=$s.Read($b,$i,{size}-$i);if($n -le 0){{exit 1}};$i+=$n}};"
    ". ([scriptblock]::Create([Text.Encoding]::UTF8.GetString($b)))#{nonce}"
)
#: A second line for a PowerShell that the server starts, which would make 1 of every status other than 0.
_PASS_ON: Final = "\nexit $LASTEXITCODE"
#: After an error of PowerShell itself, or of a program, as Ansible has it: the program's status, else 1.
_STATUS: Final = "\nif(-not $?){if($LASTEXITCODE){exit $LASTEXITCODE};exit 1}"


def prepare(order: Order, *, within: bool = False) -> Prepared:
    """
    Make what is sent.

    :param within: whether the server is known to start PowerShell, and not cmd.exe.
    """
    nonce = secrets.token_hex(8)
    script, stages = _script(order, nonce)
    text = encoded(script)
    stdin = order.stdin
    if len(text) > _MOST:
        data = script.encode()
        text, stdin = encoded(_FROM_STDIN.format(size=len(data), nonce=nonce)), data + stdin
    # The last characters hold the nonce, and nothing else on the host has them.
    return Prepared(
        text=(text + (_PASS_ON if within else "")).encode("ascii"),
        stdin=stdin,
        progress=Progress(f"relayd:{nonce}\n".encode("ascii"), stages),
        ended_by="windows",
        needle=text.rstrip("=")[-32:],
    )


def encoded(script: str) -> str:
    """The line that starts PowerShell with a script."""
    return START + b64encode(script.encode("utf-16-le")).decode("ascii")


def _script(order: Order, nonce: str) -> tuple[str, list[type[SSHError]]]:
    # In two words: see `relayd.ssh.channels.surroundings`.
    tell = f"[Console]::Out.Write('relayd:'+'{nonce}'+[char]10)"
    lines = ["$ProgressPreference='SilentlyContinue'", *_encoding(order.charset), tell]
    stages: list[type[SSHError]] = [ShellUnsuitable]
    place = order.cwd or order.directory
    if place:
        failed = "[Console]::Error.WriteLine($_.Exception.Message)" + (";exit 1" if order.cwd else "")
        lines.append(
            f"try{{Set-Location -LiteralPath {_text(place)} -ErrorAction Stop;"
            f"[Environment]::CurrentDirectory=(Get-Location).ProviderPath}}catch{{{failed}}}"
        )
    if order.cwd:
        lines.append(tell)
        stages.append(DirectoryUnusable)
    if order.env:
        sets = ";".join(f"[Environment]::SetEnvironmentVariable('{name}',{_text(value)})" for name, value in order.env)
        lines += [f"try{{{sets}}}catch{{[Console]::Error.WriteLine($_.Exception.Message);exit 1}}", tell]
        stages.append(VariablesRefused)
    stages.append(ShellUnsuitable)
    lines += [tell, "$global:LASTEXITCODE=0", f". ([scriptblock]::Create({_text(order.command + _STATUS)}))#{nonce}"]
    return "\n".join(lines), stages


def _encoding(charset: str) -> list[str]:
    page = code_page(charset)
    if page is None:
        return []
    made = "New-Object Text.UTF8Encoding $false" if page == 65001 else f"[Text.Encoding]::GetEncoding({page})"
    return [f"$OutputEncoding={made}", "try{[Console]::OutputEncoding=[Console]::InputEncoding=$OutputEncoding}catch{}"]


def _text(text: str) -> str:
    """An expression whose value is *text*."""
    data = b64encode(text.encode()).decode("ascii")
    return f"([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{data}')))"
