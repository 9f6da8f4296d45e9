"""
Draws wings.svg, the picture of docs/architecture.rst: ``python docs/images/wings.py``.

The picture has a background of its own, so that it can be read on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_suffix(".svg")

#: From the top: the boxes of a floor, as (name, columns that it takes, what it is). The wings are six columns.
FLOORS = (
    (("__main__", 6, "the command relayd"),),
    (
        ("tap", 2, "twistd's plugin"),
        ("hub_tap", 1, "that of|the hub"),
        ("ctl", 1, "relayctl"),
        ("demo", 2, "everything in one process"),
    ),
    (("service", 3, "joins the parts of a relay"), ("hub", 3, "a main server")),
    (("settings", 3, "from options to each part"), ("status", 3, "what a relay shows of itself")),
    (("", 1, ""), ("ssh_runner", 5, "from commands to SSH, and back")),
    (
        ("ssh_logins", 2, "which credential goes where"),
        ("ssh_texts", 2, "what a host gets"),
        ("ssh_devices", 2, "lines for devices"),
    ),
    (
        ("uplink", 1, "connects to|the main|server"),
        ("commands", 1, "accepts,|queues, runs,|delivers"),
        ("journal", 1, "what must|not be|forgotten"),
        ("audit", 1, "who ordered|what"),
        ("config", 1, "options,|reload"),
        ("ssh", 1, "pooled SSH|connections"),
    ),
    (("policy", 3, "what the site allows"), ("wire.dialects", 3, "how events are framed")),
    (("interfaces", 6, "the seams where the wings meet"),),
    (("wire", 6, "messages, and the validation of what arrives"),),
    (("network", 3, "host names, TLS, flow control"), ("process", 3, "logs, systemd, event loop")),
    (("errors", 6, "one tree: a docstring is the message that a user reads"),),
    (("language", 6, "texts, catalogues, character sets"),),
)
WINGS = 6  # the floor of the wings

COLUMN, GAP, LEFT, TOP, ROW, TALL, SPACE = 84, 20, 84, 56, 40, 92, 7
WIDTH = 2 * LEFT + 6 * COLUMN + 5 * GAP
INK, PALE, LINE, WING, WAY = "#1f2933", "#52606d", "#9aa5b1", "#dbeafe", "#b45309"


def column(number: float) -> float:
    """The left edge of a column."""
    return LEFT + number * (COLUMN + GAP)


def top_of(floor: int) -> float:
    """The upper edge of a floor."""
    return TOP + floor * (ROW + SPACE) + (TALL - ROW if floor > WINGS else 0)


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{LINE}"/>'


def text(x: float, y: float, words: str, *, size: int = 11, fill: str = PALE, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"{weight}>{escape(words)}</text>'


def boxes() -> Iterator[str]:
    """Every floor."""
    for floor, parts in enumerate(FLOORS):
        at = 0
        for name, columns, about in parts:
            width = columns * COLUMN + (columns - 1) * GAP
            x, y, tall = column(at), top_of(floor), floor == WINGS
            at += columns
            if not name:
                continue
            middle = x + width / 2
            yield box(x, y, width, TALL if tall else ROW, WING if tall else "#ffffff")
            yield text(middle, y + (26 if tall else 17), name, size=13, fill=INK, bold=True)
            for number, line in enumerate(about.split("|")):
                yield text(middle, y + (46 if tall else 32) + 14 * number, line)


def arrow(*points: tuple[float, float]) -> str:
    way = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{way}" fill="none" stroke="{WAY}" stroke-width="2.5" marker-end="url(#head)"/>'


def step(number: int, x: float, y: float) -> str:
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="10" fill="{WAY}"/>'
        f'<text x="{x:g}" y="{y + 4:g}" font-size="12" fill="#ffffff" font-weight="bold">{number}</text>'
    )


def way() -> Iterator[str]:
    """The way of a command: main server, uplink, commands, journal; ssh_runner, ssh, host; and back."""
    wings, runner = top_of(WINGS), top_of(4) + ROW
    middle, right = wings + TALL / 2, column(5) + COLUMN
    side, edge = 52, LEFT - 26
    yield box(edge - side, wings, side, TALL, "#ffffff")
    for number, word in enumerate(("main", "server")):
        yield text(edge - side / 2, middle - 3 + 16 * number, word, size=12, fill=INK, bold=True)
    yield box(WIDTH - edge, wings, side, TALL, "#ffffff")
    yield text(WIDTH - edge + side / 2, middle + 5, "host", size=12, fill=INK, bold=True)
    there, back = wings + 16, wings + TALL - 16
    yield from (arrow((edge, there), (LEFT - 2, there)), step(1, LEFT - 13, there - 15))
    yield from (arrow((column(1) - GAP, there), (column(1) - 2, there)), step(2, column(1) - GAP / 2, there - 15))
    yield from (arrow((column(2) - GAP, there), (column(2) - 2, there)), step(3, column(2) - GAP / 2, there - 15))
    up, down = column(1) + COLUMN / 2, column(5) + COLUMN / 2
    yield from (arrow((up, wings), (up, runner + 2)), step(4, up + 18, (wings + runner) / 2))
    yield from (arrow((down, runner), (down, wings - 2)), step(5, down + 18, (wings + runner) / 2))
    yield from (arrow((right, there), (WIDTH - edge - 2, there)), step(6, right + 13, there - 15))
    yield from (arrow((column(1), back), (column(1) - GAP + 2, back)), step(7, column(1) - GAP / 2, back + 15))
    yield from (arrow((LEFT, back), (edge + 2, back)), step(8, LEFT - 13, back + 15))


def draw() -> str:
    """The picture."""
    height = top_of(len(FLOORS) - 1) + ROW + 20
    title = "The parts of relayd: each imports only what stands below it. The numbers are the way of a command."
    body = "\n".join((text(WIDTH / 2, 32, title, size=13, fill=INK), *boxes(), *way()))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"
 font-family="system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif" text-anchor="middle">
<title>{title}</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="{WAY}"/></marker></defs>
<rect width="{WIDTH}" height="{height:g}" rx="10" fill="#f5f7fa"/>
{body}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
