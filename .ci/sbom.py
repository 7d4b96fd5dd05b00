#!/usr/bin/env python3
"""Writes the list of all parts of the program (a CycloneDX 1.5 SBOM), from Cargo's own metadata and lock file.

    .ci/sbom.py FILE
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def checksums():
    lock = (ROOT / "Cargo.lock").read_text()
    found = {}
    for package in lock.split("[[package]]")[1:]:
        fields = dict(re.findall(r'^(name|version|checksum) = "([^"]+)"', package, re.MULTILINE))
        if "checksum" in fields:
            found[fields["name"], fields["version"]] = fields["checksum"]
    return found


def main(out):
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(id for id, package in packages.items() if package["name"] == "penstock")
    # What the program is made of: neither tests nor what builds it.
    needed, waiting = set(), [root]
    while waiting:
        id = waiting.pop()
        if id in needed:
            continue
        needed.add(id)
        for dependency in nodes[id]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    known = checksums()

    def purl(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package):
        part = {
            "type": "library",
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
        }
        if package["license"]:
            part["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := known.get((package["name"], package["version"])):
            part["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return part

    parts = sorted((packages[id] for id in needed if id != root), key=lambda package: (package["name"], package["version"]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(packages[root]) | {"type": "application"}},
        "components": [component(package) for package in parts],
        "dependencies": [
            {
                "ref": purl(packages[id]),
                "dependsOn": sorted(purl(packages[each["pkg"]]) for each in nodes[id]["deps"] if each["pkg"] in needed),
            }
            for id in sorted(needed)
        ],
    }
    unhashed = [part["name"] for part in parts if not part["name"].startswith("penstock") and (part["name"], part["version"]) not in known]
    if unhashed:
        sys.exit(f"without a checksum in Cargo.lock: {', '.join(unhashed)}")
    pathlib.Path(out).write_text(json.dumps(document, indent=1))
    print(f"{len(parts)} parts, in {out}")


if __name__ == "__main__":
    main(sys.argv[1])
