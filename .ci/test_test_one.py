#!/usr/bin/env python3
"""Tests of test_one.py: each kind of test is found and assigned to the target that runs it."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
from test_one import tests, without_empty_runs


def found(files):
    """The tests in these files below the root of a workspace."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list(tests(Path(folder)))


def ignored(name, reason="needs Kafka: make test-integration"):
    return f'#[test]\n    #[ignore = "{reason}"]\n    fn {name}() {{}}\n'


class Tests(unittest.TestCase):
    def test_unit_test(self):
        text = "#[test]\n// Why.\nfn one() {}\nfn two() {}"
        files = {"bench/Cargo.toml": "", "bench/src/a/b.rs": text}
        self.assertEqual(found(files), [("one", "test-unit", "--lib --bins")])

    def test_test_with_servers(self):
        files = {
            "common/x/Cargo.toml": "", "common/x/tests/kafka.rs": ignored("a"),
            "services/y/Cargo.toml": "", "services/y/src/store/tests.rs": ignored("b"),
            "services/y/tests/support/case.rs": ignored("c"),
            "stack/Cargo.toml": "", "stack/tests/stack.rs": ignored("d"),
            "tests/Cargo.toml": "", "tests/tests/kills.rs": ignored("e") + "#[test] fn f() {}",
        }
        self.assertEqual(found(files), [
            ("a", "test-kafka", "--test kafka"), ("b", "test-bank", "--lib --bins"),
            ("c", "test-bank", "--test support"), ("d", "test-stack", "--test stack"),
            ("e", "test-bank", "--test kills"), ("f", "test-unit", "--test kills")])

    def test_programs_without_tests_are_not_printed(self):
        empty = ["     Running unittests src/lib.rs (x)\n", "\n", "running 0 tests\n", "\n",
                 "test result: ok. 0 passed\n"]
        full = ["     Running tests/kills.rs (y)\n", "\n", "running 1 test\n", "test a ... ok\n",
                "test result: ok. 1 passed\n"]
        lines = ["   Compiling x\n", *empty, "\n", *full, "\n", *empty]
        self.assertEqual(
            list(without_empty_runs(lines)), ["   Compiling x\n", *full, "\n"])

    def test_helper_of_tests_is_not_a_test(self):
        files = {"bench/Cargo.toml": "", "bench/src/a.rs": ignored("one", "run by the tests below")}
        self.assertEqual(found(files), [])


if __name__ == "__main__":
    unittest.main()
