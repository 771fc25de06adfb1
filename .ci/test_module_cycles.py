#!/usr/bin/env python3
"""Tests of module_cycles.py: cycles of each kind are found, and nothing else."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).with_name("module_cycles.py")


def check(files):
    """Exit code and messages for a crate of these files below src/."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Cargo.toml").write_text("[package]\n")
        for name, text in files.items():
            path = Path(folder, "src", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        run = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
        return run.returncode, run.stderr


class Cycles(unittest.TestCase):
    def found(self, files, *names):
        code, text = check(files)
        self.assertEqual(code, 1, text)
        for name in names:
            self.assertIn(name, text)

    def test_siblings(self):
        self.found(
            {"lib.rs": "mod a; mod b;\n".replace("; mod", ";\nmod"),
             "a.rs": "use crate::b::B;\npub struct A;",
             "b.rs": "use super::{a::A};\npub struct B;"},
            "a.rs uses", "b.rs uses")

    def test_parent_and_child(self):
        files = {"lib.rs": "mod a;\npub use a::A;\npub struct B;",
                 "a.rs": "use crate::B;\npub struct A;"}
        self.found(files, "lib.rs uses", "a.rs uses")

    def test_three_modules_by_a_path_in_code(self):
        files = {"lib.rs": "mod a;\nmod b;\nmod c;", "a.rs": "fn a() { crate::b::b() }",
                 "b.rs": "use crate::c;\nfn b() { c::c() }", "c.rs": "use crate::a::a;"}
        self.found(files, "c.rs uses")

    def test_reexport_is_followed_to_its_file(self):
        files = {"lib.rs": "mod a;\nmod b;\npub use b::B;", "a.rs": "use crate::B;\npub struct A;",
                 "b.rs": "use crate::a::A;\npub struct B;"}
        self.found(files, "a.rs uses", "b.rs uses")

    def test_no_cycle(self):
        files = {
            "lib.rs": "mod a;\nmod b;\npub use a::A;\npub use b::B;",
            "a.rs": "// use crate::b::B;\nuse crate::B;\n"
                    "#[cfg(test)]\nmod tests { use crate::a::A; }",
            "b.rs": "pub struct B;\nmod inner { use super::B; }\n"
                    "#[cfg(test)]\nmod tests { use crate::A; fn f() {} }",
        }
        self.assertEqual(check(files), (0, ""))

    def test_nothing_to_check_is_an_error(self):
        self.assertEqual(check({"readme.txt": ""})[0], 1)


if __name__ == "__main__":
    unittest.main()
