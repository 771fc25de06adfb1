#!/usr/bin/env python3
"""Tests of prose.py: each kind of violation, planted in each kind of text, is found at its line."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).with_name("prose.py")

FILES = {
    "phrase.md": "# Title\n\nA client subscribes anew.\n",
    "long.md": "One " + "word and another " * 9 + "end.\n",
    "wide.md": "A line that is wide. " * 6 + "\n",
    "spelling.md": "The brokker is up.\n",
    "clean.md": "A client `anew` subscribes.\n\n| a | b |\n|---|---|\n| a row may be wide |"
    + " a" * 60
    + " |\n\n    anew brokker\n",
    "comment.rs": "// The client\n// subscribes anew.\nfn f() {}\n",
    "doc.rs": "/// Whoever asks is\n/// told so.\nfn f() {}\n",
    "log.rs": 'fn f() {\n    log::info!(\n        "the brokker is up again");\n}\n',
    "help.rs": 'const A: V =\n    V::new("A", "1", "how many visitors are served, \\\n     in all");\n',
    "error.rs": '#[error("nobody reads partition {partition} of {topic}")]\nstruct E;\n',
    "test.rs": "#[test]\nfn a_reader_reads() {}\n\n"
    "#[test]\n#[ignore]\nfn reader_reads_a_b_c_d_e_f_g_h() {}\n",
    "clean.rs": 'fn f() { g("select anew from somebody where brokker", "anew"); }\n'
    "#[test]\nfn reader_reads() {}\n",
    "script.sh": '#!/bin/sh\n# Starts anew.\nsay "the servers start anew now"\n',
    "script.py": '"""Tests whoever asks."""\n# The brokker is up.\n',
    "page.tsx": "const a = <p>\n  You are the first visitor today\n</p>;\n",
}
EXPECTED = {
    "phrase.md:3: anew",
    "long.md:1: Exceeds the maximum word count",
    "long.md:1: line of 161 columns",
    "wide.md:1: line of 126 columns",
    "spelling.md:1: Unknown word (brokker",
    "comment.rs:2: anew",
    "doc.rs:1: Whoever",
    "doc.rs:2: told",
    "log.rs:3: Unknown word (brokker",
    "help.rs:2: visitors",
    "error.rs:1: nobody",
    "test.rs:2: test name a_reader_reads: begin with a noun",
    "test.rs:6: test name reader_reads_a_b_c_d_e_f_g_h: at most 8 words",
    "script.sh:2: anew",
    "script.sh:3: anew",
    "script.py:1: whoever",
    "script.py:2: Unknown word (brokker",
    "page.tsx:2: visitor",
}


class Prose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as root:
            subprocess.run(["git", "init", "--quiet", root], check=True)
            for name, text in FILES.items():
                Path(root, name).write_text(text)
            cls.run_ = subprocess.run(
                [sys.executable, SCRIPT, "--root", root], capture_output=True, text=True
            )
        cls.found = cls.run_.stdout.splitlines()

    def test_each_violation_is_found_at_its_line(self):
        for expected in EXPECTED:
            self.assertTrue(
                any(line.startswith(expected) for line in self.found), f"{expected} in {self.found}"
            )

    def test_nothing_else_is_found(self):
        for line in self.found:
            self.assertTrue(any(line.startswith(expected) for expected in EXPECTED), line)

    def test_exit_code_and_total(self):
        self.assertEqual(self.run_.returncode, 1)
        self.assertRegex(self.run_.stderr, rf"prose: \d+ findings in {len(FILES)} files")

    def test_nothing_to_check_is_an_error(self):
        run = subprocess.run(
            [sys.executable, SCRIPT, "no-such-folder"], capture_output=True, text=True
        )
        self.assertEqual((run.returncode, "nothing to check" in run.stderr), (1, True))


if __name__ == "__main__":
    unittest.main()
