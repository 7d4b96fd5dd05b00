"""The peers of the benchmark `convert`, and the clock for all of them.

    peers.py versions                        the engines that are installed here, one JSON object
    peers.py time COMMAND...                 runs a command; its seconds and its peak memory, as JSON
    peers.py run ENGINE OUTPUT COLUMNS FILE  converts the files that FILE lists into Parquet, all columns text

Each engine does what comes nearest to ours: every column as text, Snappy. What an engine can't do is said where it runs.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time

PACKAGES = {"duckdb": "duckdb", "polars": "polars", "chdb": "chdb", "datafusion": "datafusion", "spark": "pyspark"}


def versions():
    found = {}
    for engine, package in PACKAGES.items():
        try:
            found[engine] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def timed(command):
    began = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "code": os.waitstatus_to_exitcode(status)}


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def duckdb(files, output, columns):
    import duckdb

    types = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in columns)
    paths = ", ".join("'" + file + "'" for file in files)
    # Order is ours to keep, so it is theirs.
    duckdb.sql("SET preserve_insertion_order = true")
    duckdb.sql(
        f"COPY (SELECT * FROM read_json([{paths}], format = 'newline_delimited', maximum_object_size = 67108864,"
        f" columns = {{{types}}})) TO '{output}' (FORMAT parquet, COMPRESSION snappy)"
    )


def polars(files, output, columns):
    import polars

    # It casts numbers and lists to text in a way of its own.
    schema = {name: polars.String for name in columns}
    polars.scan_ndjson(files, schema=schema).sink_parquet(output, compression="snappy")


def chdb(files, output, columns):
    from chdb import session

    structure = ", ".join(f"`{name}` Nullable(String)" for name in columns)
    names = ",".join(files)
    source = f"file('{{{names}}}', 'JSONEachRow', '{structure}')" if len(files) > 1 else f"file('{files[0]}', 'JSONEachRow', '{structure}')"
    session.Session().query(
        f"SELECT * FROM {source} INTO OUTFILE '{output}' TRUNCATE FORMAT Parquet SETTINGS"
        " input_format_json_read_numbers_as_strings = 1, input_format_json_read_objects_as_strings = 1,"
        " input_format_json_read_arrays_as_strings = 1, input_format_json_read_bools_as_strings = 1,"
        " output_format_parquet_compression_method = 'snappy', output_format_parquet_string_as_string = 1,"
        " max_parser_depth = 0, input_format_allow_errors_num = 0"
    )


def datafusion(files, output, columns):
    import datafusion

    # Types are kept: it refuses a number in a column of text.
    context = datafusion.SessionContext()
    os.makedirs(output, exist_ok=True)
    frames = context.read_json(files if len(files) > 1 else files[0], file_extension=".ndjson")
    frames.write_parquet(output, compression="snappy")


def spark(files, output, columns):
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import col

    builder = SparkSession.builder.master("local[*]").config("spark.driver.memory", "6g").config("spark.ui.enabled", "false")
    session = builder.getOrCreate()
    frame = session.read.json(files)
    frame.select([col("`" + name + "`").cast("string").alias(name) for name in frame.columns]).write.parquet(output)
    session.stop()


def main():
    what, *rest = sys.argv[1:]
    if what == "versions":
        print(json.dumps(versions()))
    elif what == "time":
        print(json.dumps(timed(rest)))
    else:
        engine, output, columns, listed = rest
        with open(columns) as names, open(listed) as paths:
            globals()[engine](json.load(paths), output, json.load(names))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)


if __name__ == "__main__":
    main()
