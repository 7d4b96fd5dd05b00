#!/usr/bin/env python3
"""The consumer of change streams under load, as processes with real signals, on an AWS-compatible server.

    load.py STREAMS [--secs 60] [--rate 400] [--tables 6]

STREAMS is the built benchmark `streams`, whose `worker` notes each change in a file before it is acked. Three of them share
the streams of several tables by leases, while items are written and one process after another is stopped by SIGTERM, killed,
or paused for longer than its lease and woken up. At the end: no change is lost, the changes of each item were first seen in
their order, none came again without a fault before, and shards changed hands in time.

The server gives each table one shard, which never rolls over: that is what `streams -- soak` is for.
"""

import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

from server import Server, client, credentials
from telling import must, say

LEASE_SECS = 3
ITEMS = 503


class Worker:
    all = []

    def __init__(self, program, number, tables, folder, url):
        self.name = f"worker-{number}"
        self.log = folder / f"{self.name}.log"
        self.output = open(folder / f"{self.name}.out", "w+")
        arguments = [program, "worker", "--name", self.name, "--leases", "leases", "--lease-secs", str(LEASE_SECS)]
        env = {**os.environ, **credentials(), "AWS_ENDPOINT_URL": url}
        self.process = subprocess.Popen([*arguments, "--log", self.log, *tables], env=env, stdout=self.output, stderr=self.output)
        self.all.append(self)

    def check_alive(self):
        if self.process.poll() is not None:
            self.output.seek(0)
            raise SystemExit(f"FAILED: {self.name} ended with {self.process.returncode}:\n{self.output.read()[-3000:]}")


class Writer(threading.Thread):
    """Writes the items of one table in order, each with a value that no other change has."""

    def __init__(self, dynamodb, table, first, rate, over):
        super().__init__(daemon=True)
        self.dynamodb, self.table, self.next, self.rate, self.over = dynamodb, table, first, rate, over
        self.first, self.failure = first, None

    def run(self):
        try:
            self.write()
        except Exception as error:  # Told by whoever joins.
            self.failure = error

    def write(self):
        began = time.monotonic()
        while not self.over.is_set():
            due = self.first + int((time.monotonic() - began) * self.rate)
            count = min(25, due - self.next)
            if count <= 0:
                time.sleep(0.01)
                continue
            values = range(self.next, self.next + count)
            items = [{"partition": {"S": f"item-{v % ITEMS}"}, "sort": {"S": "item"}, "value": {"N": str(v)}} for v in values]
            asked = {self.table: [{"PutRequest": {"Item": item}} for item in items]}
            while asked:
                asked = self.dynamodb.batch_write_item(RequestItems=asked)["UnprocessedItems"]
            self.next += count


def make_tables(dynamodb, tables):
    for name in tables:
        dynamodb.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "partition", "KeyType": "HASH"}, {"AttributeName": "sort", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": a, "AttributeType": "S"} for a in ("partition", "sort")],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
    dynamodb.create_table(
        TableName="leases",
        KeySchema=[{"AttributeName": "scope", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": a, "AttributeType": "S"} for a in ("scope", "id")],
        BillingMode="PAY_PER_REQUEST",
    )


def owners(dynamodb):
    """Who has which shard."""
    items = dynamodb.scan(TableName="leases", ConsistentRead=True)["Items"]
    shards = [item for item in items if item["scope"]["S"].startswith("arn:")]
    return {item["scope"]["S"]: item.get("owner", {}).get("S") for item in shards}


def wait_for_owners(dynamodb, what, is_right, seconds):
    began = time.monotonic()
    while not is_right(now := owners(dynamodb)):
        must(time.monotonic() - began < seconds, f"{what}: after {seconds} s the shards are {now}")
        time.sleep(0.02)
    return time.monotonic() - began


def takeover(dynamodb, before, name):
    """How long until each shard that a worker had is another's."""
    left = [shard for shard, owner in before.items() if owner == name]
    return wait_for_owners(
        dynamodb, f"{name}'s shards", lambda now: all(now.get(shard) not in (None, name) for shard in left), LEASE_SECS * 10
    )


def noted(folder):
    """What all workers noted."""
    return [line.split() for log in folder.glob("worker-*.log") for line in log.read_text().splitlines()]


def check(folder, writers, faults):
    seen = sorted((int(at), table, item, int(value)) for at, table, item, value in noted(folder))
    newest, done, again, unexcused = {}, collections.defaultdict(set), 0, 0
    for at, table, item, value in seen:
        if value in done[table]:
            again += 1
            unexcused += not any(fault <= at <= fault + LEASE_SECS * 6 * 10**9 for fault in faults)
            continue
        done[table].add(value)
        must(newest.get((table, item), -1) < value, f"{value} of {table}/{item} was first seen after {newest.get((table, item))}")
        newest[table, item] = value
    for writer in writers:
        lost = set(range(writer.first, writer.next)) - done[writer.table]
        must(not lost, f"{len(lost)} changes of {writer.table} are lost: {sorted(lost)[:10]}")
    must(unexcused == 0, f"{unexcused} changes came again though nothing had failed")
    return sum(len(values) for values in done.values()), again


def load(program, folder, url, secs, rate, count):
    dynamodb = client("dynamodb", url)
    tables = [f"load-{number}" for number in range(count)]
    make_tables(dynamodb, tables)
    over, faults, number = threading.Event(), [], 3
    workers = [Worker(program, n, tables, folder, url) for n in range(3)]
    wait_for_owners(dynamodb, "at the start", lambda now: len(now) == count and all(now.values()), 60)
    writers = [Writer(dynamodb, table, 0, rate / count, over) for table in tables]
    for writer in writers:
        writer.start()
    rng, times, ends = random.Random(), collections.defaultdict(list), time.monotonic() + secs
    while time.monotonic() < ends:
        for worker in workers:
            worker.check_alive()
        worker = rng.choice(workers)
        kind = ("stop", "kill", "pause")[sum(map(len, times.values())) % 3]
        before = owners(dynamodb)
        if kind == "pause":
            worker.process.send_signal(signal.SIGSTOP)
            faults.append(time.time_ns())
            times[kind].append(takeover(dynamodb, before, worker.name))
            worker.process.send_signal(signal.SIGCONT)
            faults.append(time.time_ns())
        else:
            workers.remove(worker)
            worker.process.send_signal(signal.SIGTERM if kind == "stop" else signal.SIGKILL)
            if kind == "kill":
                faults.append(time.time_ns())
            code = worker.process.wait(40)
            must(code == (0 if kind == "stop" else -signal.SIGKILL), f"{worker.name} ended with {code} after {kind}")
            times[kind].append(takeover(dynamodb, before, worker.name))
            workers.append(Worker(program, number, tables, folder, url))
            number += 1
        time.sleep(rng.uniform(0.5, 3))
    over.set()
    for writer in writers:
        writer.join()
        must(writer.failure is None, f"{writer.table} can't be written: {writer.failure}")
    offered, until = sum(writer.next for writer in writers), time.monotonic() + LEASE_SECS * 20
    while len({(table, value) for _, table, _, value in noted(folder)}) < offered and time.monotonic() < until:
        time.sleep(0.2)
    for worker in workers:
        worker.check_alive()
        worker.process.terminate()
        must(worker.process.wait(40) == 0, f"{worker.name} didn't stop in order")
    done, again = check(folder, writers, faults)
    say(f"{done} changes of {count} tables in {secs} s: none lost, each item in order; {again} came again, each after a fault")
    for kind, taken in times.items():
        say(f"{len(taken)} × {kind}: its shards were another's after {max(taken):.2f} s at worst")
    # Some rounds of the others, each of half a second: no lease has to die first.
    must(max(times["stop"]) < LEASE_SECS, "a stop was followed by a slow takeover")
    must(max(times["kill"]) < 2 * LEASE_SECS, "a kill was followed by a slow takeover")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("streams")
    parser.add_argument("--secs", type=int, default=60)
    parser.add_argument("--rate", type=int, default=400)
    parser.add_argument("--tables", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-load.") as folder:
        folder = pathlib.Path(folder)
        server = Server(open(folder / "server.log", "w"))
        try:
            program = os.path.abspath(arguments.streams)
            load(program, folder, server.url, arguments.secs, arguments.rate, arguments.tables)
        finally:
            for worker in Worker.all:
                worker.process.kill()
            server.stop()


if __name__ == "__main__":
    main()
