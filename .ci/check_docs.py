#!/usr/bin/env python3
"""Checks that the documents' links lead to files and headings that are there, that the tests they cite exist, and that the
runbook has a heading for each alarm."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tracked(pattern):
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def anchors(document):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main():
    wrong = []
    tests = set(re.findall(r"\bfn (\w+)\(", "".join(source.read_text() for source in tracked("*.rs"))))
    documents = tracked("*.md")
    for document in documents:
        text, name = document.read_text(), document.relative_to(ROOT)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if ":" in target:
                continue
            path, _, anchor = target.partition("#")
            there = document.parent / path if path else document
            if not there.exists():
                wrong.append(f"{name}: {target} leads nowhere")
            elif anchor and anchor not in anchors(there):
                wrong.append(f"{name}: {target} has no such heading")
        for cited in re.findall(r"`(?:\w+::)*([if]\d+_\w+)(?:…)?`", text):
            if not any(test.startswith(cited) for test in tests):
                wrong.append(f"{name}: there is no test {cited}")
    runbook = ROOT / "docs/runbook.md"
    for template in tracked("deploy/aws/*.yaml"):
        for alarm in re.findall(r'AlarmName: !Sub "\$\{Pipeline\}-\$\{Env\}-([\w-]+)"', template.read_text()):
            if alarm not in anchors(runbook):
                wrong.append(f"{template.relative_to(ROOT)}: docs/runbook.md says nothing of the alarm {alarm}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(documents)} documents.")


if __name__ == "__main__":
    main()
