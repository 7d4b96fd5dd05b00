"""Faults between the program and the server, by microburst: what is done to which request, how often, and that it was done.

`abort_bytes: 1` lets the server carry the request out and loses the answer: the write that lands while its writer is told of
a failure. Where a rule never fires the run proves nothing, so each rule's count is asserted.
"""

import json
import os
import subprocess
import sys
import urllib.request

from server import free_port, wait_for

THROTTLED = {"code": "ProvisionedThroughputExceededException"}


def rules():
    def rule(name, service, operation, times, probability=1.0, **what):
        return {"id": name, "service": service, "operation": operation, "times": times, "probability": probability, **what}

    found = []
    for operation in ("GetItem", "PutItem", "UpdateItem", "Query"):
        found.append(rule(f"throttle-{operation}", "dynamodb", operation, 12, 0.1, error=THROTTLED))
    for operation in ("PutItem", "UpdateItem"):
        found.append(rule(f"lost-{operation}", "dynamodb", operation, 12, 0.1, response={"abort_bytes": 1}))
        found.append(rule(f"reset-{operation}", "dynamodb", operation, 6, 0.1, reset=True))
    for code in ("ExpiredIteratorException", "TrimmedDataAccessException", "LimitExceededException", "InternalServerError"):
        found.append(rule(f"stream-{code}", "dynamodbstreams", "GetRecords", 3, 0.3, error={"code": code}))
    found += [
        rule("lost-PutEvents", "events", "PutEvents", 2, 0.5, response={"abort_bytes": 1}),
        rule("slow-GetObject", "s3", "GetObject", 10, 0.2, error={"code": "SlowDown", "status": 503}),
        rule("cut-GetObject", "s3", "GetObject", 6, 0.1, response={"abort_frac": 0.3}),
        # It takes the parts of an upload for objects.
        rule("slow-PutObject", "s3", "PutObject", 6, 0.5, error={"code": "SlowDown", "status": 503}),
        rule("reset-Receive", "sqs", "ReceiveMessage", 3, 0.3, reset=True),
        rule("lost-Delete", "sqs", "DeleteMessageBatch", 3, 0.3, response={"abort_bytes": 1}),
    ]
    return found


def outage(times):
    """EventBridge fails for long enough that the breaker opens."""
    return [
        {
            "id": "outage-PutEvents",
            "service": "events",
            "operation": "PutEvents",
            "times": times,
            "error": {"code": "InternalException", "status": 500},
        }
    ]


class LostCompletion:
    """The completion of an upload whose answer is lost: the object is there, and its writer isn't told."""

    name = "lost-CompleteMultipartUpload"

    def __init__(self, times):
        self.left, self.fired = times, 0

    def takes(self, method, path):
        if method != "POST" or "uploadId=" not in path or not self.left:
            return False
        self.left, self.fired = self.left - 1, self.fired + 1
        return True


class Faults:
    """A proxy with faults before `upstream`; `url` is its address."""

    def __init__(self, upstream, log):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        program = os.path.join(os.path.dirname(sys.executable), "microburst")
        arguments = [program, "--upstream", upstream, "--port", str(port), "--host", "127.0.0.1"]
        self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        wait_for(f"{self.url}/_microburst/health", self.process)
        self.names = {}

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_microburst/{path}", data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def add(self, rules):
        known = self.ask("PATCH", "rules", [{name: value for name, value in rule.items() if name != "id"} for rule in rules])
        # It answers with its own numbers, in our order.
        self.names |= {rule["id"]: ours["id"] for rule, ours in zip(known[-len(rules) :], rules, strict=True)}

    def fired(self):
        """How often each rule fired, by its name."""
        counts = dict.fromkeys(self.names.values(), 0)
        for event in self.ask("GET", "fired?limit=100000"):
            counts[self.names[event["rule_id"]]] += 1
        return counts

    def stop(self):
        self.process.terminate()
        self.process.wait()
