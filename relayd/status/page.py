"""
The status page for people: HTML that needs no JavaScript; a small script only keeps it fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from relayd.language.texts import span, tally

_SECTIONS = (("overview", "Overview"), ("hosts", "Hosts"), ("active", "In progress"), ("recent", "Recently ended"))


def make_page(summary: Mapping[str, Any]) -> str:
    """*summary*, from `relayd.status.summary`, as an HTML page.  Whatever others chose is escaped."""
    name = escape(summary["proxyId"])
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in _SECTIONS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}: relayd</title>
<link rel="stylesheet" href="/status.css">
<script src="/status.js" defer></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{name} <small>relayd {escape(summary["version"])}</small></h1>
<nav aria-label="Sections"><ul>{links}<li><a href="/status.json">JSON</a></li><li><a href="/metrics">Metrics</a></li>
</ul></nav>
<p class="fresh"><a href="/status.html">Refresh</a> <label hidden><input type="checkbox" id="live" checked> every 5
seconds</label></p>
</header>
<main id="main" tabindex="-1">
<div id="state" data-live role="status">{_state(summary)}</div>
<section id="overview" aria-labelledby="overview-title"><h2 id="overview-title">Overview</h2>
<div id="cards" class="cards" data-live>{_cards(summary)}</div></section>
{_section("hosts", "Hosts", _hosts(summary))}
{_section("active", "In progress", _active(summary))}
{_section("recent", "Recently ended", _recent(summary))}
</main>
</body>
</html>
"""


def _state(summary: Mapping[str, Any]) -> str:
    if summary["ready"]:
        return '<p class="state good">Ready: the relay accepts and runs commands.</p>'
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in summary["obstacles"])
    return f'<div class="state bad"><p>Not ready:</p><ul>{reasons}</ul></div>'


def _cards(summary: Mapping[str, Any]) -> str:
    uplink, commands, results, journal = (summary[name] for name in ("uplink", "commands", "results", "journal"))
    finished = commands["finished"]
    failed = sum(finished.values()) - finished.get("ok", 0) - finished.get("nonzero", 0)
    accepted = f"accepted ({uplink['dialect']})" if uplink["accepted"] else "not accepted"
    unconfirmed = f"{journal['unconfirmed']:,}"
    if journal["unconfirmed"]:
        unconfirmed += f", the oldest for {span(journal['oldest'])}"
    cards = [
        _card("Main server", {
            "address": uplink["server"],
            **_others(summary["servers"]),
            "state": accepted,
            "for": span(uplink["since"]),
            "losses": f"{uplink['losses']:,}",
            "last error": uplink["lastError"] or "none since",
        }),
        _card("Commands", {
            "running": f"{commands['running']:,} of {commands['maxRunning']:,}",
            "queued": f"{commands['queued']:,} of {commands['maxQueued']:,}",
            "ended": f"{sum(finished.values()):,}",
            "of these, failed": f"{failed:,}",
            "refused": tally(commands["refused"]) or "0",
        }),
        _card("Results", {
            "sent": f"{results['sent']:,}",
            "confirmed": f"{results['confirmed']:,}",
            "unconfirmed": unconfirmed,
            "rejected": f"{results['rejected']:,}",
            "given up": f"{results['givenUp']:,}",
        }),
        _card("This relay", {
            "up for": span(summary["uptime"]),
            "journal": journal["trouble"] or f"{journal['bytes'] / 1e6:,.1f} of {journal['maxBytes'] / 1e6:,.0f} MB",
            "audit log": _audit(summary["audit"]),
            "longest stall": f"{summary['eventLoop']['longestDelay'] * 1000:,.0f} ms",
        }),
    ]  # fmt: skip
    return "".join(cards)


def _others(servers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The main servers that are not in use."""
    others = [each["server"] for each in servers if not each["current"]]
    return {"others": ", ".join(others)} if others else {}


def _audit(audit: Mapping[str, Any] | None) -> str:
    if audit is None:
        return "none"
    return "written" if audit["available"] else "cannot be written"


def _card(title: str, rows: Mapping[str, str]) -> str:
    inside = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return f'<div class="card"><h3>{title}</h3><dl>{inside}</dl></div>'


def _section(anchor: str, title: str, table: str) -> str:
    return f"""<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{title}</h2>
<div class="table" id="{anchor}-table" data-live tabindex="0" role="region" aria-labelledby="{anchor}-title">{table}
</div></section>"""


def _limit(host: Mapping[str, Any]) -> str:
    if host["single"]:
        return "1 in all (learned)"
    return f"{host['limit']:,}" + (" (learned)" if host["learned"] else "")


def _hosts(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            _text(host["host"]),
            _number(f"{host['connections']:,}" + (f" + {host['dialling']:,} connecting" if host["dialling"] else "")),
            _number(f"{host['sessions']:,}"),
            _number(f"{host['waiting']:,}"),
            _number(_limit(host)),
        )
        for host in summary["hosts"]
    ]
    caption = _caption("Hosts with connections or commands", rows, summary["hostsInAll"])
    return _table(caption, ("Host", "#Connections", "#Commands", "#Waiting", "#Limit per connection"), rows)


def _active(summary: Mapping[str, Any]) -> str:
    rows = [(*_who(row), _text(row["state"]), _number(span(row["duration"]))) for row in summary["active"]]
    caption = _caption("Commands running or queued, oldest first", rows, summary["activeInAll"])
    return _table(caption, ("Command", "User", "Host", "State", "#For"), rows)


def _recent(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            *_who(row),
            f'<td><span class="{_mood(row["outcome"])}">{escape(row["outcome"])}</span></td>',
            _number(str(row["exit"])),
            _number(span(row["duration"])),
            _number(f"{span(row['ago'])} ago"),
        )
        for row in summary["recent"]
    ]
    caption = _caption("Commands with a result, latest first", rows, len(rows))
    return _table(caption, ("Command", "User", "Host", "Outcome", "#Exit", "#Took", "#When"), rows)


def _who(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return _text(row["id"]), _text(row["user"]), _text(f"{row['host']}:{row['port']}")


def _mood(outcome: str) -> str:
    return {"ok": "good", "nonzero": "fair"}.get(outcome, "bad")


def _caption(of: str, rows: Sequence[object], in_all: int) -> str:
    shown = f"{len(rows):,} of {in_all:,}" if len(rows) < in_all else f"{in_all:,}"
    return f"{of}: {shown}"


def _table(caption: str, heads: Iterable[str], rows: Sequence[Iterable[str]]) -> str:
    """A table; a head that begins with ``#`` is that of a column of numbers; the cells are HTML."""
    head = "".join(map(_head, heads))
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _head(name: str) -> str:
    if name.startswith("#"):
        return f'<th scope="col" class="number">{name[1:]}</th>'
    return f'<th scope="col">{name}</th>'


def _text(text: str) -> str:
    shown = text if len(text) <= 100 else text[:99] + "…"
    return f"<td><bdi>{escape(shown)}</bdi></td>"


def _number(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'
