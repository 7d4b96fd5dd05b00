#!/usr/bin/env python3
"""Checks the licence of every crate in the dependency graph against the list in deny.toml, and where crates come from.

It also fails on a licence in the list that no crate needs, so that the list stays true.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def allowed_licences():
    # tomllib is not in every Python 3 that Debian has had, and the list is simple.
    deny = (ROOT / "deny.toml").read_text()
    section = deny.split("[licenses]")[1].split("\n[")[0]
    return set(re.findall(r'"([^"]+)"', re.search(r"allow = \[(.*?)\]", section, re.DOTALL).group(1)))


def satisfied(expression, allowed):
    """Whether an SPDX expression can be satisfied, and by which of the allowed licences. `/` is an old OR; `L WITH E` is
    taken as one name."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def either():
        options = [both()]
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            options.append(both())
        # The first that is allowed is the one that is chosen.
        return next((option for option in options if option is not None), None)

    def both():
        parts = [one()]
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            parts.append(one())
        return None if None in parts else set().union(*parts)

    def one():
        token = tokens.pop(0)
        if token == "(":
            inside = either()
            tokens.pop(0)
            return inside
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token = f"{token} WITH {tokens.pop(0)}"
        return {token} if token in allowed else None

    return either()


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    allowed, needed, wrong = allowed_licences(), set(), []
    ours = set(metadata["workspace_members"])
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["id"] in ours:
            continue
        if "crates.io" not in (package["source"] or ""):
            wrong.append(f"{name} comes from {package['source'] or 'a path'}")
        licences = satisfied(package["license"], allowed) if package["license"] else None
        if licences is None:
            wrong.append(f"{name} has the licence {package['license'] or package['license_file']}")
        else:
            needed |= licences
    wrong += [f"no crate needs {licence}: take it out of deny.toml" for licence in sorted(allowed - needed)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(metadata['packages']) - len(ours)} crates under {', '.join(sorted(needed))}.")


if __name__ == "__main__":
    main()
