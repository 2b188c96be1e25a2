"""The figures as a picture: one panel a scenario, one bar a contender, the whisker from the least to the most of its rounds."""

from html import escape

import report
from contenders import CONTENDERS

COLUMNS = 2
LABELS, BARS, FIGURES = 170, 260, 60  # pixels: names, the widest bar, what stands behind it
ROW, HEAD, GAP = 20, 34, 24
MOST = 8.0  # times nginx; longer bars are cut
PANEL = LABELS + BARS + FIGURES


def chart(results):
    """An SVG of CPU time of a request over nginx's; less is better."""
    parts, top = [], 30
    scenarios = [(scenario, rounds) for scenario, rounds in results.items() if "nginx" in rounds]
    for start in range(0, len(scenarios), COLUMNS):
        line = scenarios[start : start + COLUMNS]
        for column, (scenario, rounds) in enumerate(line):
            parts += panel(10 + column * (PANEL + GAP), top, scenario, rounds)
        top += HEAD + ROW * max(len(rounds) for _, rounds in line) + GAP
    width = 20 + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    head = text(10, 20, "CPU time of a request over nginx's, which checks nothing; less is better", 'font-weight="bold"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{head}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def panel(left, top, scenario, rounds):
    yield text(left, top + 20, scenario.title, 'font-weight="bold"')
    zero, at = left + LABELS, lambda ratio: left + LABELS + min(ratio, MOST) / MOST * BARS
    order = [contender.name for contender in CONTENDERS if contender.name in rounds]
    for number, name in enumerate(order):
        y, found = top + HEAD + number * ROW, report.ratio(rounds, name, "nginx")
        color = "#1f6feb" if name.startswith("Postern") else "#b8c0cc"
        yield text(zero - 6, y + 12, name, 'text-anchor="end"')
        yield f'<rect x="{zero}" y="{y + 1}" width="{at(found.median) - zero:.1f}" height="{ROW - 6}" fill="{color}"/>'
        yield line(at(found.least), y + 8, at(found.most), y + 8, "#333")
        yield text(max(at(found.median), at(found.most)) + 5, y + 12, f"{found.median:.2f}", 'fill="#333"')
    # nginx, to hold the others against.
    yield line(at(1), top + HEAD - 4, at(1), top + HEAD + len(order) * ROW, "#d1242f")


def text(x, y, said, more):
    return f'<text x="{x:.1f}" y="{y}" {more}>{escape(said)}</text>'


def line(x1, y1, x2, y2, color):
    return f'<line x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}" stroke="{color}"/>'
