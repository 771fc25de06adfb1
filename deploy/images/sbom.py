#!/usr/bin/env python3
"""sbom.py TARGET BINARY... [--also NAME=VERSION...]: prints an SBOM in CycloneDX 1.5.

The components are the normal dependencies for TARGET, from `cargo metadata`. Build and test
dependencies are not included. --also adds components that are not crates, such as the C library.
The output contains no time and no random number, so the same sources result in the same SBOM.
"""

import json
import subprocess
import sys
import tomllib


def main():
    args = sys.argv[1:]
    also = []
    if "--also" in args:
        at = args.index("--also")
        args, also = args[:at], [word.split("=", 1) for word in args[at + 1 :]]
    target, *binaries = args

    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    normal = {
        node["id"]: [
            dep["pkg"]
            for dep in node["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
        for node in metadata["resolve"]["nodes"]
    }
    # Procedural macros run in the compiler and are not part of a binary.
    macros = {
        key
        for key, package in packages.items()
        if any("proc-macro" in it["kind"] for it in package["targets"])
    }
    with open("Cargo.lock", "rb") as lock:
        locked = tomllib.load(lock)["package"]
    sums = {(it["name"], it["version"]): it.get("checksum") for it in locked}

    roots = sorted(
        key
        for key, package in packages.items()
        if package["name"] in binaries and package["source"] is None
    )
    reached, todo = set(), list(roots)
    while todo:
        key = todo.pop()
        if key not in reached and key not in macros:
            reached.add(key)
            todo += normal[key]

    def ref(key):
        return f"pkg:cargo/{packages[key]['name']}@{packages[key]['version']}"

    def component(key):
        package = packages[key]
        made = {
            "type": "application" if key in roots else "library",
            "bom-ref": ref(key),
            "name": package["name"],
            "version": package["version"],
        }
        # Crates of this repository have no package URL, including the patched ones.
        if package["source"]:
            made["purl"] = ref(key)
        if package["license"]:
            # Some crates use the old form of the expression, with a slash.
            made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := sums.get((package["name"], package["version"])):
            made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return made

    others = [
        {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version}
        for name, version in also
    ]
    version = packages[roots[0]]["version"]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "scratchbank",
                "name": "scratchbank",
                "version": version,
            },
            "properties": [{"name": "target", "value": target}],
        },
        "components": sorted(map(component, reached), key=lambda made: made["bom-ref"]) + others,
        "dependencies": [{"ref": "scratchbank", "dependsOn": sorted(map(ref, roots))}]
        + [
            {
                "ref": ref(key),
                "dependsOn": sorted({ref(dep) for dep in normal[key] if dep in reached})
                + ([other["bom-ref"] for other in others] if key in roots else []),
            }
            for key in sorted(reached, key=ref)
        ],
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
