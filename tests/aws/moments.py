"""Ends and pauses processes at chosen requests: in mid-conversion before and after the commit is recorded, in mid-fold.

Each process talks to the server through a proxy of its own (recorder.py), which holds the first request of a kind: before it
reaches the server, or before its answer reaches the process. While it is held the process is killed, stopped by SIGTERM, or
paused until others have done its work. A paused one is then woken up, and its request goes on: the write of a zombie.
"""

import json
import re
import signal
import threading
import time

from telling import must, say
from workload import PREFIX, Version

# What a lease lives, here; and how soon somebody else must have done what a process left.
LEASE = "6s"
TAKEOVER_SECS = 45
# ECS's stopTimeout.
STOP_SECS = 40


# ---- Requests to stop at.


def write_of(headers, body):
    """The name of a write to a table, what it asks, and which attributes it sets."""
    name = headers.get("x-amz-target", "").rpartition(".")[2]
    if name not in ("PutItem", "UpdateItem"):
        return None, {}, {}
    asked = json.loads(body)
    if name == "PutItem":
        return name, asked["Item"], asked["Item"]
    names, values = asked.get("ExpressionAttributeNames", {}), asked.get("ExpressionAttributeValues", {})
    setting = asked.get("UpdateExpression", "").split(" REMOVE ")[0].removeprefix("SET ")
    pairs = re.findall(r"(#n\d+) = (:v\d+)", setting)
    return name, asked["Key"], {names[of]: values[value] for of, value in pairs}


def status_set(headers, body):
    name, key, sets = write_of(headers, body)
    is_manifest = key.get("file_key", {}).get("S", "").startswith("MANIFEST#")
    return name, is_manifest, sets.get("status", {}).get("S", ""), sets


def stages(method, path, headers, body):
    return method == "PUT" and "partNumber=" in path


def completes(method, path, headers, body):
    return method == "POST" and "uploadId=" in path


def records(method, path, headers, body):
    name, is_manifest, _, sets = status_set(headers, body)
    return name == "UpdateItem" and is_manifest and "commit" in sets


def assembles(method, path, headers, body):
    name, is_manifest, status, _ = status_set(headers, body)
    return name == "PutItem" and is_manifest and status == "assembling"


def claims(method, path, headers, body):
    return status_set(headers, body)[2].startswith("manifested#")


def creates(method, path, headers, body):
    return method == "PUT" and "/manifests/" in path


def commits(method, path, headers, body):
    _, is_manifest, status, sets = status_set(headers, body)
    return is_manifest and status == "pending" and "json_etag" in sets


class Gate:
    """Holds the first request of a kind, of whichever process makes it."""

    def __init__(self, kind, is_after):
        self.kind, self.is_after, self.victim, self.status = kind, is_after, None, None
        self.lock, self.reached, self.opened, self.is_cut = threading.Lock(), threading.Event(), threading.Event(), False

    def open(self, is_cut=False):
        self.is_cut = is_cut
        self.opened.set()

    def hold(self):
        self.reached.set()
        self.opened.wait(300)
        if self.is_cut:
            raise ConnectionResetError


class Stand:
    """A gate as the proxy of one process sees it."""

    def __init__(self, gate, program):
        self.gate, self.program = gate, program

    def stops(self, *request):
        with self.gate.lock:
            if self.gate.victim is None and self.gate.kind(*request):
                self.gate.victim = self.program
                return True
            return False

    def wait_before(self):
        if not self.gate.is_after:
            self.gate.hold()

    def wait_after(self, status):
        self.gate.status = status
        if self.gate.is_after:
            self.gate.hold()


# ---- The story.

# The service, the request and its side, what is done then, and how many attempts the manifest takes in the end.
MOMENTS = [
    ("worker", stages, "before", "kill", 2),
    ("worker", stages, "before", "stop", 2),
    ("worker", records, "before", "kill", 2),
    ("worker", records, "before", "pause", 2),
    ("worker", records, "after", "kill", 1),
    ("worker", records, "after", "pause", 1),
    ("worker", completes, "before", "pause", 1),
    ("worker", completes, "after", "kill", 1),
    ("engine", assembles, "after", "kill", 1),
    ("engine", claims, "before", "stop", 1),
    ("engine", claims, "after", "kill", 1),
    ("engine", claims, "before", "pause", 1),
    ("engine", creates, "before", "pause", 1),
    ("engine", creates, "after", "kill", 1),
    ("engine", commits, "before", "pause", 1),
    ("engine", commits, "after", "kill", 1),
]


def quicken(text):
    """The pipeline with short leases and frequent readings: a person would wait for minutes."""
    for before, after in (
        ("    reconcile: 60s\n", f"    reconcile: 4s\n    lease: {LEASE}\n"),
        ("    type: convert\n", f"    type: convert\n    lease: {LEASE}\n"),
        ("    type: sweep\n", f"    type: sweep\n    lease: {LEASE}\n"),
        ("    type: change_stream\n", f"    type: change_stream\n    lease_length: {LEASE}\n"),
    ):
        must(text.count(before) == 1, f"the pipeline's file has no {before!r}")
        text = text.replace(before, after)
    return text


class Story:
    def __init__(self, proof):
        self.proof, self.started = proof, 0

    def start(self, service):
        self.started += 1
        self.proof.start(service, f"{service}-{self.started}")

    def of_date(self, date):
        files, manifests = self.proof.items()
        by_key = lambda item: item["file_key"]
        return [sorted((item for item in of if item["date_prefix"] == date), key=by_key) for of in (files, manifests)]

    def is_done(self, date):
        files, manifests = self.of_date(date)
        live = [manifest for manifest in manifests if manifest["status"] != "abandoned"]
        is_final = all(item["status"].split("#")[0] == "completed" for item in files)
        return len(files) == 3 and is_final and live and all({"settled_at", "announced_at"} <= set(manifest) for manifest in live)

    def land(self, date):
        work = self.proof.work
        for number in range(3):
            ids = work.ids(50)
            version = Version(f"{PREFIX}{date}/{number}.ndjson", work.lines(ids, 1), ids, 1)
            work.versions.append(version)
            self.proof.put(version)

    def seen(self, date):
        """All that a zombie could change. A manifest that it began by an old view, and abandoned, is nobody's."""
        outputs = self.proof.client("s3").list_objects_v2(
            Bucket=self.proof.bucket["output"], Prefix=f"pipeline/output/merged-parquet-{date}/"
        )
        files, manifests = self.of_date(date)
        live = [manifest for manifest in manifests if manifest["status"] != "abandoned"]
        return files, live, {entry["Key"]: entry["ETag"] for entry in outputs.get("Contents", [])}

    def moment(self, number, service, kind, side, how, attempts):
        proof, date = self.proof, f"2026-03-{number + 1:02}"
        gate = Gate(kind, side == "after")
        for program in proof.alive(service):
            program.recorder.gate = Stand(gate, program)
        self.land(date)
        must(gate.reached.wait(60), f"no {service} {kind.__name__} within 60 s\n{proof.state()}")
        victim, began = gate.victim, time.monotonic()
        recorded = [manifest.get("commit") for manifest in self.of_date(date)[1]]
        more = ""
        if how == "pause":
            victim.process.send_signal(signal.SIGSTOP)
        elif how == "kill":
            victim.expected_dead = True
            victim.kill()
            gate.open(is_cut=True)
        else:
            victim.expected_dead = True
            more = f", ended {victim.stop(STOP_SECS, is_hung=True):.1f} s after SIGTERM"
            gate.open(is_cut=True)
        what = f"{service}, {side} it {kind.__name__}, {how}"
        proof.wait(f"another takes over: {what}", lambda: self.is_done(date), 120)
        took = time.monotonic() - began
        must(took < TAKEOVER_SECS, f"{what}: the takeover took {took:.0f} s")
        before = self.seen(date)
        manifests = [manifest for manifest in before[1] if manifest["status"] == "completed"]
        # What a dead fold had not claimed yet, another may have put into a manifest of its own.
        must(len(manifests) == 1 or service == "engine", f"{what}: {len(manifests)} manifests")
        must(sum(int(manifest["file_count"]) for manifest in manifests) == 3, f"{what}: I2: a file is in two manifests, or in none")
        begun = {int(manifest["attempt"]) for manifest in manifests}
        must(begun == {attempts}, f"{what}: {begun} attempts, not {attempts}")
        if kind in (records, completes) and attempts == 1:
            uploads = lambda commit: (commit["token"], commit["uploads"])
            must(recorded[0] and uploads(recorded[0]) == uploads(manifests[0]["commit"]), f"{what}: what was committed is redone")
        if how == "pause":
            victim.process.send_signal(signal.SIGCONT)
            gate.open()
            proof.wait(f"the zombie's request: {what}", lambda: gate.status, 60)
            # Time enough for whatever it does next.
            time.sleep(3)
            after = self.seen(date)
            must(after == before, f"{what}: the zombie changed what is visible:\n{before}\n{after}")
            must(victim.process.poll() is None, f"{what}: the zombie died:\n{victim.tail()}")
            more = f", the zombie's request was answered {gate.status}"
        else:
            self.start(service)
        say(f"{what}: done by another {took:.1f} s later{more}")


def moments(proof):
    proof.variables |= {
        "PENSTOCK_MAX_FILES": "3",
        "PENSTOCK_MAX_AGE": "1h",
        "PENSTOCK_MAX_ATTEMPTS": "5",
        "PENSTOCK_LOOK_EVERY": "2s",
        "PENSTOCK_SWEEP_GRACE": "30s",
    }
    proof.file.write_text(quicken(proof.file.read_text()))
    proof.work.versions.clear()
    story = Story(proof)
    for service in ("engine", "engine", "worker", "worker"):
        story.start(service)
    for number, moment in enumerate(MOMENTS):
        story.moment(number, *moment)
    proof.check()
    for program in proof.alive():
        program.stop()
