"""Draws how time and memory grow along each axis: plot.py RESULTS SVG."""

import math
import re
import sys

WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 180, 60, 40, 70
AXES = {"bytes": (0, "MiB"), "parameters": (1, "parameters"), "ranks": (2, "ranks")}
NAME = re.compile(r"(bytes|parameters|ranks): (\d+) MiB, (\d+) parameters, (\d+) ranks")


def points(path):
    latest = {}
    for line in open(path, encoding="utf-8"):
        fields = line.rstrip("\n").split("\t")
        found = NAME.match(fields[1])
        if found:
            index = AXES[found[1]][0]
            x = int(found[2 + index])
            latest[found[1], x] = float(fields[4]), float(fields[6]), float(fields[8])
    return latest


def polyline(values, xs, highest, colour, column, at):
    low, high = math.log(xs[0]), math.log(xs[-1])
    dots = []
    for x, value in zip(xs, values):
        px = at + (math.log(x) - low) / ((high - low) or 1) * WIDTH
        py = TOP + HEIGHT - value / highest * HEIGHT
        dots.append(f"{px:.1f},{py:.1f}")
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(dots)}"/>'


def main(results, svg):
    found = points(results)
    out = []
    for column, (axis, (_, unit)) in enumerate(AXES.items()):
        xs = sorted(x for a, x in found if a == axis)
        if not xs:
            continue
        at = LEFT + column * (WIDTH + GAP)
        rows = [found[axis, x] for x in xs]
        seconds = max(max(r[0], r[1]) for r in rows) * 1.1
        out.append(f'<rect x="{at}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>')
        out.append(f'<text x="{at}" y="{TOP - 22}">{axis}: CPU seconds (0 to {seconds:.0f}), peak memory</text>')
        out.append(polyline([r[0] for r in rows], xs, seconds, "#888", column, at))
        out.append(polyline([r[1] for r in rows], xs, seconds, "#06c", column, at))
        memory = 512
        out.append(polyline([min(r[2], memory) for r in rows], xs, memory, "#c60", column, at))
        for x in (xs[0], xs[-1]):
            px = at if x == xs[0] else at + WIDTH - 40
            out.append(f'<text x="{px}" y="{TOP + HEIGHT + 18}">{x} {unit}</text>')
    out.append(
        f'<text x="{LEFT}" y="{TOP - 6}" fill="#555">grey: cp -r; blue: reshard; '
        f"orange: peak memory, 0 to 512 MiB</text>"
    )
    width = LEFT + 3 * (WIDTH + GAP)
    body = "\n".join(out)
    with open(svg, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + 30}" '
            f'font-family="sans-serif" font-size="12">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
