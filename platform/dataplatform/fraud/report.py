"""A backtest's report as one HTML page that needs nothing else."""

from html import escape
from pathlib import Path
from typing import Any

import msgspec

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem;border-bottom:1px solid #d8dee4;text-align:right}
td:first-child,th:first-child{text-align:left}.changed{background:#fff4d6}svg text{font:12px system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}.big{font-size:1.8rem;font-weight:600}.cards{display:flex;gap:2.5rem}
"""
_LIVE, _TRIED = "#8c959f", "#0969da"


def html_page(report: dict[str, Any]) -> str:
    """The page: what changes, by level, by rule, by day, against labels, and examples."""
    changed = report["changed"]
    cards = "".join(
        f'<div><div class="big">{value}</div>{escape(label)}</div>'
        for value, label in (
            (f"{report['decisions']:,}", "decisions"),
            (f"{changed['decisions']:,}", "change their level"),
            (f"{changed['users']:,}", "people affected"),
            (f"{changed['amount']:,.0f}", "amount affected"),
        )
    )
    parts = [
        f"<h1>Backtest of {escape(report['policy'])}</h1><p>{escape(report['from'][:16])} to {escape(report['to'][:16])}, "
        f"event {escape(report['event'])}</p><div class=cards>{cards}</div>",
        _parameters(report),
        "<h2>From level to level</h2>",
        _table(
            ["live", "tried", "decisions", "people", "amount"],
            [
                [row["live"], row["tried"], f"{row['decisions']:,}", f"{row['users']:,}", f"{row['amount']:,.0f}"]
                for row in report["moves"]
            ],
            [row["live"] != row["tried"] for row in report["moves"]],
        ),
        "<h2>Rules</h2>",
        _bars([(row["rule"], row["live"], row["tried"]) for row in report["rules"]]),
        _table(
            ["rule", "live", "tried", "both", "alone", "undecided", ""],
            [
                [
                    row["rule"],
                    *(f"{row[key]:,}" for key in ("live", "tried", "both", "alone", "unknown")),
                    "never fires" if row["never"] else "always fires" if row["always"] else "",
                ]
                for row in report["rules"]
            ],
        ),
        "<h2>Stopped by day</h2>",
        _bars([(row["day"], row["live_stopped"], row["tried_stopped"]) for row in report["days"]]),
    ]
    if report["overlap"]:
        rows = sorted(report["overlap"], key=lambda row: -row["decisions"])[:20]
        parts += [
            "<h2>Rules that fire together</h2>",
            _table(["rules", "decisions"], [[" and ".join(row["rules"]), f"{row['decisions']:,}"] for row in rows]),
        ]
    if report["labels"]:
        parts.append(_labels(report["labels"]))
    if report["examples"]:
        keys = ["event_id", "user_id", "occurred_at", "amount", "live", "live_score", "tried", "tried_score"]
        parts += [
            "<h2>Examples</h2>",
            _table(
                keys, [[str(row[key]) if row[key] is not None else "" for key in keys] for row in report["examples"]]
            ),
        ]
    body = "\n".join(parts)
    title = escape(f"Backtest of {report['policy']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>{body}</html>\n"
    )


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """`report.json` and `report.html` in a folder, which is made; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    page = folder / "report.html"
    page.write_text(html_page(report), encoding="utf-8")
    return page


def _parameters(report: dict[str, Any]) -> str:
    rows = [[name, str(each["live"]), str(each["tried"])] for name, each in report["parameters"].items()]
    return "<h2>Parameters</h2>" + _table(["parameter", "live", "tried"], rows, [row[1] != row[2] for row in rows])


def _labels(labels: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}%"

    def row(name: str, each: dict[str, Any]) -> list[str]:
        return [
            name,
            str(each["caught"]),
            str(each["false_alarms"]),
            percent(each["precision"]),
            percent(each["recall"]),
        ]

    rows = [row("live", labels["live"]), row("tried", labels["tried"])]
    rows += [row(each["rule"], each) for each in labels["rules"]]
    return (
        f"<h2>Against labels</h2><p>{labels['labelled']:,} labelled, {labels['fraud']:,} of them fraud; labels come "
        f"{labels['mean_delay_hours']:.0f} hours later on average ({labels['longest_delay_hours']} at most); "
        f"{labels['unsettled']:,} events without one are so young that it may still come.</p>"
        + _table(["", "caught", "false alarms", "precision", "recall"], rows)
    )


def _table(head: list[str], rows: list[list[str]], marked: list[bool] | None = None) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{escape(each)}" for each in head)]
    for index, row in enumerate(rows):
        mark = " class=changed" if marked and marked[index] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(each)}" for each in row))
    return "".join(lines) + "</table>"


def _bars(rows: list[tuple[str, int, int]]) -> str:
    """Two bars a row, live above tried."""
    most = max((max(live, tried) for _, live, tried in rows), default=0) or 1
    parts = []
    for index, (name, live, tried) in enumerate(rows):
        top = index * 30
        parts.append(f'<text x="205" y="{top + 16}" text-anchor="end">{escape(name)}</text>')
        for offset, value, color in ((3, live, _LIVE), (14, tried, _TRIED)):
            width = 480 * value / most
            parts.append(f'<rect x="212" y="{top + offset}" width="{width:.1f}" height="9" fill="{color}"/>')
        parts.append(f'<text x="{218 + 480 * max(live, tried) / most:.1f}" y="{top + 17}">{live:,} → {tried:,}</text>')
    height = 30 * len(rows) + 4
    legend = f'<p><span style="color:{_LIVE}">■</span> live <span style="color:{_TRIED}">■</span> tried</p>'
    return f'{legend}<svg width="860" height="{height}" role="img">{"".join(parts)}</svg>'
