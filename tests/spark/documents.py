"""Documents for the comparison with Spark: lists of lines, of every shape that NDJSON comes in, right and wrong.

A document is made from a seed, so it can be made again. What Spark refuses as a whole (keys that differ only in case) is
left to chance and skipped by whoever compares.
"""

import json
import random

NAMES = ["a", "b", "c", "id", "name", "Zed", "tags", "x.y", "größe", "\U0001f600", "\uffee", "n", "ts", "", "_corrupt_record",
         "with space", "quo\"te", "back\\slash", "tab\there", "`tick`", "'s", "0", "$v"]
TEXTS = ["", "x", "text", "2026-02-01", "2026-02-01T10:11:12Z", "12", "1.5", "true", "null", "NaN", "INF", "Infinity", "-INF",
         "{\"a\":1}", "[1]", "a,b", "it's", "say \"hi\"", "back\\slash", "line\nfeed", "tab\t", "\u0001", "\u007f", "caf\u00e9",
         "\u20ac", "\U0001f600", "/", "</x>", "  padded  ", "0x10", "1e5", "\u2028", "\ufeff", "\u00a0"]
NUMBERS = ["0", "-0", "1", "-1", "7", "42", "2147483647", "2147483648", "-2147483649", "999999999", "1000000000",
           "9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809",
           "12345678901234567890", "99999999999999999999", "123456789012345678901234567890",
           "99999999999999999999999999999999999999", "-99999999999999999999999999999999999999",
           "100000000000000000000000000000000000000", "123456789012345678901234567890123456789012345"]
FLOATS = ["0.0", "-0.0", "1.0", "2.50", "0.1", "1e10", "1E10", "1e+10", "1.5e-7", "1e-400", "1e400", "-1e400", "123456.789",
          "1234567.0", "12345678.9", "0.001", "0.00099", "1e22", "1e23", "2e23", "5e-324", "2.2250738585072014E-308",
          "2.2250738585072012e-308", "1.7976931348623157e308", "100.0", "1e7", "9999999.999", "3.0e0", "0e0", "1e0",
          "2.82879384806159E17", "1.387364135037754E18", "8.41E21", "2.0E-3", "0.30000000000000004", "1e999999999999"]
ODD = ["NaN", "Infinity", "-Infinity", "+Infinity", "-INF", "+INF", "INF", "nan", "+1", "01", "1.", ".5", "-", "1e", "tru", "nul",
       "True", "None", "undefined", "'single'", "'it\\'s'", "'say \"x\"'", "1x", "--1", "0x1F", "1_000", "'", "\"", "\"open",
       "\"bad \\q escape\"", "\"bad \\u12 escape\"", "\"\\ud800\"", "\"\\udc00x\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\\ud83d\"", "\"tab\tin\"",
       "\"\\u0000\"", "\"\\/\"", "\"\\'\"", "/*c*/1", "1 // c", "# c", "\\", "[1,]", "[,1]", "{,}", "{\"k\":}", "{\"k\"}", "{k:1}",
       "{'k':1}", "[1 2]", "[", "{", "]", "}", "[}", "{]", "true:", "nullx", "falsey", "[tru]", "[1.]", "{\"k\":tru}", "{\"k\":\"\\q\"}"]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        r = self.random
        # A document is mostly of one mind: few names, a type for each, now and then another.
        self.names = r.sample(NAMES, r.randint(1, 7))
        self.mixing = r.choice([0, 0, 0.05, 0.3])
        self.nulls = r.choice([0, 0.1, 0.4])
        self.odd = r.choice([0, 0, 0, 0.03, 0.15])
        self.broken = r.choice([0, 0, 0, 0.05, 0.25])
        self.roots = r.choice([0, 0, 0, 0.1])
        self.spaces = r.choice([0, 0, 0.2])
        self.plans = {}

    def plan(self, path, depth):
        if path not in self.plans:
            kinds = ["text", "int", "float", "bool", "number", "big", "object", "array", "null", "empty"]
            weights = [4, 4, 3, 2, 2, 1, 4 if depth < 4 else 0, 3 if depth < 4 else 0, 0.5, 0.5]
            self.plans[path] = (self.random.choices(kinds, weights)[0], self.random.sample(NAMES, self.random.randint(1, 4)))
        return self.plans[path]

    def text(self, text):
        r = self.random
        if r.random() < 0.6:
            return json.dumps(text, ensure_ascii=r.random() < 0.5)
        if r.random() < 0.2 and "'" not in text and "\\" not in text and text.isprintable():
            return "'" + text + "'"
        out = []
        for character in text:
            if character in "\"\\" or ord(character) < 32:
                out.append(json.dumps(character)[1:-1])
            elif r.random() < 0.15 and ord(character) < 0x10000:
                out.append("\\u%04x" % ord(character) if r.random() < 0.5 else "\\u%04X" % ord(character))
            else:
                out.append(character)
        return '"' + "".join(out) + '"'

    def number(self):
        r = self.random
        return r.choice([
            lambda: repr(r.uniform(-1000, 1000)), lambda: repr(r.random() * 10 ** r.randint(-30, 30)),
            lambda: "%.2f" % r.uniform(0, 1000), lambda: "%de%d" % (r.randint(1, 999), r.randint(-330, 310)),
            lambda: r.choice(FLOATS)])()

    def value(self, path, depth):
        r = self.random
        if r.random() < self.nulls:
            return r.choice(["null", "null", '""'])
        if r.random() < self.odd:
            return r.choice(ODD)
        kind, names = self.plan(path, depth)
        if r.random() < self.mixing:
            kind = r.choice(["text", "int", "float", "bool", "big", "object", "array", "null", "empty"])
            if depth >= 5 and kind in ("object", "array"):
                kind = "int"
        if kind == "text":
            return self.text(r.choice(TEXTS))
        if kind == "int":
            return str(r.randint(-1000, 1000)) if r.random() < 0.7 else r.choice(NUMBERS[:13])
        if kind == "float":
            return self.number()
        if kind == "number":
            return str(r.randint(-100, 100)) if r.random() < 0.5 else self.number()
        if kind == "big":
            return r.choice(NUMBERS) if r.random() < 0.5 else str(r.randint(-10 ** r.randint(1, 45), 10 ** r.randint(1, 45)))
        if kind == "bool":
            return r.choice(["true", "false"])
        if kind == "object":
            return self.object(names, path, depth + 1)
        if kind == "array":
            return "[" + self.space() + (self.space() + "," + self.space()).join(
                self.value(path + ("[]",), depth + 1) for _ in range(r.choice([0, 1, 1, 2, 3]))) + self.space() + "]"
        return "null" if kind == "null" else r.choice(["{}", "[]", '""'])

    def space(self):
        r = self.random
        return r.choice([" ", "  ", "\t", " \t "]) if r.random() < self.spaces else ""

    def object(self, names, path, depth):
        r = self.random
        names = [name for name in names if r.random() < 0.85]
        if r.random() < 0.2:
            r.shuffle(names)
        fields = [self.space() + self.text(name) + self.space() + ":" + self.space()
                  + self.value(path + (name,), depth) + self.space() for name in names]
        return "{" + ",".join(fields) + self.space() + "}"

    def line(self):
        r = self.random
        if r.random() < self.roots:
            return r.choice([
                lambda: "", lambda: "  \t", lambda: "null", lambda: "5", lambda: '"text"', lambda: '""', lambda: "[]", lambda: "[[]]",
                lambda: "[null]", lambda: "true", lambda: "1 2", lambda: "NaN", lambda: "[1]",
                lambda: "[" + ",".join(self.object(self.names, (), 0) for _ in range(r.randint(1, 3))) + "]",
                lambda: "[[" + self.object(self.names, (), 0) + "]]",
                lambda: "[" + self.object(self.names, (), 0) + ",1]",
                lambda: self.object(self.names, (), 0) + " " + self.object(self.names, (), 0),
                lambda: self.object(self.names, (), 0) + r.choice(["x", ",", "}", "]", "null", "/"]),
                lambda: self.object(self.names, (), 0) + "\r" + self.object(self.names, (), 0),
                lambda: "\ufeff" + self.object(self.names, (), 0)])()
        line = self.space() + self.object(self.names, (), 0) + self.space()
        if r.random() < self.broken and line:
            at = r.randrange(len(line))
            line = r.choice([
                lambda: line[:at], lambda: line[:at] + line[at + 1:], lambda: line[:at] + r.choice('{}[]",:\\\'0x \t-e.') + line[at:],
                lambda: line[:at] + r.choice('{}[]",:\\\'0x -e.') + line[at + 1:],
                lambda: line[:at] + line[at:at + r.randint(1, 9)] + line[at:]])()
        return line.replace("\n", " ")

    def document(self):
        return [self.line() for _ in range(self.random.choice([1, 2, 3, 8, 20, 40]))]


def document(seed):
    return Maker(seed).document()
