#!/usr/bin/env python3
"""dashboard.py [FILE]: checks the Grafana dashboard, without Grafana.

Each panel has a title, a description and a place of its own in the grid, and queries the data
source that the user selects. promtool parses the expressions. `make test-stack` checks the names of
their metrics.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "deploy/grafana/scratchbank.json"
COLUMNS = 24


def main(arguments):
    dashboard = json.loads(Path(arguments[0] if arguments else FILE).read_text())
    found = list(findings(dashboard))
    for finding in found:
        print(f"dashboard: {finding}", file=sys.stderr)
    return 1 if found else parse(expressions(dashboard))


def findings(dashboard):
    """What Grafana would show wrongly, or not at all."""
    variables = {it["name"]: it for it in dashboard["templating"]["list"]}
    if variables.get("datasource", {}).get("query") != "prometheus":
        yield "no variable selects the data source"
    panels = dashboard["panels"]
    for key in ["id", "title"]:
        values = [panel[key] for panel in panels]
        yield from (f"{key} {it!r} twice" for it in sorted(set(values)) if values.count(it) > 1)
    taken = {}
    for panel in panels:
        title = panel["title"]
        if not panel["description"].endswith("."):
            yield f"{title}: no description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{title}: no unit"
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if x >= COLUMNS or (x, y) in taken:
                    yield f"{title}: overlaps {taken.get((x, y), 'the margin')}"
                    break
                taken[x, y] = title
        queries = [it["refId"] for it in panel["targets"]]
        if not queries or len(set(queries)) < len(queries):
            yield f"{title}: needs queries with different names"
        for it in [panel, *panel["targets"]]:
            if it["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{title}: another data source"


def expressions(dashboard):
    return [it["expr"] for panel in dashboard["panels"] for it in panel["targets"]]


def parse(expressions):
    """Checks the expressions as recording rules. JSON is YAML."""
    rules = [{"record": f"query_{at}", "expr": it} for at, it in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        command = ["promtool", "check", "rules", file.name]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
    if checked.returncode:
        print(checked.stdout + checked.stderr, file=sys.stderr)
    return checked.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
