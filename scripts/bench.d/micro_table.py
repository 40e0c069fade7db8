"""Prints JMH's results side by side, as Markdown: micro_table.py LAUNCHER.json OPTIMISING.json."""

import json
import statistics
import sys


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rows(path):
    """What was measured, to its median (least to greatest) and unit."""
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    found = {}
    for result in results:
        name = ".".join(result["benchmark"].split(".")[-2:])
        given = ", ".join(f"{k}={v}" for k, v in result.get("params", {}).items() if v)
        # What is counted beside the calls says more than the number of calls.
        metrics = result["secondaryMetrics"] or {"": result["primaryMetric"]}
        for counted, metric in metrics.items():
            unit = f"{counted}/s" if counted else metric["scoreUnit"]
            values = [value for fork in metric["rawData"] for value in fork]
            found[f"{name} {given}".strip(), unit] = "{} ({} to {})".format(
                *map(number, (statistics.median(values), min(values), max(values)))
            )
    return found


def main(launcher, optimising):
    one, other = rows(launcher), rows(optimising)
    print("| benchmark | unit | launcher's settings | optimising compiler |")
    print("| --- | --- | --- | --- |")
    for name, unit in one:
        print(f"| {name} | {unit} | {one[name, unit]} | {other[name, unit]} |")


main(*sys.argv[1:])
