#!/usr/bin/env python3
"""Checks Cargo.lock against RustSec's advisories: a small stand-in for `cargo audit`, which takes longer to build than
everything it checks.

    .ci/check_advisories.py CACHE

It keeps the database in the cache folder. Where that can't be had, it says so and checks nothing: a build must not fail
because a site is away. Informational advisories (unmaintained, notice) are told, and don't fail.
"""

import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATABASE = "https://github.com/RustSec/advisory-db"


def numbers(version):
    plain, _, pre = version.split("+")[0].partition("-")
    parts = [int(part) for part in plain.split(".")]
    # A version before its release comes before it.
    return (*(parts + [0, 0])[:3], 0 if pre else 1, pre)


def matches(version, requirement):
    """Whether a version is in a range as advisories write them: `>= 1.2.3, < 2`, `^1.2`, `= 1.0.0`."""
    here = numbers(version)
    for part in requirement.split(","):
        sign, text = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*([\w.+-]+)\s*", part).groups()
        there = numbers(text)
        if sign in (None, "^", "~"):
            given = text.split("-")[0].split(".")
            kept = min(1, len(given) - 1)
            if sign != "~":
                kept = next((at for at, number in enumerate(there[:3]) if number), len(given) - 1)
            good = here >= there and here[: kept + 1] == there[: kept + 1]
        else:
            good = {">=": here >= there, "<=": here <= there, ">": here > there, "<": here < there, "=": here == there}[sign]
        if not good:
            return False
    return True


def self_test():
    for version, requirement, wanted in [
        ("1.2.3", ">= 1.2.3", True),
        ("1.2.2", ">= 1.2.3", False),
        ("1.2.3-rc.1", ">= 1.2.3", False),
        ("0.8.4", "^0.8.3", True),
        ("0.9.0", "^0.8.3", False),
        ("1.5.0", ">= 1.2, < 2", True),
        ("2.0.0", ">= 1.2, < 2", False),
        ("1.2.9", "~1.2.3", True),
        ("1.3.0", "~1.2.3", False),
        ("1.0.0", "= 1.0.0", True),
    ]:
        assert matches(version, requirement) is wanted, (version, requirement)


def database(cache):
    folder = cache / "advisory-db"
    command = ["git", "-C", folder, "pull", "--quiet"] if folder.exists() else ["git", "clone", "--quiet", "--depth", "1", DATABASE, folder]
    try:
        subprocess.run(command, check=True, timeout=120, stderr=subprocess.PIPE)
    except (subprocess.SubprocessError, OSError):
        if not folder.exists():
            return None
        print("The database can't be refreshed; an older copy is used.")
    return folder


def main(cache):
    self_test()
    folder = database(pathlib.Path(cache))
    if folder is None:
        print(f"NOT CHECKED: {DATABASE} can't be reached.")
        return
    locked = {}
    for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]:
        locked.setdefault(package["name"], []).append(package["version"])
    bad, told, count = [], [], 0
    for path in sorted((folder / "crates").glob("*/*.md")):
        if path.parent.name not in locked:
            continue
        count += 1
        advisory = tomllib.loads(re.search(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)[1])
        about, versions = advisory["advisory"], advisory.get("versions", {})
        if about.get("withdrawn"):
            continue
        for version in locked[about["package"]]:
            if not any(matches(version, each) for each in versions.get("patched", []) + versions.get("unaffected", [])):
                line = f"{about['id']}: {about['package']} {version} (patched: {versions.get('patched', [])})"
                (told if about.get("informational") else bad).append(line)
    for line in told:
        print("note:", line)
    if bad:
        sys.exit("\n".join(bad))
    print(f"{count} advisories about {len(locked)} locked packages: none applies.")


if __name__ == "__main__":
    main(sys.argv[1])
