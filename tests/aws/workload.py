"""Objects to land: right and wrong ones, under keys of all kinds; and what must become of each."""

import gzip
import hashlib
import json
import random

PREFIX = "landing/ndjson/"
DATES = ("2026-02-01", "2026-02-02")
# Two that object stores and URLs treat in a way of their own stand in each folder of this list.
AWKWARD = ("plain", "with space", "a+b", "50%", "a%20b", "naïve é", "日本語", "x&y=z", "q?a#b", "semi;colon", "(p)*'!", "~t@:$,")


class Version:
    """One content of one key."""

    def __init__(self, key, body, ids=(), rejects=0, fate="completed"):
        self.key, self.body, self.ids, self.rejects, self.fate = key, body, list(ids), rejects, fate
        # Of a plain put the etag is the MD5.
        self.etag = hashlib.md5(body).hexdigest()


class Workload:
    def __init__(self, objects, lines=40, seed=2026):
        self.random, self.count, self.most = random.Random(seed), 0, lines
        self.versions = []
        for number in range(objects):
            self.versions.append(self.version(number))

    def ids(self, lines):
        ids = [f"id-{self.count + at:07}" for at in range(lines)]
        self.count += lines
        return ids

    def lines(self, ids, rejects=0):
        lines = [json.dumps({"id": of, "n": self.random.random(), "text": "é \"x\""}, ensure_ascii=False) for of in ids]
        for _ in range(rejects):
            lines.insert(self.random.randrange(len(lines) + 1), '{"id": "broken')
        return "".join(f"{line}\n" for line in lines).encode()

    def version(self, number):
        date, name = DATES[number % len(DATES)], AWKWARD[number % len(AWKWARD)]
        folder = "/".join(AWKWARD[(number // 7 + depth) % len(AWKWARD)] for depth in range(number % 3))
        key = f"{PREFIX}{date}/{folder + '/' if folder else ''}{name}-{number:04}"
        kind = number % 50
        if kind == 3:
            return Version(f"{key}.csv", b"id,n\n1,2\n", fate="quarantined")
        if kind == 13:
            return Version(f"{key}.ndjson", b"{}\n", fate="quarantined")  # Below min_bytes.
        if kind == 23:
            return Version(f"{key}.ndjson", b"no json\n" * 5, rejects=5, fate="failed")
        ids = self.ids(self.random.randint(1, self.most))
        if kind == 33:
            return Version(f"{key}.ndjson.gz", gzip.compress(self.lines(ids) * 20)[:-20], fate="failed")
        if kind in (17, 37):
            return Version(f"{key}.ndjson.gz", gzip.compress(self.lines(ids)), ids)
        rejects = 1 if kind in (5, 15, 25) and len(ids) > 2 else 0
        suffix = {7: ".NDJSON", 27: ".Jsonl", 47: ".jsonl"}.get(kind, ".ndjson")
        return Version(f"{key}{suffix}", self.lines(ids, rejects), ids, rejects)

    def corrected(self, version):
        """Another content for the same key."""
        ids = self.ids(3)
        return Version(version.key, self.lines(ids), ids)
