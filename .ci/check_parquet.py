#!/usr/bin/env python3
"""Compares every line that went in with what DuckDB reads from the Parquet that came out.

    check_parquet.py run --tree FOLDER --local DIR --status FILE
    check_parquet.py convert --tree FOLDER_OR_FILE --parquet FILE [--must-overflow]

`run` checks a pipeline's local folder: FOLDER holds the files that were landed, below folders of dates; FILE is what
`penstock status --json` printed. `convert` checks the one file that `penstock convert` wrote.

What a line must become is worked out here a second time, by the rules of the README and not by the program's code:
Python's own JSON scanner finds where each value begins and ends, and the text between is what must come out.
"""

import argparse
import collections
import gzip
import hashlib
import io
import json
import pathlib
import re
import sys
import unicodedata
from json.decoder import scanstring

import duckdb
import zstandard

MAX_LINE_BYTES = 16 << 20
MAX_DEPTH = 128
MAX_REJECT_RATIO = 0.5
MAX_REJECTS_PER_FILE = 1000
MAX_REJECT_BYTES = 4 << 10
MAX_COLUMNS = 1000
MAX_NAME_BYTES = 256
SUFFIXES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz", ".ndjson.zst", ".jsonl.zst")
SOURCE_FILE, SOURCE_ETAG, TIMESTAMP, REST = "_source_file", "_source_etag", "_processing_timestamp", "_rest"
RESERVED = {SOURCE_FILE, SOURCE_ETAG, TIMESTAMP, REST, "_note"}
SPACE = re.compile(r"[ \t\r]*")

errors = []


def complain(message):
    errors.append(message)
    if len(errors) <= 20:
        print(f"  WRONG: {message}", file=sys.stderr)


class NoRow(Exception):
    """The line is a reject."""


def no_constant(name):
    raise NoRow(f"{name} is no JSON")


# Numbers are left as text: Python must not judge how large one may be.
scan_once = json.JSONDecoder(parse_constant=no_constant, parse_int=str, parse_float=str).scan_once


def depth_of(text):
    """How deeply a valid JSON value is nested."""
    deepest = depth = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def members(line):
    """The members of the object that is a line: the key's text, the key as it stands there, the value as it stands
    there, and the value's text (None for null)."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoRow(str(error)) from error
    skip = lambda at: SPACE.match(text, at).end()
    found = []
    try:
        at = skip(0)
        if text[at : at + 1] != "{":
            raise NoRow("not an object")
        at = skip(at + 1)
        if text[at : at + 1] == "}":
            at += 1
        else:
            while True:
                if text[at : at + 1] != '"':
                    raise NoRow("no key")
                start = at
                key, at = scanstring(text, at + 1, True)
                key.encode("utf-8")
                raw_key = text[start:at]
                at = skip(at)
                if text[at : at + 1] != ":":
                    raise NoRow("no colon")
                start = skip(at + 1)
                value, at = scan_once(text, start)
                raw = text[start:at]
                if raw[0] == '"':
                    value.encode("utf-8")
                elif raw[0] in "[{":
                    if depth_of(raw) + 1 > MAX_DEPTH:
                        raise NoRow("too deep")
                    value = raw
                else:
                    value = None if raw == "null" else raw
                found.append((key, raw_key, raw, value))
                at = skip(at)
                if text[at : at + 1] == "}":
                    at += 1
                    break
                if text[at : at + 1] != ",":
                    raise NoRow("no comma")
                at = skip(at + 1)
        if skip(at) != len(text):
            raise NoRow("something follows")
    except (ValueError, StopIteration, RecursionError) as error:
        # UnicodeEncodeError, a kind of ValueError, is a lone surrogate.
        raise NoRow(str(error)) from error
    return found


def row_of(found, columns):
    """The cells of a row that aren't null, given the columns that its file has."""
    cells, rest = {}, {}
    for key, raw_key, raw, value in found:
        if key in columns and key not in RESERVED:
            cells[key] = value
        else:
            rest.pop(key, None)
            rest[key] = f"{raw_key}:{raw}"
    cells = {name: value for name, value in cells.items() if value is not None}
    if rest:
        cells[REST] = "{" + ",".join(rest.values()) + "}"
    return cells


def content_of(path):
    """A file's bytes, unpacked; None if they can't be."""
    packed = path.read_bytes()
    name = path.name.lower()
    try:
        if name.endswith(".gz"):
            return gzip.decompress(packed)
        if name.endswith(".zst"):
            # Reading on to the end tells a truncated file only by its own word.
            out, at = b"", 0
            while at < len(packed):
                frame = zstandard.ZstdDecompressor().decompressobj()
                out += frame.decompress(packed[at:])
                if not frame.eof:
                    return None
                at = len(packed) - len(frame.unused_data)
            return out
    except (OSError, EOFError, zstandard.ZstdError, gzip.zlib.error):
        return None
    return packed


class Expected:
    """What must become of a file."""

    def __init__(self, path):
        self.rows, self.rejects = [], {}
        content = content_of(path)
        self.reason = "undecodable" if content is None else None
        if content is None:
            return
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.removesuffix(b"\r")
            if len(line) > MAX_LINE_BYTES:
                self.rejects[number] = line
                continue
            if not line.strip(b" \t\r"):
                continue
            try:
                self.rows.append(members(line))
            except NoRow:
                self.rejects[number] = line
        if len(self.rejects) > MAX_REJECT_RATIO * (len(self.rows) + len(self.rejects)):
            self.reason = "too_many_rejects"


def digest(cells):
    return hashlib.blake2b(json.dumps(sorted(cells.items())).encode(), digest_size=16).digest()


class Outputs:
    """The rows of Parquet files, by the file that they come from."""

    def __init__(self):
        self.rows = collections.defaultdict(collections.Counter)
        self.columns = {}
        self.place = {}
        self.total = 0
        self.database = duckdb.connect()

    def read(self, parquet):
        execute = lambda query: self.database.execute(query, [str(parquet)])
        schema = execute("SELECT name, type, converted_type, num_children FROM parquet_schema(?)").fetchall()[1:]
        # DuckDB tells names apart without their case, and renames: columns are taken by their place.
        names = [name for name, *_ in schema]
        if len(set(names)) != len(names):
            complain(f"{parquet.name}: a column's name stands twice")
        for name, kind, converted, _ in schema:
            if (kind, converted) != ("BYTE_ARRAY", "UTF8"):
                complain(f"{parquet.name}: column {name} is {kind}/{converted}, not text")
        codecs = execute("SELECT DISTINCT compression FROM parquet_metadata(?)").fetchall()
        if codecs not in ([("SNAPPY",)], []):
            complain(f"{parquet.name}: compressed by {codecs}")
        at = {name: place for place, name in enumerate(names)}
        stamps = set()
        reader = execute("SELECT * FROM read_parquet(?)")
        while batch := reader.fetchmany(20_000):
            for row in batch:
                source = row[at[SOURCE_FILE]]
                stamps.add((row[at[TIMESTAMP]]))
                cells = {name: value for name, value in zip(names, row) if value is not None}
                etag = cells.pop(SOURCE_ETAG, None)
                if etag is None or self.place.setdefault(source, (etag, parquet.name.rsplit("-p", 1)[0])) != (
                    etag, parquet.name.rsplit("-p", 1)[0]
                ):
                    complain(f"{source}: rows with other etags, or of two manifests")
                del cells[SOURCE_FILE]
                cells.pop(TIMESTAMP, None)
                self.rows[source][digest(cells)] += 1
                self.columns[source] = set(names)
                self.total += 1
        if len(stamps) > 1 or None in stamps:
            complain(f"{parquet.name}: {TIMESTAMP} is {stamps}")
        return names

    def compare(self, source, expected):
        rows = self.rows.pop(source, collections.Counter())
        columns = self.columns.get(source, set())
        count = sum(rows.values())
        if count != len(expected.rows):
            complain(f"{source}: {count} rows instead of {len(expected.rows)}")
        for found in expected.rows:
            cells = row_of(found, columns)
            key = digest(cells)
            if rows[key] == 0:
                complain(f"{source}: no row with the cells {json.dumps(cells, ensure_ascii=False)[:600]}")
            rows[key] -= 1
        # A key that could be a column must be one, as long as there is room.
        overflow = {
            key for found in expected.rows for key, *_ in found
            if key not in columns and key not in RESERVED and len(key.encode()) <= MAX_NAME_BYTES
        }
        if overflow and len(columns - RESERVED) != MAX_COLUMNS:
            complain(f"{source}: {sorted(overflow)[:5]} are no columns, and there are only {len(columns)}")
        return overflow


def check_rejects(lines, expected_of):
    """Compares the rejects objects with the lines that are no rows."""
    told, more = collections.defaultdict(dict), {}
    for line in lines:
        reject = json.loads(line)
        if "more_rejects" in reject:
            more[reject["file"]] = reject["more_rejects"]
        elif reject["line"] in told[reject["file"]]:
            complain(f"{reject['file']}: line {reject['line']} is rejected twice")
        else:
            told[reject["file"]][reject["line"]] = reject
    for source, expected in expected_of.items():
        of_file = told.pop(source, {})
        wanted = sorted(expected.rejects)[:MAX_REJECTS_PER_FILE]
        if sorted(of_file) != wanted:
            complain(f"{source}: lines {sorted(set(of_file) ^ set(wanted))[:10]} are rejected, or not, by mistake")
        if more.pop(source, 0) != len(expected.rejects) - len(wanted):
            complain(f"{source}: the count of further rejects is wrong")
        for number, reject in of_file.items():
            line = expected.rejects.get(number, b"")
            raw = reject["raw"].encode() if "raw" in reject else None
            if reject["length"] != len(line) or (raw is not None and not line.startswith(raw)) or not reject["reason"]:
                complain(f"{source}: line {number} is told wrongly: {str(reject)[:300]}")
            if raw is not None and len(raw) < min(len(line), MAX_REJECT_BYTES - 3):
                complain(f"{source}: line {number} is kept in part only")
    for source in [*told, *more]:
        complain(f"{source}: rejects of a file that gave none")


def bucket(local, component):
    [folder] = (local / "s3").glob(f"*-{component}-*")
    return folder


def check_run(tree, local, status):
    facts = json.loads(status.read_text())["facts"]
    input_bucket, prefix = bucket(local, "input"), "landing/ndjson/"
    outputs = Outputs()
    wanted_outputs = sorted(local / "s3" / uri.removeprefix("s3://") for uri in facts["outputs"])
    there = sorted(path for path in bucket(local, "output").rglob("*.parquet") if ".penstock" not in path.parts)
    if there != wanted_outputs:
        complain(f"outputs that no manifest has, or that are missing: {set(there) ^ set(wanted_outputs)}")
    names_of = {}
    for parquet in there:
        names_of[parquet] = outputs.read(parquet)
    # Columns never vanish or change place between a dataset's files.
    longest = max(names_of.values(), key=len, default=[])
    own = [name for name in longest if name not in RESERVED - {REST}]
    for parquet, names in names_of.items():
        columns = [name for name in names if name not in RESERVED - {REST}]
        if columns != own[: len(columns)]:
            complain(f"{parquet.name}: its columns are no beginning of the dataset's")
    states, rejects_of = collections.defaultdict(collections.Counter), {}
    troubled = {(trouble["date"], trouble["key"]): trouble for trouble in facts["troubled_files"]}
    rows = rejects = 0
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        name = path.relative_to(tree).as_posix()
        date, key = name.split("/", 1)
        source = f"s3://{input_bucket.name}/{prefix}{name}"
        if not path.name.lower().endswith(SUFFIXES):
            state, reason = "quarantined", "wrong suffix"
        else:
            expected = Expected(path)
            state, reason = ("failed", expected.reason) if expected.reason else ("completed", None)
        states[date][state] += 1
        trouble = troubled.pop((date, key), {"state": "completed", "reason": ""})
        if trouble["state"] != state or not trouble["reason"].startswith(reason or ""):
            complain(f"{name}: {trouble} instead of {state} ({reason})")
        if state == "completed":
            outputs.compare(source, expected)
            rejects_of[source] = expected
            rows += len(expected.rows)
            rejects += len(expected.rejects)
    for date, counts in states.items():
        found = facts["dates"].get(date, {}).get("files")
        if found != dict(counts):
            complain(f"{date}: files are {found} instead of {dict(counts)}")
    for source in outputs.rows:
        complain(f"{source}: rows of a file that must give none")
    for key in troubled:
        complain(f"{key}: trouble with a file that nobody landed")
    told = [line for path in (bucket(local, "quarantine") / "rejects").rglob("*.ndjson") for line in path.open("rb")]
    check_rejects(told, rejects_of)
    for what, found in [("rows", rows), ("rejected_rows", rejects)]:
        counted = sum(date[what] for date in facts["dates"].values())
        if counted != found:
            complain(f"status counts {counted} {what} instead of {found}")
    files = sum(sum(counts.values()) for counts in states.values())
    return f"{files} files, {rows} rows, {rejects} rejects, {len(there)} Parquet files"


def check_convert(tree, parquet, must_overflow):
    outputs = Outputs()
    outputs.read(parquet)
    files = [tree] if tree.is_file() else sorted(tree.rglob("*"))
    rows, rejects_of, overflow = 0, {}, set()
    by_name = {unicodedata.normalize("NFC", source): source for source in outputs.rows}
    for path in files:
        # The patterns of .ci/check_outputs.
        if not path.is_file() or ".ndjson" not in path.name:
            continue
        expected = Expected(path)
        [source] = [source for name, source in by_name.items() if name.endswith(str(path))] or [str(path)]
        if expected.reason is None:
            overflow |= outputs.compare(source, expected)
            rejects_of[source if source in by_name.values() else f"file://{path}"] = expected
            rows += len(expected.rows)
    for source in outputs.rows:
        complain(f"{source}: rows of a file that must give none")
    told = pathlib.Path(f"{parquet}.rejects.ndjson")
    check_rejects(told.open("rb") if told.exists() else [], rejects_of)
    if must_overflow and not overflow:
        complain("nothing went past the last column")
    return f"{len(rejects_of)} files, {rows} rows"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_run = commands.add_parser("run")
    of_run.add_argument("--local", type=pathlib.Path, required=True)
    of_run.add_argument("--status", type=pathlib.Path, required=True)
    of_convert = commands.add_parser("convert")
    of_convert.add_argument("--parquet", type=pathlib.Path, required=True)
    of_convert.add_argument("--must-overflow", action="store_true")
    for command in (of_run, of_convert):
        command.add_argument("--tree", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "run":
        summary = check_run(arguments.tree, arguments.local, arguments.status)
    else:
        summary = check_convert(arguments.tree, arguments.parquet, arguments.must_overflow)
    if errors:
        sys.exit(f"{len(errors)} differences ({summary})")
    print(f"As it must be: {summary}.")


if __name__ == "__main__":
    main()
