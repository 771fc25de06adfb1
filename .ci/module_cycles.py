#!/usr/bin/env python3
"""module_cycles.py [FOLDER...]: fails if modules of a Rust crate import each other in a cycle.

The default is the whole repository. A module is a file. An edge is a path in a `use` declaration or
in code (`crate::a::b`, `super::b`, `self::b`). Re-exports are followed to the file that defines the
name. Items below `#[cfg(test)]` are ignored, since tests may use all modules. A `mod` line is not
an edge, so a parent may use its children as long as none of them uses the parent.
"""
import re
import subprocess
import sys
from pathlib import Path

WORD = r"[A-Za-z_][A-Za-z0-9_]*"


def without_tests_and_comments(text):
    """The code without comments, strings and items below #[cfg(test)]."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    while match := re.search(r"#\[cfg\((?:test|any\(test, [^\]]*\))\)\]\s*", text):
        text = text[: match.start()] + text[end_of_item(text, match.end()) :]
    # In a module inside the file, `super` is the file itself.
    for match in reversed(list(re.finditer(rf"\bmod\s+{WORD}\s*(?={{)", text))):
        end = end_of_item(text, match.end())
        body = re.sub(r"\bsuper::", "self::", text[match.end() : end])
        text = text[: match.end()] + body + text[end:]
    return text


def end_of_item(text, at):
    """The end of the item that begins at `at`: after its semicolon or its closing brace."""
    depth = 0
    for index in range(at, len(text)):
        if text[index] in "{([":
            depth += 1
        elif text[index] in "})]":
            depth -= 1
            if depth == 0 and text[index] == "}":
                return index + 1
        elif text[index] == ";" and depth == 0:
            return index + 1
    return len(text)


def leaves(tree, prefix=()):
    """The paths in a `use` tree: `a::{b, c::d as e}` contains (a, b) as b and (a, c, d) as e."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = tree.partition(" as ")
        path = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
        if path and path[-1] == "self":
            path = path[:-1]
        if path:
            yield path, alias.strip() or path[-1]
        return
    head = prefix + tuple(part.strip() for part in tree[:brace].split("::") if part.strip())
    depth, start = 0, brace + 1
    for index in range(brace, len(tree)):
        if tree[index] == "{":
            depth += 1
        if tree[index] == "}":
            depth -= 1
        if (tree[index] == "," and depth == 1) or depth == 0:
            yield from leaves(tree[start:index], head)
            start = index + 1
            if depth == 0:
                return


class Crate:
    """The modules of one crate: module path -> code."""

    def __init__(self, root):
        self.files, self.code, self.names = {}, {}, {}
        self.add((), root, root.parent)
        for module, code in self.code.items():
            uses = re.findall(r"\buse\s+([^;]+);", code)
            self.names[module] = {name: path for tree in uses for path, name in leaves(tree)}

    def add(self, module, file, folder):
        code = without_tests_and_comments(file.read_text(encoding="utf-8"))
        self.files[module], self.code[module] = file, code
        modules = rf"^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+({WORD})\s*;"
        for name in re.findall(modules, code, flags=re.M):
            for child in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if child.exists():
                    self.add(module + (name,), child, folder / name)

    def absolute(self, module, path):
        """`path`, used in `module`, from the crate's root; None for a path in another crate."""
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return module + path[1:]
        if path[0] == "super":
            while path and path[0] == "super":
                module, path = module[:-1], path[1:]
            return module + path
        return module + path if module + path[:1] in self.files else None

    def owner(self, path, seen=()):
        """The module that defines the last name of `path`, through re-exports."""
        module = ()
        while len(module) < len(path) and path[: len(module) + 1] in self.files:
            module = path[: len(module) + 1]
        rest = path[len(module) :]
        target = self.names[module].get(rest[0]) if rest else None
        if target and (module, rest[0]) not in seen:
            absolute = self.absolute(module, target)
            if absolute is not None and absolute != path:
                return self.owner(absolute + rest[1:], (*seen, (module, rest[0])))
        return module

    def edges(self):
        """module -> the modules it uses."""
        edges = {}
        for module, code in self.code.items():
            paths = set(self.names[module].values())
            body = re.sub(r"\buse\s+[^;]+;", "", code)
            paths |= {
                tuple(found.split("::"))
                for found in re.findall(rf"(?<![\w:])(?:crate|super|self)(?:::{WORD})+", body)
            }
            paths |= {
                tuple(found.split("::"))
                for found in re.findall(rf"(?<![\w:]){WORD}(?:::{WORD})+", body)
                if module + (found.split("::")[0],) in self.files
            }
            absolute = (self.absolute(module, path) for path in paths)
            owners = {self.owner(path) for path in absolute if path is not None}
            edges[module] = owners - {module}
        return edges


def cycles(edges):
    """Groups of modules in which each module reaches each other one."""
    def reachable(start):
        found, todo = set(), list(edges[start])
        while todo:
            module = todo.pop()
            if module not in found:
                found.add(module)
                todo += edges[module]
        return found

    reach = {module: reachable(module) for module in edges}
    groups = {
        frozenset(other for other in reach[module] if module in reach[other])
        for module in edges
        if module in reach[module]
    }
    return [sorted(group) for group in groups]


def roots(folder):
    """src/lib.rs or src/main.rs of each crate below `folder`, without build folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*Cargo.toml"],
        cwd=folder, capture_output=True, text=True,
    )
    manifests = listed.stdout.splitlines() if listed.returncode == 0 else []
    manifests = manifests or [str(path.relative_to(folder)) for path in folder.rglob("Cargo.toml")]
    for manifest in sorted(manifests):
        for name in ("lib.rs", "main.rs"):
            root = folder / Path(manifest).parent / "src" / name
            if root.exists():
                yield root


def main(folders):
    found = count = 0
    for folder in map(Path, folders):
        for root in roots(folder):
            crate = Crate(root)
            count += len(crate.files)
            edges = crate.edges()
            for group in cycles(edges):
                found += 1
                print(f"module cycle in {root.parent}:", file=sys.stderr)
                for module in group:
                    for other in sorted(edges[module]):
                        if other in group:
                            line = f"  {crate.files[module]} uses {crate.files[other]}"
                            print(line, file=sys.stderr)
    if not count:
        sys.exit("module_cycles: no modules found")
    if found:
        sys.exit(f"module_cycles: {found} cycles; move shared items into a separate module")
    print(f"module_cycles: {count} modules without cycles")


if __name__ == "__main__":
    main(sys.argv[1:] or ["."])
