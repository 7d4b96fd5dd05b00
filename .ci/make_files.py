#!/usr/bin/env python3
"""Makes NDJSON files of every kind that the conversion has a rule for, always the same ones.

    make_files.py FOLDER            a tree of files below folders of dates
    make_files.py --wide FILE       one file with more keys than there may be columns
"""

import gzip
import io
import json
import pathlib
import random
import sys

import zstandard

TEXTS = [
    "plain", "", " ", "null", "true", "2.50", "Zürich", "東京", "👩‍🚀 🚀", 'quote " and \\ back', "tab\tline\nreturn\r",
    "nul\u0000in the middle", "del\u007f", "\u2028\u2029", "a" * 300, "/path/to", "<a href='x'>&amp;</a>", "\ufeffmark",
]
# Values as they stand in a line; each must come out as exactly this text.
VALUES = [
    "0", "-0", "-0.0", "2.50", "1e10", "1E+10", "1e-7", "0.1000", "123456789012345678901234567890", "1.7976931348623159e400",
    "true", "false", "null", "{}", "[]", "{ }", "[ 1 , 2.0 ]", '{"b":2.50,"a":[1e3,{"x":null}]}', '{"a":1,"a":2}',
    '["\\u00e9","\\ud83d\\ude00","\\/"]', '{"lone \\ud800":"kept as it is"}', '[[[[[[]]]]]]',
]
# Strings as they stand in a line, quotes and all.
STRINGS = [
    '"\\u00e9"', '"\\ud83d\\ude00"', '"\\/\\b\\f\\n\\r\\t\\"\\\\"', '"\\u0000"', '"\\uD83D\\uDE00 and é"', '"\\u005C"', '"€"',
]
# Lines that are no rows.
BAD = [
    b'{"id": "broken", ', b"not json at all", b"[1, 2, 3]", b'"text"', b"42", b"null", b'{"id": 01}', b'{"id": 1.}',
    b'{"id": .5}', b'{"id": +1}', b'{"id": NaN}', b'{"id": Infinity}', b'{"id": -Infinity}', b'{"id": 1} {"id": 2}',
    b'{"id": 1},', b'{"id": "\xff\xfe"}', b'{"id": "\xc0\xaf"}', b'{"id": "\xed\xa0\x80"}', b'{"id": "\\ud800"}',
    b'{"\\udc00": 1}', b'{"id": "tab\tin it"}', b'{"id": "\\x41"}', b'{"id": "\\u12G4"}', b'{"id": 1,}', b'{,}', b'{"id"}',
    b'{"id" 1}', b"{'id': 1}", b'{"id": tru}', b'{"id": True}', b'{"id": [1, 2}', b'{"id": {"a": 1]}', b"\x00", b"{",
    b'{"id": "\xef\xbb\xbf', b"\xef\xbb\xbf{}", b'{"a":' + b"[" * 128 + b"]" * 128 + b"}", b'\x0b{"id": 1}',
]


def event(rng, number):
    """One line without its end, with an id that no other line has."""
    dump = lambda text: json.dumps(text, ensure_ascii=rng.random() < 0.5)
    fields = [
        ('"id"', dump(f"id-{number:08}")),
        ('"number"', rng.choice(VALUES[:10])),
        ('"text"', dump(rng.choice(TEXTS))),
        ('"escaped"', rng.choice(STRINGS)),
        ('"value"', rng.choice(VALUES)),
    ]
    if rng.random() < 0.3:
        fields.append((dump(rng.choice(["Id", "ID", "größe", "key with space", "a.b", 'q"uote', "back\\slash", "_note",
                                        "_rest", "_source_file", "_source_etag", "_processing_timestamp", "_other"])),
                       rng.choice(VALUES + STRINGS)))
    if rng.random() < 0.1:
        fields.append((dump("long " + "k" * rng.choice([250, 251, 252, 300])), rng.choice(VALUES)))
    if rng.random() < 0.1:
        fields.append(('"text"', rng.choice(["null", '"the last one"', "7"])))
    if rng.random() < 0.1:
        fields.append(('"\\u0074ext"', rng.choice(STRINGS)))
    if rng.random() < 0.1:
        fields.append((dump(f"rare_{rng.randrange(40)}"), "1"))
    if rng.random() < 0.05:
        fields.append(('"deep"', "[" * 127 + "]" * 127))
    if rng.random() < 0.2:
        rng.shuffle(fields)
    space = lambda: rng.choice(["", "", "", " ", "\t", "  "])
    body = ",".join(f"{space()}{key}{space()}:{space()}{value}{space()}" for key, value in fields)
    return f"{space()}{{{body}}}{space()}".encode()


class Tree:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.rng = random.Random(20260201)
        self.made = 0

    def lines(self, count):
        self.made += count
        return [event(self.rng, self.made - at) for at in range(count)]

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def text(lines, end=b"\n"):
    return b"".join(line + end for line in lines)


def zstd(content):
    return zstandard.ZstdCompressor(level=3).compress(content)


def make_tree(folder):
    tree = Tree(folder)
    rng = tree.rng
    for number in range(130):
        date = rng.choice(["2026-02-01", "2026-02-02"])
        tree.write(f"{date}/plain-{number:03}.ndjson", text(tree.lines(rng.randrange(1, 120))))
    day = "2026-02-01"
    tree.write(f"{day}/crlf.ndjson", b"\xef\xbb\xbf" + text(tree.lines(50), b"\r\n"))
    tree.write(f"{day}/no-end.jsonl", text(tree.lines(20)) + tree.lines(1)[0])
    tree.write(f"{day}/blank.ndjson", b"\n\r\n \t \n" + text(tree.lines(9), b"\n\n \n") + b"\n\n")
    tree.write(f"{day}/empty-objects.ndjson", b"{}\n{ }\n" + text(tree.lines(2)) + b"{}")
    tree.write(f"{day}/empty.ndjson", b"")
    tree.write(f"{day}/only-blank.ndjson", b"\n\n  \n")
    tree.write(f"{day}/mark-alone.ndjson", b"\xef\xbb\xbf")
    tree.write(f"{day}/eu/west/nested.ndjson", text(tree.lines(30)))
    tree.write(f"{day}/eu/east/nested.ndjson", text(tree.lines(30)))
    tree.write(f"{day}/nested.ndjson", text(tree.lines(30)))
    tree.write(f"{day}/événements + 100% é #1?.NDJSON", text(tree.lines(30)))
    tree.write(f"{day}/packed.ndjson.gz", gzip.compress(text(tree.lines(300))))
    two = gzip.compress(text(tree.lines(40))[:-7]) + gzip.compress(b'"x":1}\n' + text(tree.lines(40)))
    tree.write(f"{day}/members.jsonl.gz", two)
    tree.write(f"{day}/packed.ndjson.zst", zstd(text(tree.lines(300))))
    tree.write(f"{day}/frames.jsonl.zst", zstd(text(tree.lines(40))) + zstd(text(tree.lines(40))))
    tree.write(f"{day}/empty.ndjson.gz", gzip.compress(b""))
    bad = tree.lines(len(BAD)) + BAD
    rng.shuffle(bad)
    tree.write(f"{day}/some-bad.ndjson", text(bad))
    tree.write(f"{day}/some-bad-crlf.ndjson.gz", gzip.compress(text(bad, b"\r\n")))
    # Exactly half of the lines are rejects: the most that a file may have.
    tree.write(f"{day}/half-bad.ndjson", text(tree.lines(10) + BAD[:10]))
    tree.write(f"{day}/many-rejects.ndjson", text(tree.lines(1500) + [b"bad"] * 1400))
    long_line = b'{"id":"long","text":"' + b"x" * (17 << 20) + b'"}'
    tree.write(f"{day}/long-line.ndjson", text(tree.lines(3) + [long_line] + tree.lines(3)))
    # Large enough to be cut into ranges; lines of very different lengths.
    large = io.BytesIO()
    while large.tell() < 40 << 20:
        for line in tree.lines(200):
            if rng.random() < 0.03:
                line = line.rstrip()[:-1] + b',"padding":"' + b"p" * rng.randrange(200_000) + b'"}'
            large.write(line + b"\n")
            if rng.random() < 0.01:
                large.write(rng.choice(BAD[:10]) + b"\n")
    tree.write("2026-02-02/large.ndjson", large.getvalue())
    # These must end as failed, with none of their lines in an output.
    tree.write(f"{day}/too-bad.ndjson", text(tree.lines(10) + BAD[:11]))
    tree.write(f"{day}/no-json.ndjson", rng.randbytes(5000))
    packed = gzip.compress(text(tree.lines(2000)))
    tree.write(f"{day}/truncated.ndjson.gz", packed[: len(packed) * 2 // 3])
    tree.write(f"{day}/trailer.ndjson.gz", packed[:-4] + b"\0\0\0\0")
    packed = zstd(text(tree.lines(2000)))
    tree.write(f"{day}/truncated.ndjson.zst", packed[: len(packed) * 2 // 3])
    tree.write(f"{day}/no-gzip.ndjson.gz", text(tree.lines(5)))
    # And these in quarantine.
    tree.write(f"{day}/table.csv", b"a,b\n1,2\n")
    tree.write(f"{day}/no-suffix", text(tree.lines(2)))


def make_wide(file):
    rng = random.Random(7)
    with open(file, "wb") as out:
        for line in range(400):
            names = rng.sample(range(3000), 30)
            out.write(json.dumps({"id": line, **{f"key_{name}": rng.choice([1, None, "é", [1]]) for name in names}}).encode())
            out.write(b"\n")


if __name__ == "__main__":
    if sys.argv[1] == "--wide":
        make_wide(sys.argv[2])
    else:
        make_tree(sys.argv[1])
