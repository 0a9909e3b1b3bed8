"""Draw what ``latency.py --json FILE`` measured: bars for each model and engine, a panel for each file, as SVG.

    python benchmarks/picture.py benchmarks/results/latency-1.json benchmarks/results/latency-2.json -o docs/latency.svg

Bars are times relative to nbconv's, so that models of 0.2 and of 100 milliseconds fit one scale; the milliseconds stand
beside them."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Report = dict[str, Any]

RESULTS = Path(__file__).resolve().parent / "results"
"""What the picture in docs/ was drawn from."""

COLOURS = {"nbconv": "#0072B2", "onnxruntime": "#E69F00", "openvino": "#009E73", "MNN": "#CC79A7"}
"""Okabe and Ito's palette, which colour-blind readers can tell apart; the four differ in lightness, too."""
NAMES = {"openvino": "OpenVINO"}
INK, FAINT, PAPER = "#1f2328", "#6b7280", "#ffffff"
"""The picture brings its own background: it reads the same on a light page and on a dark one."""
BAR, GAP, LABELS, PANEL, TOP = 9, 9, 116, 480, 92
"""Pixels: a bar's height, the gap between models, the column of names, a panel's width, the head."""
ROOM = 70
"""Pixels right of the scale, for the milliseconds of the longest bars."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="what latency.py --json wrote, a panel each")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the SVG")
    args = parser.parse_args(argv)
    Path(args.out).write_text(picture([read(file) for file in args.files]), encoding="utf-8")
    return 0


def read(file: str | Path) -> Report:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def measured() -> list[Report]:
    """The reports in `RESULTS`, by their number of threads."""
    return sorted((read(file) for file in RESULTS.glob("latency-*.json")), key=lambda report: report["threads"])


def engines(report: Report) -> list[str]:
    """The engines of a report, nbconv first."""
    found = list(report["models"][0]["seconds"])
    return sorted(found, key=lambda name: list(COLOURS).index(name))


def rows(report: Report) -> list[tuple[str, dict[str, float], dict[str, str]]]:
    """(name, time relative to nbconv's by engine, label by engine): a row a model, the geometric mean last."""
    found = []
    for model in report["models"]:
        seconds = model["seconds"]
        relative = {name: seconds[name] / seconds["nbconv"] for name in engines(report)}
        found.append((model["name"], relative, {name: milliseconds(seconds[name]) for name in relative}))
    mean = {name: statistics.geometric_mean([row[1][name] for row in found]) for name in engines(report)}
    return [*found, ("geometric mean", mean, {name: f"{value:.2f} ×" for name, value in mean.items()})]


def milliseconds(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms"


def picture(reports: list[Report]) -> str:
    """The SVG's text."""
    tables = [rows(report) for report in reports]
    longest = max(value for table in tables for row in table for value in row[1].values())
    end = math.ceil(longest * 2) / 2
    height = TOP + max(len(table) * (BAR * len(table[0][1]) + GAP) for table in tables) + 90
    width = PANEL * len(reports)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="11">',
        f"<title>{escape(TITLE)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        text(16, 26, TITLE, size=16, bold=True),
        *legend(engines(reports[0])),
    ]
    for i, (report, table) in enumerate(zip(reports, tables)):
        parts += panel(i * PANEL, report["threads"], table, end)
    lines = about(reports[0])
    parts += [text(16, height - 12 - 15 * k, line, fill=FAINT, size=10) for k, line in enumerate(reversed(lines))]
    parts += ["</svg>"]
    return "\n".join(parts) + "\n"


TITLE = "Time of one inference relative to nbconv’s: shorter bars are faster"


def legend(names: list[str]) -> list[str]:
    parts, x = [], 16
    for name in names:
        parts += [f'<rect x="{x}" y="39" width="12" height="12" fill="{COLOURS[name]}"/>']
        parts += [text(x + 17, 49, NAMES.get(name, name), size=12)]
        x += 34 + 7 * len(name)
    return parts


def panel(left: int, threads: int, table: list, end: float) -> list[str]:
    """One report: names, a scale, bars with their milliseconds."""
    start, length = left + LABELS, PANEL - LABELS - ROOM
    bottom = TOP + len(table) * (BAR * len(table[0][1]) + GAP)
    count = f"{threads} thread" + "s" * (threads > 1)
    parts = [text(start, TOP - 20, count, size=13, bold=True)]
    ticks = 0.5 if end <= 4 else 1.0
    for k in range(round(end / ticks) + 1):
        x = start + length * k * ticks / end
        one = k * ticks == 1
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{bottom}" '
            f'stroke="{INK if one else "#e5e7eb"}" stroke-width="{1.2 if one else 1}"/>'
        )
        parts.append(text(x, bottom + 14, f"{k * ticks:g}", fill=FAINT, anchor="middle"))
    axis = "time ÷ nbconv’s time"
    parts.append(text(start + length, bottom + 30, axis, fill=FAINT, anchor="end"))
    y = TOP
    for name, relative, labels in table:
        middle = y + BAR * len(relative) / 2 + 4
        last = name == "geometric mean"
        parts.append(text(start - 8, middle, name, anchor="end", bold=last))
        for engine, value in relative.items():
            wide = length * value / end
            parts.append(
                f'<rect x="{start}" y="{y}" width="{wide:.1f}" height="{BAR - 1}" fill="{COLOURS[engine]}">'
                f"<title>{escape(f'{name}, {NAMES.get(engine, engine)}: {labels[engine]}')}</title></rect>"
            )
            parts.append(text(start + wide + 4, y + BAR - 1.5, labels[engine], size=9, bold=last, halo=True))
            y += BAR
        y += GAP
    return parts


def text(
    x: float,
    y: float,
    words: str,
    *,
    fill: str = INK,
    size: int = 11,
    anchor: str = "",
    bold: bool = False,
    halo: bool = False,
) -> str:
    """A line of text; a halo keeps it readable on grid lines."""
    more = f' text-anchor="{anchor}"' * bool(anchor) + ' font-weight="600"' * bold
    more += f' stroke="{PAPER}" stroke-width="3" paint-order="stroke"' * halo
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}"{more}>{escape(words)}</text>'


def about(report: Report) -> list[str]:
    """What was measured, on what, with which versions, when: two lines."""
    versions = ", ".join(f"{NAMES.get(name, name)} {version}" for name, version in report["versions"].items())
    note = f". {report['note'].capitalize()}" if report["note"] else ""
    return [
        f"Batch 1, float32, medians of {report['rounds']} rounds, {report['date']}{note}",
        f"{report['machine']}; {versions}",
    ]


def markdown(reports: list[Report]) -> list[str]:
    """The lines of a table of milliseconds and ratios, for docs/benchmarks.md."""
    names = engines(reports[0])
    peers = [name for name in names if name != "nbconv"]
    head, line = "| model |", "|---|"
    for report in reports:
        threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
        head += f" {threads}: nbconv | " + " | ".join(NAMES.get(p, p) for p in peers) + " | best peer ÷ nbconv |"
        line += "--:|" * (len(names) + 1)
    found = [head, line]
    for k, model in enumerate(reports[0]["models"]):
        shape = "×".join(str(d) for d in model["shape"][2:])
        cells = "".join(
            "".join(f" {report['models'][k]['seconds'][name] * 1e3:.2f} |" for name in names)
            + f" {report['models'][k]['best_peer']:.2f} |"
            for report in reports
        )
        found.append(f"| {model['name']}, {shape} |{cells}")
    means = "".join("  |" * len(names) + f" {report['geomean']['best_peer']:.2f} |" for report in reports)
    return [*found, f"| geometric mean |{means}"]


def sentences(reports: list[Report]) -> list[str]:
    """The result in a few lines, for README.md."""
    first, lines = reports[0], []
    peers = " and ".join(NAMES.get(name, name) for name in engines(first) if name != "nbconv")
    for report in reports:
        threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
        best, alone = (f"{report['geomean'][key]:.2f}" for key in ("best_peer", "onnxruntime"))
        lines.append(
            f"With {threads} the faster of {peers} takes {best} times as long as nbconv, onnxruntime alone {alone} times."
        )
    machine = f"{first['machine'].split(',')[0]}, {first['date']}"
    lines.append(f"These are geometric means over {len(first['models'])} models ({machine}).")
    return [*lines, *([f"Measured in {first['note']}."] if first["note"] else [])]


if __name__ == "__main__":
    sys.exit(main())
