#!/usr/bin/env python3
"""prose.py [--root REPOSITORY] [PATH...]: checks documents, comments, messages and test names.

Default is this whole repository. Markdown is checked as it is. From other files, comments and
message strings are extracted, each as a separate paragraph. textlint checks phrases
(prose/phrases.yml) and the length of sentences. cspell checks the spelling; prose/words.txt has the
terms of this project. This script checks the width of lines and the names of tests. It prints
`file:line: finding`, sorted, and exits with 1 if there is one.
"""

import ast
import bisect
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE / "prose"
TOOLS = HERE.parent / "target/prose"
COLUMNS = 100
TEST_NAME_WORDS = 8
# A string with fewer words is a key, a value or a label.
MESSAGE_WORDS = 3

# Texts of others, generated files, and the rules themselves.
SKIPPED = re.compile(
    r"(^|/)(dist|golden|corpus)/|^common/patches/|^docs/(results|screenshots)/|^LICENSE"
    r"|^\.ci/prose/"
    r"|^\.ci/test_prose\.py$"
)
CODE = {".rs", ".js", ".ts", ".tsx", ".java", ".scss"}
HASH_COMMENTS = {".sh", ".toml", ".yml", ".yaml", ".conf", ".service", ".scratch", ""}

CODE_TOKEN = re.compile(
    r"""(?P<line>//[^\n]*)
    |/\*(?P<block>.*?)\*/
    |\bb?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
    |"(?P<string>(?:\\.|[^"\\])*)"
    |`(?P<template>(?:\\.|[^`\\])*)`
    |'(?:\\[^']+|[^\\'\n])'""",
    re.S | re.X,
)
STATEMENT = re.compile(
    r"\s*(select|insert|update|delete|create|alter|drop|truncate|with|begin|commit|lock|set|"
    r"listen|copy|values|query|mutation|subscription|import|export|function|GET|POST|PUT|HTTP/)\b",
    re.I,
)
TEST_MODULE = re.compile(r"^#\[cfg\(test\)\]\n(pub )?mod \w+ \{", re.M)


def main(arguments):
    root, paths = HERE.parent, arguments
    if arguments[:1] == ["--root"]:
        root, paths = Path(arguments[1]), arguments[2:]
    files = [
        file for file in listed(root, paths) if not SKIPPED.search(file) and (root / file).is_file()
    ]
    if not files:
        sys.exit(f"prose.py: nothing to check in {' '.join(paths) or root}")
    install()
    with tempfile.TemporaryDirectory() as texts:
        findings = sorted(set(check(root, files, Path(texts).resolve())))
    for file, line, message in findings:
        print(f"{file}:{line}: {message}")
    print(f"prose: {len(findings)} findings in {len(files)} files", file=sys.stderr)
    return 1 if findings else 0


def listed(root, paths):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    return subprocess.run(
        command, cwd=root, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def check(root, files, texts):
    """The findings in `files`, as (file, line, message); extracted texts are written to `texts`."""
    origins = {}
    for file in files:
        source = (root / file).read_text(errors="replace")
        yield from wide_lines(file, source)
        if file.endswith(".rs"):
            yield from test_names(file, source)
        # An empty line ends a paragraph.
        lines = [line for unit in extract(file, source) for line in [*unit, (unit[-1][0], "")]]
        if lines:
            copy = texts / (file + ".md")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("\n".join(line for _, line in lines))
            origins[str(copy)] = (file, [number for number, _ in lines])
    for copy, line, message in [*textlint(texts), *cspell(texts)]:
        file, numbers = origins[copy]
        yield file, numbers[min(line, len(numbers)) - 1], message


def install():
    """Installs textlint and cspell into target/, as package-lock.json pins them."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    lock, installed = RULES / "package-lock.json", TOOLS / "installed.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    installed.unlink(missing_ok=True)
    for name in ["package.json", "package-lock.json", ".npmrc"]:
        shutil.copy(RULES / name, TOOLS)
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
        cwd=TOOLS,
        check=True,
    )
    shutil.copy(lock, installed)


def extract(file, source):
    """The texts of a file: units of (line number, line)."""
    suffix = Path(file).suffix
    if suffix == ".md":
        return [list(enumerate(source.splitlines(), 1))]
    if suffix in CODE:
        return code_units(source, suffix)
    if suffix == ".py":
        return python_units(source)
    if suffix in HASH_COMMENTS:
        return hash_units(source, suffix)
    return []


def code_units(source, suffix):
    starts = [0] + [match.end() for match in re.finditer("\n", source)]
    line_of = lambda at: bisect.bisect_right(starts, at)
    match = TEST_MODULE.search(source) if suffix == ".rs" else None
    messages_end = match.start() if match else len(source)
    units, last = [], (0, None)
    for match in CODE_TOKEN.finditer(source):
        number = line_of(match.start())
        if match["line"] is not None:
            marker, text = re.match(r"(//[/!]?)(?: ?)(.*)", match["line"]).groups()
            alone = not source[starts[number - 1] : match.start()].strip()
            if alone and last == (number - 1, marker):
                units[-1].append((number, text))
            else:
                units.append([(number, text)])
            last = (number, marker) if alone else (0, None)
            continue
        if match["block"] is not None:
            text = re.sub(r"^\s*\* ?", "", match["block"], flags=re.M)
            units.append([(number + at, line) for at, line in enumerate(text.split("\n"))])
            continue
        text = next(
            (match[kind] for kind in ("string", "raw", "template") if match[kind] is not None), None
        )
        if (
            text is None
            or match.start() >= messages_end
            or (match["raw"] is not None and "\n" in text)
        ):
            continue
        if match["string"] is not None:
            text = re.sub(r"\\\n\s*|\\[nrt]|\n", " ", text)
            text = re.sub(
                r"\\(u\{[^}]*\}|x[0-9a-fA-F]{2}|.)",
                lambda escape: escape[1][1:] and " " or escape[1],
                text,
            )
        if is_message(text):
            units.append([(number, as_prose(text))])
    if suffix == ".tsx":
        for match in re.finditer(r">([^<>{}=;]+)<", source):
            if is_message(match[1]):
                units.append(
                    [
                        (line_of(match.start(1)) + at, line.strip())
                        for at, line in enumerate(match[1].split("\n"))
                    ]
                )
    return units


def is_message(text):
    words = re.findall(r"(?<![\w{/.-])[A-Za-z][a-z']+(?![\w=/(-])", text)
    return (
        len(words) >= MESSAGE_WORDS
        and not STATEMENT.match(text)
        and not re.search(r'[{;]\s*\\?"|</|=>|::|\$\(', text)
    )


def as_prose(text):
    # A value that a message prints is one word; a Markdown heading or list is not meant.
    text = re.sub(r"\$?\{[^{}]*\}", "`x`", text).strip()
    return re.sub(r"^([#*+>-]|\d+\.)+", "", text).strip()


def python_units(source):
    units = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        number = token.start[0]
        if token.type == tokenize.COMMENT and not token.string.startswith("#!"):
            text = token.string.lstrip("# ")
            if units and units[-1][-1][0] == number - 1 and token.line.strip().startswith("#"):
                units[-1].append((number, text))
            else:
                units.append([(number, text)])
        elif token.type == tokenize.STRING:
            try:
                text = ast.literal_eval(token.string)
            except (ValueError, SyntaxError):
                continue
            if isinstance(text, str) and is_message(text):
                units.append(
                    [(number + at, line.strip()) for at, line in enumerate(text.split("\n"))]
                )
    return units


def hash_units(source, suffix):
    units = []
    for number, line in enumerate(source.splitlines(), 1):
        match = re.match(r"(?:(.*\s))?#+ (.*)", line)
        if match and not (match[1] or "").count('"') % 2:
            alone = not (match[1] or "").strip()
            if alone and units and units[-1][-1][0] == number - 1:
                units[-1].append((number, match[2]))
            else:
                units.append([(number, match[2])])
            continue
        if suffix == ".sh":
            units += [
                [(number, as_prose(text))]
                for text in re.findall(r'"([^"]*)"', line)
                if is_message(text)
            ]
    return units


def wide_lines(file, source):
    if not (file.endswith(".md") or Path(file).suffix in CODE | HASH_COMMENTS | {".py"}):
        return
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if file.endswith(".md"):
            fenced ^= line.startswith("```")
            # Rows of tables and printed output can't be wrapped, nor can addresses.
            if fenced or line.startswith(("|", "    ")) or re.fullmatch(r"\S*\S+\S*", line.strip()):
                continue
        if len(line) > COLUMNS:
            yield file, number, f"line of {len(line)} columns: at most {COLUMNS}"


def test_names(file, source):
    for match in re.finditer(r"#\[test\]\n(?:\s*#\[[^\n]*\n)*\s*fn (\w+)", source):
        name, number = match[1], source.count("\n", 0, match.start(1)) + 1
        if len(name.split("_")) > TEST_NAME_WORDS:
            yield file, number, f"test name {name}: at most {TEST_NAME_WORDS} words"
        if re.match(
            r"(a|an|the|no|what|who|it|if|when|after|with|without|of|one|each|every|all)_", name
        ):
            yield file, number, f"test name {name}: begin with a noun, as in thing_does_what_when"


def textlint(texts):
    run = subprocess.run(
        [
            "node_modules/.bin/textlint",
            "--config",
            RULES / "textlint.json",
            "--format",
            "json",
            texts,
        ],
        cwd=TOOLS,
        capture_output=True,
        text=True,
    )
    if run.returncode not in (0, 1) or not run.stdout.startswith("["):
        sys.exit(f"prose.py: textlint failed: {run.stdout}{run.stderr}")
    for result in json.loads(run.stdout):
        for message in result["messages"]:
            yield result["filePath"], message["line"], message["message"].split("\n")[0]


def cspell(texts):
    run = subprocess.run(
        [
            "node_modules/.bin/cspell",
            "lint",
            "--config",
            RULES / "cspell.json",
            "--no-progress",
            "--no-summary",
            "--no-gitignore",
            "--dot",
            "--root",
            texts,
            "**",
        ],
        cwd=TOOLS,
        capture_output=True,
        text=True,
    )
    if run.returncode not in (0, 1) or run.stderr.strip():
        sys.exit(f"prose.py: cspell failed: {run.stdout[-2000:]}{run.stderr[-2000:]}")
    for line in run.stdout.splitlines():
        match = re.match(r"(.+?):(\d+):\d+ - (.*)", line)
        yield str((texts / match[1]).resolve()), int(match[2]), match[3]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
