#!/usr/bin/env python3
"""test_one.py NAME: runs each Rust test whose name contains NAME, with the servers that it needs.

Called by `make test-one T=NAME`. It finds the tests in the sources, since building all of them just
to list them takes minutes. Tests in JavaScript are not found: `make test-browser` runs those.
"""
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

CRATES = ("bench", "common/*", "common/patches/*", "services/*", "stack", "tests")
TEST = re.compile(r"#\[test\]((?:\s*(?:#\[[^\n]*\]|//[^\n]*))*)\s*(?:pub\s+)?fn\s+(\w+)")
IGNORED = re.compile(r'#\[ignore(?:\s*=\s*"([^"]*)")?')
# A test's reason to be ignored names the make target that runs it; others are helpers of tests.
NEEDS_SERVERS = re.compile(r"\bmake test-")

# In the order of running: quick ones first. What each needs, and how long its servers take.
TARGETS = {
    "test-unit": "no server; a build of up to 3 minutes",
    "test-stack": "stack.sh; about 1 minute in addition to the tests",
    "test-kafka": "three Kafka brokers; about 1 minute in addition to the tests, for each client",
    "test-bank": "Kafka, registry and PostgreSQL; about 2 minutes in addition to the tests",
}


def tests(root):
    """(name, make target, options of cargo test) of each test below `root`."""
    for pattern in CRATES:
        for manifest in sorted(root.glob(f"{pattern}/Cargo.toml")):
            crate = manifest.parent
            for file in sorted((*crate.glob("src/**/*.rs"), *crate.glob("tests/**/*.rs"))):
                path = file.relative_to(crate)
                for attributes, name in TEST.findall(file.read_text(encoding="utf-8")):
                    ignored = IGNORED.search(attributes)
                    if ignored and not NEEDS_SERVERS.search(ignored.group(1) or ""):
                        continue
                    yield name, target(crate.relative_to(root), path, ignored), options(path)


def target(crate, path, needs_servers):
    """The make target that runs the tests of this file."""
    if not needs_servers:
        return "test-unit"
    if crate.parts[0] == "stack":
        return "test-stack"
    if crate.parts[0] == "common" and path.parts[0] == "tests":
        return "test-kafka"
    return "test-bank"


def options(path):
    """The options by which cargo test selects the program that contains the tests of this file."""
    if path.parts[0] == "src":
        return "--lib --bins"
    return f"--test {Path(path.parts[1]).stem}"


def main(arguments):
    name = arguments[0] if len(arguments) == 1 else ""
    if not re.fullmatch(r"\w+", name):
        sys.exit("test-one: T names a test or a part of its name: make test-one T=transfer")
    root = Path(__file__).resolve().parent.parent
    found = defaultdict(list)
    for test, make_target, selection in tests(root):
        if name in test:
            found[make_target].append((test, selection))
    if not found:
        sys.exit(f"test-one: no Rust test has a name that contains {name!r}"
                 " (the tests in JavaScript run with: make test-browser)")
    targets = [make_target for make_target in TARGETS if make_target in found]
    for make_target in targets:
        names = sorted({test for test, _ in found[make_target]})
        print(f"Running {len(names)} test(s) with {TARGETS[make_target]}: {', '.join(names)}")
    sys.stdout.flush()
    if targets != ["test-unit"]:
        subprocess.run([root / "stack/stack.sh", "prerequisites", "test", "browser"], check=True)
    failed = [it for it in targets if not run(root, it, name, {sel for _, sel in found[it]})]
    if failed:
        sys.exit(f"test-one: tests failed in: {', '.join(failed)}")


def run(root, make_target, name, selections):
    """True if the tests of `make_target` whose names contain `name` have passed."""
    make = [os.environ.get("MAKE", "make"), "--no-print-directory", make_target]
    make += [f"TESTS={' '.join(sorted(selections))}", f"T={name}"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(make, cwd=root, **output) as process:
        for line in without_empty_runs(process.stdout):
            print(line, end="", flush=True)
    return process.returncode == 0


def without_empty_runs(lines):
    """The output of cargo test without the test programs that ran no test."""
    held, skipping = [], False
    for line in lines:
        if re.match(r"\s+Running (unittests|tests/)", line):
            held, skipping = [line], False
        elif skipping and (not line.strip() or line.startswith("test result:")):
            continue
        elif held and not line.strip():
            held.append(line)
        elif held and line.startswith("running 0 tests"):
            held, skipping = [], True
        else:
            yield from (*held, line)
            held = []
    yield from held


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
