"""Compares the cast `spark` with Spark itself, cell for cell.

    python3.10 -m venv /tmp/venv && /tmp/venv/bin/pip install -r tests/spark/requirements.txt
    cargo build --release -p penstock
    /tmp/venv/bin/python tests/spark/compare.py --penstock target/release/penstock --documents 3000 --seed 1

Each document is converted by `penstock convert --cast spark`, read back by PyArrow, and held against what Spark 3.3.0's
`read.json` and `cast("string")` of every column give: the columns and their order, the rows, each cell. A document that
differs is shrunk to its fewest lines and shortest text, and printed. `--golden FILE` writes documents with what Spark made
of them, which `cargo test` compares without Spark.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from documents import document


class Spark:
    def __init__(self):
        from pyspark.sql import SparkSession
        from pyspark.sql.functions import col
        self.col = col
        self.session = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
                        .config("spark.driver.memory", "1g").config("spark.sql.sources.parallelPartitionDiscovery.threshold", "1000")
                        .getOrCreate())
        self.session.sparkContext.setLogLevel("OFF")
        self.file = os.path.join(tempfile.mkdtemp(prefix="spark-"), "in.ndjson")
        self.java = self.session.sparkContext._jvm.java.lang.System.getProperty("java.version")

    def rows(self, lines):
        """Columns and rows; none where Spark refuses the document."""
        with open(self.file, "wb") as file:
            file.write("".join(line + "\n" for line in lines).encode())
        try:
            frame = self.session.read.json(self.file)
            if not frame.columns:
                return [], [[] for _ in range(frame.count())]
            frame = frame.select(*[self.col("`%s`" % name.replace("`", "``")).cast("string") for name in frame.columns])
            return frame.columns, [list(row) for row in frame.collect()]
        except Exception as error:
            if "AnalysisException" not in type(error).__name__:
                raise
            return None


class Penstock:
    def __init__(self, program):
        self.program = program
        self.folder = tempfile.mkdtemp(prefix="penstock-")

    def rows(self, lines):
        import pyarrow.parquet
        source, target = os.path.join(self.folder, "in.ndjson"), os.path.join(self.folder, "out.parquet")
        if os.path.exists(target):
            os.remove(target)
        with open(source, "wb") as file:
            file.write("".join(line + "\n" for line in lines).encode())
        subprocess.run([self.program, "--log", "error", "convert", "--cast", "spark", source, "-o", target],
                       check=True, stdout=subprocess.DEVNULL)
        if not os.path.exists(target):
            return None
        table = pyarrow.parquet.read_table(target)
        own = ["_source_file", "_source_etag", "_processing_timestamp"]
        names = [name for name in table.column_names if name not in own]
        cells = [table.column(name).to_pylist() for name in names]
        return names, [list(row) for row in zip(*cells)] if names else [[] for _ in range(table.num_rows)]


class Served:
    """A program that takes a document a line and gives its rows: quicker than one process each."""

    def __init__(self, program):
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, shell=True, text=True)

    def rows(self, lines):
        self.process.stdin.write(json.dumps(lines) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["columns"], answer["rows"]


def equal(ours, theirs):
    if theirs is None:
        return True
    columns, rows = theirs
    if not rows:
        return ours is None or not ours[1]
    # PySpark can't name a lone surrogate either.
    return ours is not None and ours[0] == columns and ours[1] == rows


def shrink(lines, differs):
    """The fewest lines and the shortest text that still differ."""
    step = max(1, len(lines) // 2)
    while step:
        at = 0
        while at < len(lines):
            fewer = lines[:at] + lines[at + step:]
            if fewer and differs(fewer):
                lines = fewer
            else:
                at += step
        step //= 2
    for index in range(len(lines)):
        length = max(1, len(lines[index]) // 2)
        while length:
            at = 0
            while at < len(lines[index]):
                line = lines[index]
                shorter = lines[:index] + [line[:at] + line[at + length:]] + lines[index + 1:]
                if differs(shorter):
                    lines = shorter
                else:
                    at += length
            length //= 2
    return lines


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--penstock")
    arguments.add_argument("--serve")
    arguments.add_argument("--documents", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--golden")
    arguments.add_argument("--most", type=int, default=10, help="mismatches to shrink before giving up")
    arguments = arguments.parse_args()
    spark = Spark()
    ours = Served(arguments.serve) if arguments.serve else Penstock(arguments.penstock) if arguments.penstock else None
    print(f"Spark {spark.session.version} on Java {spark.java}", flush=True)
    began, cells, rows, refused, found, golden = time.time(), 0, 0, 0, 0, []
    for seed in range(arguments.seed, arguments.seed + arguments.documents):
        lines = document(seed)
        theirs = spark.rows(lines)
        if theirs is None:
            refused += 1
            continue
        rows += len(theirs[1])
        cells += sum(len(row) for row in theirs[1])
        if arguments.golden:
            golden.append({"lines": lines, "columns": theirs[0], "rows": theirs[1]})
        if ours is not None and not equal(ours.rows(lines), theirs):
            found += 1
            lines = shrink(lines, lambda lines: not equal(ours.rows(lines), spark.rows(lines)))
            print(f"-- seed {seed}")
            for line in lines:
                print("   ", line.encode("unicode_escape").decode() if not line.isprintable() else line)
            print("   Spark:   ", spark.rows(lines))
            print("   penstock:", ours.rows(lines), flush=True)
            if found >= arguments.most:
                break
    if arguments.golden:
        with open(arguments.golden, "w") as file:
            file.writelines(json.dumps(entry, ensure_ascii=True) + "\n" for entry in golden)
    print(f"{seed + 1 - arguments.seed} documents ({refused} refused by Spark), {rows} rows, {cells} cells, {found} documents differ, "
          f"{time.time() - began:.0f} s")
    sys.exit(found > 0)


main()
