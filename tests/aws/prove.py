#!/usr/bin/env python3
"""Proves the program on an AWS-compatible server: deploys the templates, runs an engine and two workers, lands objects of
all kinds, and judges by what is in the tables, the buckets, the queues and the Parquet.

    tests/aws/prove.py PENSTOCK [plain|faults|loss|moments|kills|adopt|hands|pages …] [--objects 500]

`plain` is the whole way, metrics, alarms and roles; `faults` is the same through a proxy that throttles, cuts, damages, loses
answers and fails (faults.py); `loss` purges the queues, drops the events and renews the stream in the middle; `moments` ends
and pauses processes at chosen requests (moments.py), `kills` at random times; `adopt` takes over what the previous system
left; `hands` does by the command line what people do (hands.py), `pages` looks at the dashboard in Chromium (pages.py). Each ends with an account of every line. PENSTOCK is the
program. Python needs .ci/requirements-aws.txt.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

import duckdb

import stack
from faults import DamagedObject, DamagedPart, Faults, LostCompletion, outage, rules
from hands import hands
from metrics import alarms_on, breaker_states, put_as_log_agent, widgets_on
from moments import moments
from pages import pages
from recorder import Recorder
from server import Server, client, credentials
from telling import must, say
from workload import DATES, PREFIX, Workload

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIPELINE, ENV = "ndjson-parquet", "ci"
# The date of the manifest that is made to fail.
DOOMED = "2026-01-15"

# Items that nobody can read.
BROKEN = ("unreadable-1", "unreadable-2")

# Actions that a role needs only in a case that this run can't make, and why.
UNSEEN_ENGINE = {
    ("dynamodb:PutItem", "-leases-"): "the children of a shard that is closed; a shard there never is",
    ("s3:AbortMultipartUpload", "-quarantine-"): "a copy of more than 5 GB that fails half-way",
    ("s3:DeleteObject", "-quarantine-"): "rejects of an attempt that didn't win",
    ("s3:GetObjectVersion", "-input-"): "the server ignores a range of a version, so the bucket has no versions there",
    ("dynamodb:GetItem", "-sqs-metrics-"): "where the answer to that is lost",
    ("sqs:SendMessage", "-dlq-"): "a change that can't be handled becomes a dead letter",
}
UNSEEN_WORKER = {
    ("s3:AbortMultipartUpload", "-output-"): "an attempt that fails after it has staged parts",
    ("s3:AbortMultipartUpload", "-quarantine-"): "rejects of an attempt that fails",
    ("s3:GetObjectVersion", "-input-"): "as for the engine",
    ("dynamodb:GetItem", "-sqs-metrics-"): "where the answer to that is lost",
    ("sqs:ChangeMessageVisibility", "-manifest-ready-"): "a conversion of more than two minutes keeps its message; one that is "
    "stopped gives it back",
}

# The same, of what this run makes happen by chance.
CHANCE = {
    ("sqs:SendMessage", "-file-events-"): "a message that a stop leaves unhandled is sent anew",
    ("sqs:SendMessage", "-manifest-ready-"): "the same",
    ("dynamodb:GetItem", "-sqs-file-tracking-"): "an item is read again where the answer to its write is lost",
}

# Actions that both services try when they start, where nothing comes of it.
PROBED = {
    *(f"dynamodb:{name}Item" for name in ("Get", "Put", "Update", "Delete")),
    "dynamodb:Query",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
    "s3:GetObject",
    "s3:PutObject",
    "s3:AbortMultipartUpload",
}


class Program:
    """A process of the program, with its log."""

    def __init__(self, binary, file, service, recorder, folder, name, variables, more=()):
        self.name, self.service, self.recorder, self.expected_dead = name, service, recorder, False
        # It is read by a handle of its own: where one reads, who shares the handle would write.
        self.log = folder / f"{name}.log"
        env = {**os.environ, **credentials(), "PENSTOCK_LOG": "info", **variables}
        env.pop("PENSTOCK_LOCAL", None)
        arguments = [binary, "run", file, "--env", ENV, "--endpoint-url", recorder.url, "--service", service, "--emf", *more]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(arguments, env=env, stdout=log, stderr=log)

    def is_up(self):
        return "Service started." in self.whole()

    def stop(self, limit=40, is_hung=False):
        """SIGTERM; the process must end by itself within ECS's stopTimeout; orderly, unless a request of its hangs."""
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit(f"FAILED: {self.name} didn't end within {limit} s of SIGTERM")
        must(code == 0 or (is_hung and code > 0), f"{self.name} ended with {code} after SIGTERM:\n{self.tail()}")
        return time.monotonic() - began

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def whole(self):
        return self.log.read_text()

    def tail(self):
        return "".join([line for line in self.whole().splitlines(keepends=True) if '"_aws"' not in line][-30:])


class Proof:
    def __init__(self, binary, objects, folder, lines=40):
        self.binary, self.folder, self.faults, self.losses = binary, folder, None, []
        self.used, self.probed = ({"engine": set(), "worker": set()} for _ in range(2))
        self.server = Server(open(folder / "server.log", "w"))
        self.programs = []
        self.work = Workload(objects, lines)
        # Small manifests and quick looks: a person would wait for minutes.
        self.variables = {
            "PENSTOCK_MAX_FILES": "40",
            "PENSTOCK_MAX_AGE": "5s",
            "PENSTOCK_MAX_ATTEMPTS": "2",
            "PENSTOCK_RETRY_WAIT": "1s",
            # Events should wake the workers, not their own looks.
            "PENSTOCK_LOOK_EVERY": "30s",
            "PENSTOCK_SWEEP_EVERY": "5s",
            "PENSTOCK_SWEEP_LIST_EVERY": "5s",
            "PENSTOCK_SWEEP_GRACE": "20s",
        }
        text = (ROOT / "pipelines" / "ndjson-parquet.yaml").read_text()
        self.file = folder / "pipeline.yaml"
        self.file.write_text(text.replace("min_bytes: 0B", "min_bytes: 10B"))

    def client(self, service):
        return client(service, self.server.url)

    def deploy(self, more):
        self.parameters = more
        self.outputs = stack.deploy(self.server.url, PIPELINE, ENV, more)
        self.s3, self.sqs = self.client("s3"), self.client("sqs")
        self.bucket = {name: self.outputs[f"{name.title()}BucketName"] for name in ("input", "manifest", "output", "quarantine")}
        sns, events = self.client("sns"), self.client("events")
        # Subscribers from outside: one of ManifestReady, one of alerts.
        self.spy = self.queue("spy")
        events.put_rule(Name="spy", EventBusName=self.outputs["BusName"], EventPattern='{"detail-type":["ManifestReady"]}')
        events.put_targets(Rule="spy", EventBusName=self.outputs["BusName"], Targets=[{"Id": "q", "Arn": self.arn(self.spy)}])
        self.alerts = self.queue("alerts-spy")
        sns.subscribe(TopicArn=self.outputs["AlertsTopicArn"], Protocol="sqs", Endpoint=self.arn(self.alerts))

    def delete_services(self):
        stack.delete_services(self.server.url, PIPELINE, ENV)

    def deploy_services(self):
        self.outputs |= stack.create_services(self.server.url, PIPELINE, ENV, self.parameters)

    def queue(self, name):
        return self.sqs.create_queue(QueueName=name)["QueueUrl"]

    def arn(self, url):
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def receive_all(self, url):
        bodies = []
        while messages := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                bodies.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    def start(self, service, name, *more):
        # S3 always tells the length of an object, which the proxy with faults does not: this one does.
        way = (self.faults.url, self.server.url, self.losses) if self.faults else (self.server.url,)
        recorder = Recorder(*way, into=self.used[service], probed=self.probed[service])
        # As a task on ECS finds it.
        scripts, key = self.outputs["ScriptsBucketName"], f"{PIPELINE}-1.yaml"
        self.s3.put_object(Bucket=scripts, Key=key, Body=self.file.read_bytes())
        program = Program(self.binary, f"s3://{scripts}/{key}", service, recorder, self.folder, name, self.variables, more)
        self.programs.append(program)
        deadline = time.monotonic() + 60
        while not program.is_up():
            must(program.process.poll() is None, f"{name} ended while it started:\n{program.tail()}")
            must(time.monotonic() < deadline, f"{name} didn't start:\n{program.tail()}")
            time.sleep(0.1)
        return program

    def alive(self, service=None):
        """The processes that run."""
        return [of for of in self.programs if of.process.poll() is None and service in (None, of.service)]

    def put(self, version):
        self.s3.put_object(Bucket=self.bucket["input"], Key=version.key, Body=version.body)

    def items(self):
        table, items, start = self.client("dynamodb"), [], {}
        while True:
            page = table.scan(TableName=self.outputs["TableName"], ConsistentRead=True, **start)
            items += [{name: next(iter(value.values())) for name, value in item.items()} for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                break
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        manifests = [item for item in items if item["file_key"].startswith("MANIFEST#")]
        files = [item for item in items if item.get("file_path", "").startswith("s3://") and item not in manifests]
        return files, manifests

    def wait(self, what, check, seconds=180):
        deadline = time.monotonic() + seconds
        while True:
            found = check()
            if found:
                return found
            for program in self.programs:
                code = program.process.poll()
                must(code is None or program.expected_dead, f"{program.name} ended with {code}:\n{program.tail()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"FAILED: not within {seconds} s: {what}\n{self.state()}")
            time.sleep(0.5)

    def break_items(self):
        """Items that nobody can read: their changes become dead letters, and stop nothing else."""
        for name in BROKEN:
            item = {"date_prefix": {"S": DATES[0]}, "file_key": {"S": name}, "status": {"S": "pending#3"}, "size_bytes": {"S": "x"}}
            self.client("dynamodb").put_item(TableName=self.outputs["TableName"], Item=item)

    def depth(self, queue):
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=self.outputs[queue], AttributeNames=["ApproximateNumberOfMessages"]
        )["Attributes"]
        return int(attributes["ApproximateNumberOfMessages"])

    def state(self):
        files, manifests = self.items()
        count = lambda items: dict(collections.Counter(item["status"].split("#")[0] for item in items))
        tails = "".join(f"== {program.name}\n{program.tail()}" for program in self.programs)
        todo = {what: (len(which), which[:3]) for what, which in self.unsettled().items() if which}
        return f"files {count(files)}, manifests {count(manifests)}, still to come: {todo}\n{tails}"

    # ---- The story.

    def doom(self):
        """A manifest whose JSON is gone before any worker has seen it: it can't be converted."""
        for number in range(3):
            self.s3.put_object(
                Bucket=self.bucket["input"], Key=f"{PREFIX}{DOOMED}/doomed-{number}.ndjson", Body=b'{"id":"doomed"}\n'
            )
        of_date = lambda: [m for m in self.items()[1] if m["date_prefix"] == DOOMED and m["status"] == "pending"]
        for manifest in self.wait("the doomed manifest", of_date):
            bucket, _, key = manifest["manifest_path"].removeprefix("s3://").partition("/")
            self.s3.delete_object(Bucket=bucket, Key=key)

    def notification(self, key, body, etag=None):
        """What S3 told of an object in former days: without a sequencer."""
        if etag is None:
            etag = self.s3.put_object(Bucket=self.bucket["input"], Key=key, Body=body)["ETag"].strip('"')
        record = {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": "2026-02-01T00:00:00.000Z",
            "s3": {
                "bucket": {"name": self.bucket["input"]},
                "object": {"key": urllib.parse.quote_plus(key, safe="/"), "size": len(body), "eTag": etag},
            },
        }
        return {"Records": [record]}

    def land(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(self.put, self.work.versions))
        good = [version for version in self.work.versions if version.fate == "completed"]
        # The same content again: a newer notification of the same etag.
        for version in good[::29]:
            self.put(version)
        # Notifications that come twice, and that say no sequencer.
        for version in good[::31]:
            body = json.dumps(self.notification(version.key, version.body, version.etag))
            for _ in range(2):
                self.sqs.send_message(QueueUrl=self.outputs["FileEventsUrl"], MessageBody=body)
        # Corrected contents, of which some come before their file is claimed and some after.
        for version in good[::41]:
            corrected = self.work.corrected(version)
            self.work.versions.append(corrected)
            self.put(corrected)

    def unsettled(self):
        """What is still to come, in words; empty once nothing is."""
        files, manifests = self.items()
        prefix = f"s3://{self.bucket['input']}/"
        etags = {(item["file_path"].removeprefix(prefix), item.get("etag")) for item in files}
        latest = {version.key: version.etag for version in self.work.versions}
        return {
            "landed, and not in the table": sorted(set(latest.items()) - etags),
            "files": [item["file_key"] for item in files if item["status"].split("#")[0] in ("pending", "manifested")],
            "manifests": [m["file_key"] for m in manifests if m["status"] not in ("completed", "failed", "abandoned")],
            "not settled": [m["file_key"] for m in manifests if "settled_at" not in m and m["status"] != "abandoned"],
            "not announced": [m["file_key"] for m in manifests if "announced_at" not in m and m["status"] != "abandoned"],
        }

    def is_settled(self):
        return not any(self.unsettled().values())

    def is_quiet(self):
        """Whether every manifest is settled and announced."""
        return all({"settled_at", "announced_at"} <= set(manifest) for manifest in self.items()[1])

    def check(self):
        files, manifests = self.items()
        versions = {(version.key, version.etag): version for version in self.work.versions}
        latest = {version.key: version.etag for version in self.work.versions}
        prefix, expected, rejects = f"s3://{self.bucket['input']}/", collections.Counter(), 0
        for item in files:
            if item["date_prefix"] == DOOMED:
                must(item["status"].startswith("failed#"), f"a file of the doomed manifest is {item['status']}")
                continue
            version = versions.pop((item["file_path"].removeprefix(prefix), item["etag"]), None)
            must(version is not None, f"I1: an item that no object explains, or a second one: {item}")
            state = item["status"].split("#")[0]
            if latest[version.key] != version.etag and item.get("error_message", "").startswith("changed"):
                continue  # It was replaced between its claim and its conversion, and says so.
            must(state == version.fate, f"{version.key}: {state} instead of {version.fate}: {item.get('error_message')}")
            if state == "completed":
                must(int(item["rows"]) == len(version.ids), f"{version.key}: {item['rows']} rows of {len(version.ids)}")
                must(int(item["rejected_rows"]) == version.rejects, f"{version.key}: {item['rejected_rows']} rejects")
                expected.update(version.ids)
                rejects += version.rejects
            else:
                must(item.get("error_message"), f"{version.key} is {state} without a reason")
        for key, etag in versions:
            must(latest[key] != etag, f"I1: {key} has landed and has no item")
        self.check_rows(expected)
        self.check_rejects(manifests, rejects)
        self.check_manifests(files, manifests)
        self.check_quarantine()
        say(f"{len(files)} files, {len(manifests)} manifests, {sum(expected.values())} rows, {rejects} rejects: all accounted for")

    def download(self, bucket, prefix=""):
        bodies, pages = {}, self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket[bucket], Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                bodies[entry["Key"]] = self.s3.get_object(Bucket=self.bucket[bucket], Key=entry["Key"])["Body"].read()
        return bodies

    def check_rows(self, expected):
        folder = self.folder / "parquet"
        folder.mkdir(exist_ok=True)
        for number, body in enumerate(self.download("output").values()):
            (folder / f"{number}.parquet").write_bytes(body)
        rows = duckdb.sql(f"SELECT * FROM read_parquet('{folder}/*.parquet', union_by_name=true)")
        must(set(map(str, rows.types)) == {"VARCHAR"}, f"a column is no text: {rows.types}")
        found = collections.Counter(of for (of,) in rows.project("id").fetchall())
        must(found == expected, f"I1: rows too few {list((expected - found))[:5]}, too many {list((found - expected))[:5]}")

    def check_rejects(self, manifests, rejects):
        # Those of attempts that didn't win are removed by the sweep, some time.
        keys = [m["commit"]["rejects_key"]["S"] for m in manifests if "rejects_key" in m.get("commit", {})]
        bodies = self.download("quarantine", "rejects/")
        must(set(keys) <= set(bodies), f"I1: rejects are gone: {set(keys) - set(bodies)}")
        lines = b"".join(bodies[key] for key in keys).splitlines()
        told = [json.loads(line) for line in lines]
        completed = [of for of in told if "broken" in json.dumps(of)]
        must(len(completed) == rejects, f"I1: {len(completed)} rejected lines are kept, and {rejects} were made")

    def check_manifests(self, files, manifests):
        member = collections.defaultdict(set)
        for item in files:
            if "manifest_path" in item:
                member[item["manifest_path"]].add(item["file_path"])
        listed = collections.Counter()
        for manifest in manifests:
            if manifest["status"] == "abandoned" or manifest["date_prefix"] == DOOMED:
                continue
            bucket, _, key = manifest["manifest_path"].removeprefix("s3://").partition("/")
            must(re.fullmatch(r"manifests/[\d-]{10}/batch-\d{4}-\d{8}-\d{6}-[0-9a-f]{6}\.json", key), f"name {key}")
            body = json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            uris = [uri for location in body["fileLocations"] for uri in location["URIPrefixes"]]
            must(uris == [file["uri"] for file in body["files"]], f"{key}: two lists that differ")
            listed.update((file["uri"], file["etag"].strip('"')) for file in body["files"])
            must(set(uris) == member[manifest["manifest_path"]], f"I2: {key} lists what wasn't claimed for it")
            must(int(manifest["file_count"]) == len(uris), f"{key}: file_count")
        must(max(listed.values()) == 1, f"I2: in two manifests: {[of for of, n in listed.items() if n > 1][:3]}")
        ready = self.receive_all(self.spy)
        announced = {event["detail"]["manifest_path"] for event in ready}
        live = {manifest["manifest_path"] for manifest in manifests if manifest["status"] != "abandoned"}
        must(live <= announced, f"never announced to others: {live - announced}")
        old_fields = {"manifest_path", "date_prefix", "file_count", "file_key", "timestamp"}
        must(all(old_fields <= set(event["detail"]) for event in ready), "an event lacks an old field")

    def check_quarantine(self):
        wanted = [version for version in self.work.versions if version.fate == "quarantined"]
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket["quarantine"])
        keys = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
        for version in wanted:
            copy = f"{version.key}@{version.etag}"
            must(copy in keys, f"{version.key} is not in quarantine")
            head = self.s3.head_object(Bucket=self.bucket["quarantine"], Key=copy)
            reason = " ".join(head["Metadata"].values())
            must("suffix" in reason or "size" in reason, f"{copy} has no reason: {head['Metadata']}")

    def check_alert(self):
        def alerts():
            self.alerted = getattr(self, "alerted", []) + self.receive_all(self.alerts)
            return any("ManifestFailed" in json.dumps(alert) for alert in self.alerted)

        self.wait("an alert of the failed manifest", alerts, 60)
        text = next(json.dumps(alert) for alert in self.alerted if "ManifestFailed" in json.dumps(alert))
        must(DOOMED in text and "manifest" in text, f"the alert doesn't say what failed: {text[:300]}")

    def check_alarm(self):
        """A notification that nobody can read becomes a dead letter; the alarm of dead letters tells the topic."""
        self.sqs.send_message(QueueUrl=self.outputs["FileEventsUrl"], MessageBody="no notification at all")
        messages = self.wait("the dead letter", lambda: self.depth("DlqUrl"), 120)
        watch, name = self.client("cloudwatch"), f"{PIPELINE}-{ENV}-dead-letters"

        def is_in_alarm():
            # The server doesn't publish SQS's own metrics: we do, with what SQS says.
            watch.put_metric_data(
                Namespace="AWS/SQS",
                MetricData=[{
                    "MetricName": "ApproximateNumberOfMessagesVisible",
                    "Dimensions": [{"Name": "QueueName", "Value": f"{PIPELINE}-dlq-{ENV}"}],
                    "Value": messages,
                }],
            )
            return watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM"

        self.wait("the alarm of dead letters", is_in_alarm, 90)
        told = lambda: any(name in json.dumps(alert) for alert in self.receive_all(self.alerts))
        self.wait("the alarm at the topic", told, 30)

    def check_metrics(self):
        """Alarms and the dashboard look at what the program tells, and the alarm of failed manifests goes off by it."""
        watch, series, name = self.client("cloudwatch"), set(), f"{PIPELINE}-{ENV}-failed-manifests"
        for program in self.programs:
            series |= put_as_log_agent(watch, program.whole())
        alarms = alarms_on(watch, "Penstock")
        must(len(alarms) >= 4, f"only these alarms look at our metrics: {sorted(alarms)}")
        deaf = {alarm: of for alarm, of in alarms.items() if of not in series}
        must(not deaf, f"these alarms look at what is never told: {deaf}")
        shown = widgets_on(watch, self.outputs["DashboardName"], "Penstock")
        must(len(shown) >= 8 and shown <= series, f"the dashboard shows what is never told: {shown - series}")
        state = lambda: watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM"
        self.wait("the alarm of failed manifests", state, 90)
        told = lambda: any(name in json.dumps(alert) for alert in self.receive_all(self.alerts))
        self.wait("that alarm at the topic", told, 30)
        say(f"{len(series)} series of metrics; {len(alarms)} alarms and {len(shown)} lines of the dashboard look at them")

    def check_lacking(self):
        """Whatever happens, the roles allow what is done then."""
        for service, recorded in self.used.items():
            role = stack.allowed(self.server.url, self.outputs[f"{service.title()}RoleArn"])
            lacking, _, _ = stack.compare(recorded | self.probed[service], role, {})
            must(not lacking, f"the {service}'s role lacks: {lacking[:10]}")

    def check_roles(self):
        for service, unseen in (("engine", UNSEEN_ENGINE), ("worker", UNSEEN_WORKER)):
            role = stack.allowed(self.server.url, self.outputs[f"{service.title()}RoleArn"])
            recorded = self.used[service]
            # That something is tried at the start doesn't show that it is needed.
            lacking, unused, _ = stack.compare(recorded, role, unseen | CHANCE)
            *_, stale = stack.compare(recorded, role, unseen)
            untried = PROBED - {action for action, _ in self.probed[service]}
            must(not untried, f"the {service} tried none of these when it started: {untried}")
            must(not lacking, f"the {service}'s role lacks: {lacking[:10]}")
            must(not unused, f"the {service}'s role has what it never used: {unused}")
            must(not stale, f"these were seen after all, take them from the list: {stale}")
            say(f"{service}: {len({action for action, _ in recorded})} actions called, {len(role)} allowed: none missing, none unused")

    def close(self):
        for program in self.programs:
            program.kill()
        if self.faults:
            self.faults.stop()
        self.server.stop()


def plain(proof):
    say("templates deployed; starting the engine, and a manifest that must fail")
    proof.start("engine", "engine-1")
    proof.doom()
    for name in ("worker-1", "worker-2"):
        proof.start("worker", name)
    say(f"landing {len(proof.work.versions)} objects")
    proof.land()
    proof.wait("everything settled", proof.is_settled, 300)
    proof.check()
    proof.check_alert()
    say("the failed manifest was told to a subscriber of the topic")
    proof.check_alarm()
    say("the alarm of dead letters went off, and told the topic")
    for program in proof.programs:
        say(f"{program.name} ended {program.stop():.1f} s after SIGTERM")
    proof.check_metrics()
    say("the alarm of failed manifests went off by the program's own metrics, and told the topic")
    proof.check_roles()


def faults(proof):
    proof.faults = Faults(proof.server.url, open(proof.folder / "faults.log", "w"))
    proof.losses = [LostCompletion(3), DamagedPart(2), DamagedObject(2)]
    # Without events, workers find manifests in the index.
    proof.variables |= {"PENSTOCK_MAX_ATTEMPTS": "5", "PENSTOCK_LOOK_EVERY": "2s"}
    for service, name in (("engine", "engine-1"), ("worker", "worker-1"), ("worker", "worker-2")):
        proof.start(service, name)
    proof.faults.add(rules() + outage(20))
    say(f"landing {len(proof.work.versions)} objects through {len(proof.faults.names)} faults")
    proof.land()
    proof.break_items()
    proof.wait("everything settled", proof.is_settled, 400)
    proof.wait("the dead letters", lambda: proof.depth("DlqUrl") >= len(BROKEN), 60)
    fired = proof.faults.fired() | {loss.name: loss.fired for loss in proof.losses}
    proof.check()
    never = [name for name, count in fired.items() if not count]
    must(not never, f"these faults never happened, so nothing was shown of them: {never}")
    say(f"{sum(fired.values())} faults of {len(fired)} kinds: {fired}")
    told = proof.programs[0].whole()
    opened, closed = told.rfind("Breaker opened"), told.rfind("Breaker closed")
    must(0 <= opened < closed, f"the breaker before the bus opened ({opened}) and closed ({closed})")
    must("damaged on the way" in "".join(of.whole() for of in proof.programs), "nothing damaged was seen")
    for program in proof.programs:
        program.stop()
    states = [value for *_, value in breaker_states(proof.programs[0].whole())]
    must(states and states[-1] == 0, f"the breaker's metric ends closed: {states}")


def loss(proof):
    proof.variables["PENSTOCK_LOOK_EVERY"] = "2s"
    for service, name in (("engine", "engine-1"), ("worker", "worker-1")):
        proof.start(service, name)
    events, table = proof.client("events"), proof.client("dynamodb")
    rule = {"Name": f"{PIPELINE}-manifest-ready-{ENV}", "EventBusName": proof.outputs["BusName"]}
    say(f"landing {len(proof.work.versions)} objects; no event reaches the workers")
    events.disable_rule(**rule)
    proof.land()
    for url in ("FileEventsUrl", "ManifestReadyUrl"):
        proof.sqs.purge_queue(QueueUrl=proof.outputs[url])
    say("both queues purged; renewing the stream")
    stream = {"TableName": proof.outputs["TableName"]}
    table.update_table(StreamSpecification={"StreamEnabled": False}, **stream)
    time.sleep(1)
    table.update_table(StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}, **stream)
    proof.wait("everything settled without queues, events and the old stream", proof.is_settled, 400)
    proof.check()
    for program in proof.programs:
        program.stop()


def kills(proof):
    proof.variables |= {"PENSTOCK_LOOK_EVERY": "2s", "PENSTOCK_MAX_ATTEMPTS": "20"}
    services = ["engine", "engine", "worker", "worker", "worker"]
    for number, service in enumerate(services):
        proof.start(service, f"{service}-{number}")
    say(f"landing {len(proof.work.versions)} objects")
    proof.land()
    rolls, number, done = random.Random(2026), len(services), collections.Counter()
    deadline, paused = time.monotonic() + 75, {}
    while time.monotonic() < deadline:
        time.sleep(rolls.uniform(0.3, 2.0))
        for program, until in list(paused.items()):
            if time.monotonic() > until:
                program.process.send_signal(signal.SIGCONT)
                del paused[program]
        alive = [program for program in proof.programs if program.process.poll() is None and program not in paused]
        if len(alive) < 3:
            continue
        program, how = rolls.choice(alive), rolls.choice(("kill", "kill", "stop", "pause"))
        done[f"{how} {program.service}"] += 1
        if how == "pause":
            # Longer than its leases live: somebody else has what it holds when it wakes up.
            program.process.send_signal(signal.SIGSTOP)
            paused[program] = time.monotonic() + 15
            continue
        if how == "kill":
            program.kill()
        else:
            must(program.stop() < 40, f"{program.name} took too long")
        program.expected_dead = True
        proof.start(program.service, f"{program.service}-{number}")
        number += 1
    for program in paused:
        program.process.send_signal(signal.SIGCONT)
    quiet = time.monotonic()
    proof.wait("everything settled", proof.is_settled, 300)
    say(f"{dict(done)}; settled {time.monotonic() - quiet:.0f} s after the last")
    proof.check()


def adopt(proof):
    """The table as the previous system leaves it: keys, statuses and manifests as its code writes them."""
    table, date = proof.client("dynamodb"), "2026-01-10"
    old_input, ours = "ndjson-input-sqs-000000000000-prod", proof.bucket["input"]
    lines, wanted, gone = {}, {}, "2026-01-10-gone.ndjson"

    def key_of(name):
        return f"pipeline/input/{name}"

    def file(name, status, manifest=None, has_object=True, **more):
        shard = int(hashlib.md5(name.encode()).hexdigest(), 16) % 10
        item = {
            "date_prefix": date,
            "file_key": name,
            "file_path": f"s3://{old_input}/{key_of(name)}",
            "status": status.replace("N", str(shard)),
            "shard_id": shard,
            "file_size_mb": "3.5",
            "created_at": "2026-01-10T10:00:00+00:00",
            "ttl": 1999999999,
            **({"manifest_path": manifest} if manifest else {}),
            **more,
        }
        typed = {k: {"N": str(v)} if k in ("shard_id", "ttl", "file_size_mb") else {"S": v} for k, v in item.items()}
        table.put_item(TableName=proof.outputs["TableName"], Item=typed)
        lines[name] = f"old-{name}"
        if has_object:
            body = json.dumps({"id": lines[name]}).encode() + b"\n"
            proof.s3.put_object(Bucket=ours, Key=key_of(name), Body=body)

    def manifest(number, status, names=None, **more):
        name = f"batch-{number:04}-20260110-100000.json"
        path = f"s3://ndjson-manifest-sqs-000000000000-prod/manifests/{date}/{name}"
        item = {"date_prefix": date, "file_key": f"MANIFEST#{name}", "status": status, "manifest_path": path}
        item |= {"file_count": "2", "created_at": "2026-01-10T10:00:00Z", "ttl": "1999999999", **more}
        typed = {k: {"N": v} if k in ("file_count", "ttl") else {"S": v} for k, v in item.items()}
        table.put_item(TableName=proof.outputs["TableName"], Item=typed)
        if names is not None:
            uris = [f"s3://{old_input}/{key_of(of)}" for of in names]
            body = json.dumps({"fileLocations": [{"URIPrefixes": uris}]}).encode()
            proof.s3.put_object(Bucket=proof.bucket["manifest"], Key=f"manifests/{date}/{name}", Body=body)
        return path

    done = manifest(1, "completed", ["2026-01-10-done.ndjson"])
    gone_json = manifest(2, "completed")
    failed = manifest(3, "failed", ["2026-01-10-failed.ndjson"], error_message="Glue says no")
    waiting = manifest(4, "pending", ["2026-01-10-waits.ndjson"])
    running = manifest(5, "processing", ["2026-01-10-runs.ndjson"])
    for name, status, of, fate in (
        ("2026-01-10-a.ndjson", "pending#N", None, "completed"),
        ("2026-01-10-unsharded.ndjson", "pending", None, "completed"),
        (gone, "pending#N", None, "failed"),
        ("2026-01-10-done.ndjson", "manifested#N", done, "was"),
        # Its manifest was overwritten by another of the same second: it was never converted.
        ("2026-01-10-overwritten.ndjson", "manifested#N", done, "completed"),
        ("2026-01-10-assumed.ndjson", "manifested#N", gone_json, "was"),
        ("2026-01-10-failed.ndjson", "manifested#N", failed, "failed"),
        ("2026-01-10-waits.ndjson", "manifested#N", waiting, "completed"),
        ("2026-01-10-runs.ndjson", "manifested#N", running, "completed"),
        ("2026-01-10-final.ndjson", "completed#N", done, "was"),
        ("2026-01-10-no-manifest.ndjson", "manifested#N", "s3://x/manifests/none.json", "completed"),
    ):
        file(name, status, of, has_object=name != gone)
        wanted[name] = fate

    def run_adopt(*more):
        arguments = [proof.binary, "--log", "error", "adopt", proof.file, "--env", ENV, "--endpoint-url", proof.server.url, *more]
        ended = subprocess.run(arguments, env={**os.environ, **credentials()}, capture_output=True, text=True, check=False)
        must(ended.returncode in (0, 3), f"adopt ended with {ended.returncode}: {ended.stderr}")
        return ended.returncode, ended.stdout

    before = proof.items()
    code, told = run_adopt()
    must(proof.items() == before, "a dry run changed the table")
    must("would become pending" in told and "Nothing was changed" in told, f"a dry run says what it would do: {told}")
    must(code == 3 and "choose with --processing" in told, f"a person must decide on what was being processed: {told}")
    code, told = run_adopt("--apply", "--processing", "redo")
    must(code == 0, f"adopting was not complete: {told}")
    print(told)
    code, told = run_adopt("--processing", "redo")
    must("nothing of the previous system" in told or "pending" not in told, f"adopting again finds more: {told}")
    for service, name in (("engine", "engine-1"), ("worker", "worker-1")):
        proof.start(service, name)

    def settled():
        files, manifests = proof.items()
        return all(item["status"].split("#")[0] in ("completed", "failed") for item in files) and files

    files = proof.wait("all adopted files done", settled, 120)
    states = {item["file_key"]: item["status"].split("#")[0] for item in files}
    for name, fate in wanted.items():
        must(states[name] == ("completed" if fate == "was" else fate), f"{name} is {states[name]}, not {fate}")
    expected = collections.Counter(lines[name] for name, fate in wanted.items() if fate == "completed")
    proof.check_rows(expected)
    say(f"{len(files)} files of the previous system: {sum(expected.values())} converted by us, none of the others again")
    for program in proof.programs:
        program.stop()


# Parameters of services.yaml, where a proof needs others than the default.
PARAMETERS = {"pages": {"Pages": "true", "ActionToken": "arn:aws:secretsmanager:us-east-1:000000000000:secret:token"}}

PROOFS = {"plain": plain, "faults": faults, "loss": loss, "kills": kills, "adopt": adopt, "moments": moments, "hands": hands, "pages": pages}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("penstock")
    parser.add_argument("proofs", nargs="*", choices=[*PROOFS, "all", []])
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--keep", help="leave the logs in this folder")
    arguments = parser.parse_args()
    proofs = [*PROOFS] if "all" in arguments.proofs else arguments.proofs or ["plain"]
    for name in proofs:
        with tempfile.TemporaryDirectory(prefix="penstock-aws.") as folder:
            folder = pathlib.Path(arguments.keep or folder) / name
            folder.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            # Kills should meet conversions that take a while.
            lines = 4000 if name == "kills" else 40
            proof = Proof(os.path.abspath(arguments.penstock), arguments.objects, folder, lines)
            try:
                proof.deploy(PARAMETERS.get(name, {}))
                PROOFS[name](proof)
                proof.check_lacking()
            except SystemExit:
                print(proof.state() if hasattr(proof, "outputs") else "", file=sys.stderr)
                raise
            finally:
                proof.close()
            say(f"{name}: proven in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
