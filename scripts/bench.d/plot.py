"""Draws how time and memory grow along each axis, both scales logarithmic: plot.py RESULTS SVG."""

import math
import re
import sys

WIDTH, HEIGHT, LEFT, TOP, GAP = 270, 190, 50, 50, 80
UNITS = {"bytes": "MiB", "parameters": "parameters", "ranks": "ranks"}
CASE = re.compile(r"(bytes|parameters|ranks) (\d+):")
SECONDS = (0.1, 1000)
MEBIBYTES = (1, 3000)
COLOURS = {"cp -r": "#888", "reshard": "#06c", "memory": "#c60"}


def read(path):
    """The newest result of each axis, value and contestant: seconds and peak MiB."""
    found = {}
    for line in open(path, encoding="utf-8"):
        _, case, label, _, wall, _, peak = line.rstrip("\n").split("\t")
        match = CASE.match(case)
        if match:
            found[match[1], int(match[2]), label] = float(wall), float(peak)
    return found


def share(value, scale):
    low, high = map(math.log, scale)
    return min(1.0, max(0.0, (math.log(value) - low) / (high - low)))


def line(values, left, xs, scale, colour, label_at=-6):
    ends = (xs[0], xs[-1])
    dots = [(left + share(x, ends) * WIDTH, TOP + HEIGHT - share(v, scale) * HEIGHT) for x, v in zip(xs, values)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    yield f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{text}"/>'
    for (x, y), value in zip(dots, values):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        shown = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
        yield f'<text x="{x:.1f}" y="{y + label_at:.1f}" fill="{colour}" text-anchor="middle">{shown}</text>'


def axis(name, found, left):
    xs = sorted({value for axis_name, value, _ in found if axis_name == name})
    yield f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    for label, label_at in ("cp -r", 15), ("reshard", -6):
        yield from line([found[name, x, label][0] for x in xs], left, xs, SECONDS, COLOURS[label], label_at)
    yield from line([found[name, x, "reshard"][1] for x in xs], left, xs, MEBIBYTES, COLOURS["memory"])
    for x in xs:
        at = left + share(x, (xs[0], xs[-1])) * WIDTH
        yield f'<text x="{at:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{x}</text>'
    yield f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 32}" text-anchor="middle">{UNITS[name]}</text>'


def main(results, svg):
    found = read(results)
    width = LEFT + len(UNITS) * (WIDTH + GAP)
    height = TOP + HEIGHT + 45
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20">Seconds of '
        f'<tspan fill="{COLOURS["cp -r"]}">cp -r</tspan> and of '
        f'<tspan fill="{COLOURS["reshard"]}">reshard</tspan> ({SECONDS[0]} to {SECONDS[1]}), '
        f'<tspan fill="{COLOURS["memory"]}">peak MiB of reshard</tspan> '
        f"({MEBIBYTES[0]} to {MEBIBYTES[1]}); all scales are logarithmic</text>",
    ]
    for column, name in enumerate(UNITS):
        body.extend(axis(name, found, LEFT + column * (WIDTH + GAP)))
    body.append("</svg>\n")
    with open(svg, "w", encoding="utf-8") as file:
        file.write("\n".join(body))


if __name__ == "__main__":
    main(*sys.argv[1:])
