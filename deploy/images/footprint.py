#!/usr/bin/env python3
"""footprint.py ARCH...: measures images and services and writes docs/footprint.md, .json and .svg.

Needs dist/ (make images), a Docker engine (engine.sh) and a stack with servers: `make footprint`.
The page has the sizes for each ARCH. Services run for the architecture of this machine.
"""

import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import textwrap
import time

RUNS = 20
# More than 100,000, since the first heartbeat records find no account.
COMMANDS = 110_000
LOAD_PER_S = 5_000
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "armv7")


def say(text):
    print(f"footprint: {text}", file=sys.stderr)


def run(*command, **options):
    options |= {"check": True, "text": True, "stdout": subprocess.PIPE}
    return subprocess.run(command, **options).stdout.strip()


def port(url):
    return int(url.rsplit(":", 1)[1])


def health_port(service):
    return port(os.environ[service.upper().replace("-", "_") + "_HEALTH_URL"])


def environment(service):
    it = os.environ
    endpoint = service == "graphql-endpoint"
    made = {
        "KAFKA_BROKERS": it["KAFKA_BROKERS"],
        "SCHEMA_REGISTRY_URL": it["SCHEMA_REGISTRY_URL"],
        "DATABASE_URL": it["TRANSACTION_DATABASE_URL" if endpoint else "BALANCE_DATABASE_URL"],
        "CONTROL_PORT": str(port(it["HEARTBEAT_URL"])),
        "GRAPHQL_PORT": str(port(it["GRAPHQL_ENDPOINT_URL"])),
        "FRONTEND_PORT": str(port(it["FRONTEND_URL"])),
    }
    if service != "synchronizer":
        made["HEALTH_PORT"] = str(health_port(service))
    return made


def answers(service, path, since):
    """Milliseconds from `since` until the service returns 200 at `path`."""
    deadline = since + 30
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", health_port(service), timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return (time.monotonic() - since) * 1000
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.0002)
    sys.exit(f"footprint: {service} did not return 200 at {path} within 30 s")


def median(values):
    return round(statistics.median(values), 2)


def start_process(service):
    """Milliseconds until the first response of the process, and until it is ready."""
    since = time.monotonic()
    process = subprocess.Popen(
        [f"dist/{NATIVE}/{service}"], env=environment(service), stderr=subprocess.DEVNULL
    )
    own = answers(service, "/healthz", since)
    ready = answers(service, "/readyz", since)
    process.terminate()
    if process.wait(10) != 0:
        sys.exit(f"footprint: {service} exited with {process.returncode} after SIGTERM")
    return own, ready


def memory_max_mib(service):
    return 32 if service == "graphql-endpoint" else 16


def docker_run(service, *options):
    command = ["docker", "run", "--network", "host", "--read-only", "--cap-drop", "ALL"]
    command += ["--memory", f"{memory_max_mib(service)}m"]
    for name, value in environment(service).items():
        command += ["--env", f"{name}={value}"]
    return [*command, *options, f"localhost/scratchbank/{service}:{VERSION}"]


def start_container(service):
    since = time.monotonic()
    container = run(*docker_run(service, "--detach"))
    ready = answers(service, "/readyz", since)
    run("docker", "stop", container)
    run("docker", "rm", container)
    return ready


def empty_container():
    """Milliseconds for a container that prints its version: the time of the engine."""
    since = time.monotonic()
    image = f"localhost/scratchbank/edge:{VERSION}"
    run("docker", "run", "--rm", "--network", "host", image, "--version")
    return (time.monotonic() - since) * 1000


def status(container):
    pid = run("docker", "inspect", "--format", "{{.State.Pid}}", container)
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    mib = {key: round(int(fields[key].split()[0]) / 1024, 2) for key in ("VmRSS", "VmHWM")}
    return mib["VmRSS"], mib["VmHWM"], int(fields["Threads"])


def sizes(archs):
    found = {}
    for arch in archs:
        with open(f"dist/{arch}/SHA256SUMS") as sums:
            for line in sums:
                name = line.split()[1]
                archive = f"dist/images/{name}-{arch}.tar"
                listing = run("tar", "-tvf", archive)
                blobs = [int(line.split()[2]) for line in listing.splitlines() if "blobs/" in line]
                size = os.path.getsize(f"dist/{arch}/{name}")
                found.setdefault(name, {})[arch] = {
                    "bytes": size,
                    "compressed": max(blobs),
                    "binary": size,
                }
    return found


def machine():
    """The hardware, and the load average before the measurement: other programs may run too."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / (1 << 20)
    kernel = platform.release().split("-")[0]
    processor = model[1] if model else platform.machine()
    return (
        f"{os.cpu_count()} x {processor}, {memory:.0f} GiB, Linux {kernel}, "
        f"load average {os.getloadavg()[0]:.1f} before"
    )


def chart(talk, ours):
    """Three panels of bars with logarithmic scales."""
    panels = [
        ("image, MB", "image_mb", ours["image_mb"]),
        ("start until ready, ms", "start_ms", ours["start_ms"]),
        ("memory of the handler under load, MiB", "memory_mib", ours["memory_mib"]),
    ]
    rows, width, bar, panel_height = len(talk) + 1, 860, 18, 30 + 24 * (len(talk) + 1) + 18
    height = 40 + panel_height * len(panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        "<title>Command handlers of the talk and of scratchbank</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="12" y="24" font-size="16">Command handlers of the talk (2019, another machine) '
        "and of scratchbank; logarithmic scales</text>",
    ]
    from math import log10

    for index, (title, key, own) in enumerate(panels):
        top = 40 + index * panel_height
        values = [(it["name"], it[key], "#9aa5b1") for it in talk]
        values.append(("scratchbank", own, "#c2410c"))
        low = 10 ** int(log10(min(value for _, value, _ in values)) - 1)
        high = max(value for _, value, _ in values)
        out.append(f'<text x="12" y="{top + 18}" font-weight="bold">{title}</text>')
        for row, (name, value, colour) in enumerate(values):
            y = top + 28 + row * 24
            length = (width - 330) * log10(value / low) / log10(high / low)
            out.append(f'<text x="200" y="{y + 14}" text-anchor="end">{name}</text>')
            out.append(
                f'<rect x="210" y="{y}" width="{length:.1f}" height="{bar}" fill="{colour}"/>'
            )
            out.append(f'<text x="{216 + length:.1f}" y="{y + 14}">{value:g}</text>')
    return "\n".join([*out, "</svg>", ""])


def paragraph(text):
    """Lines of at most 100 columns."""
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def page(result, talk):
    lines = [
        "# Footprint",
        "",
        *paragraph(
            f"Written by `make footprint`: commit {result['commit']}, {result['machine']}, "
            f"{result['date']}. [footprint.json](footprint.json) has the same figures."
        ),
        "",
        "![Image size, start-up time and memory, compared with the talk](footprint.svg)",
        "",
        "## Compared with the talk",
        "",
        *paragraph(
            f"The figures of the talk are from: {talk['source']}. {talk['conditions']} "
            "The machine and the year are different, so only sizes compare exactly."
        ),
        "",
        "| command-handler | image, MB | start, ms | memory, MiB | highest load, messages/s |",
        "|---|---|---|---|---|",
    ]
    for it in talk["implementations"]:
        keys = ("name", "image_mb", "start_ms", "memory_mib", "highest_load_per_s")
        lines.append(row(*(it[key] for key in keys)))
    ours = result["ours"]
    lines += [
        row(
            "scratchbank",
            *(ours[key] for key in ("image_mb", "start_ms", "memory_mib")),
            "`make bench-probe`",
        ),
        "",
        *paragraph(
            "Start is the time from the start of the process until it is ready, with Kafka and "
            "PostgreSQL running. Memory is the highest resident memory at "
            f"{LOAD_PER_S} heartbeat records/s."
        ),
        "",
        "## Size",
        "",
        *paragraph(
            "An image contains one file, so image and binary have the same size. Compressed is the "
            "size of the layer as it is downloaded."
        ),
        "",
        "| image | architecture | bytes | compressed |",
        "|---|---|---|---|",
    ]
    for name, archs in result["sizes"].items():
        for arch, it in archs.items():
            lines.append(f"| {name} | {arch} | {it['bytes']:,} | {it['compressed']:,} |")
    lines += [
        "",
        "## Start-up",
        "",
        f"Milliseconds, median of {RUNS} runs:",
        "",
        "- Own part: from exec until the process responds at `/healthz`, which needs no server.",
        "- Ready: from exec until `/readyz` returns 200, with all connections open.",
        "- Container ready: from `docker run` until `/readyz` returns 200.",
        "",
        *paragraph(
            "A container that only prints its version takes "
            f"{result['empty_container_ms']} ms. That is the time of the engine."
        ),
        "",
        "| service | own part | ready | container ready |",
        "|---|---|---|---|",
    ]
    for name, it in result["services"].items():
        lines.append(f"| {name} | {it['own_ms']} | {it['ready_ms']} | {it['container_ready_ms']} |")
    lines += [
        "",
        "## Memory",
        "",
        "Resident memory in MiB, in a container limited to 16 MiB (graphql-endpoint: 32 MiB):",
        "",
        "- Idle: two seconds after the service was ready.",
        f"- After the load: after {result['commands']:,} commands at {LOAD_PER_S}/s.",
        "- Most: the highest at any time.",
        "",
        "| service | idle | after the load | most | threads |",
        "|---|---|---|---|---|",
    ]
    for name, it in result["services"].items():
        keys = ("rss_idle_mib", "rss_loaded_mib", "rss_max_mib", "threads")
        lines.append(row(name, *(it[key] for key in keys)))
    return "\n".join([*lines, ""])


def main():
    archs = sys.argv[1:] or [NATIVE]
    with open("docs/talk-2019.json") as file:
        talk = json.load(file)
    services = []
    with open(f"dist/{NATIVE}/SHA256SUMS") as sums:
        for line in sums:
            services.append(line.split()[1])
    for name in services:
        run("docker", "load", "--quiet", "--input", f"dist/images/{name}-{NATIVE}.tar")
    services = [name for name in services if name not in ("edge", "synchronizer")]
    run(f"dist/{NATIVE}/synchronizer", env=environment("synchronizer"))

    measured, found = {name: {} for name in services}, machine()
    for name in services:
        say(f"{name}: {RUNS} starts as a process, {RUNS} as a container")
        starts = [start_process(name) for _ in range(RUNS)]
        measured[name]["own_ms"] = median(own for own, _ in starts)
        measured[name]["ready_ms"] = median(ready for _, ready in starts)
        measured[name]["container_ready_ms"] = median(start_container(name) for _ in range(RUNS))
    empty = median(empty_container() for _ in range(RUNS))

    say(f"running a load of {COMMANDS} commands")
    containers = {}
    try:
        for name in services:
            containers[name] = run(*docker_run(name, "--detach"))
        for name in services:
            answers(name, "/readyz", time.monotonic())
        time.sleep(2)
        for name in services:
            measured[name]["rss_idle_mib"], _, measured[name]["threads"] = status(containers[name])
        load = ["--duration-s", str(COMMANDS // LOAD_PER_S), "--loads", str(LOAD_PER_S)]
        outcome = json.loads(run("bench", "demo", *load).splitlines()[-1])
        for name in services:
            rss, most, threads = status(containers[name])
            measured[name] |= {"rss_loaded_mib": rss, "rss_max_mib": most, "threads": threads}
    finally:
        for container in containers.values():
            run("docker", "rm", "--force", container)

    all_sizes = sizes(archs)
    handler = measured["command-handler"]
    result = {
        "images": {name: it[archs[0]] for name, it in all_sizes.items() if name != "edge"},
        "edge": all_sizes["edge"][archs[0]],
        "ours": {
            "image_mb": round(all_sizes["command-handler"][NATIVE]["bytes"] / 1e6, 2),
            "start_ms": round(handler["ready_ms"]),
            "memory_mib": handler["rss_max_mib"],
        },
        "sizes": all_sizes,
        "services": measured,
        "empty_container_ms": empty,
        "commands": outcome["commands"],
        "commit": run("git", "rev-parse", "--short", "HEAD"),
        "machine": found,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    with open("docs/footprint.json", "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    with open("docs/footprint.svg", "w") as file:
        file.write(chart(talk["implementations"], result["ours"]))
    with open("docs/footprint.md", "w") as file:
        file.write(page(result, talk))
    print(json.dumps({"images": result["images"], "edge": result["edge"], "services": measured}))


VERSION = re.search(r'^version = "(.*)"', open("Cargo.toml").read(), re.M)[1]
main()
