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
    # Leases are given back by it: there are few of these.
    found.append(rule("throttle-DeleteItem", "dynamodb", "DeleteItem", 12, 0.3, error=THROTTLED))
    for operation in ("PutItem", "UpdateItem"):
        found.append(rule(f"lost-{operation}", "dynamodb", operation, 12, 0.1, response={"abort_bytes": 1}))
        found.append(rule(f"reset-{operation}", "dynamodb", operation, 6, 0.1, reset=True))
    for operation in ("DescribeStream", "GetShardIterator"):
        # So often in a row that the SDK gives up, and the consumer has to try again itself.
        limited = {"code": "LimitExceededException"}
        found.append(rule(f"limit-{operation}", "dynamodbstreams", operation, 5, error=limited))
    for code in ("ExpiredIteratorException", "TrimmedDataAccessException", "LimitExceededException", "InternalServerError"):
        found.append(rule(f"stream-{code}", "dynamodbstreams", "GetRecords", 3, 0.3, error={"code": code}))
    found += [
        rule("lost-PutEvents", "events", "PutEvents", 2, 0.5, response={"abort_bytes": 1}),
        rule("slow-GetObject", "s3", "GetObject", 10, 0.2, error={"code": "SlowDown", "status": 503}),
        rule("cut-GetObject", "s3", "GetObject", 6, 0.1, response={"abort_frac": 0.3}),
        rule("corrupt-GetObject", "s3", "GetObject", 6, 0.1, response={"corrupt_bytes": 1}),
        # It takes the parts of an upload for objects.
        rule("slow-PutObject", "s3", "PutObject", 6, 0.5, error={"code": "SlowDown", "status": 503}),
        rule("reset-Receive", "sqs", "ReceiveMessage", 3, 0.3, reset=True),
        rule("lost-Delete", "sqs", "DeleteMessageBatch", 3, 0.3, response={"abort_bytes": 1}),
        # Dead letters are what the program sends.
        rule("lost-Send", "sqs", "SendMessageBatch", 2, response={"abort_bytes": 1}),
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


class Loss:
    """A fault of our own proxy (recorder.py), some times."""

    def __init__(self, times):
        self.left, self.fired = times, 0

    def is_its(self, method, path):
        raise NotImplementedError

    def fires(self, method, path):
        if not self.left or not self.is_its(method, path):
            return False
        self.left, self.fired = self.left - 1, self.fired + 1
        return True

    def takes(self, method, path):
        """Whether the answer is lost."""
        return False

    def damaged(self, method, path, body):
        """The body as it arrives."""
        return body

    def answer(self, method, path):
        """An answer in place of the server's: its status and headers."""
        return None


class Elsewhere(Loss):
    """Buckets are in another region, as S3 tells who asks for them in the wrong one."""

    def __init__(self, region):
        super().__init__(1000)
        self.region = region

    def is_its(self, method, path):
        return method == "HEAD"

    def answer(self, method, path):
        return (301, {"x-amz-bucket-region": self.region}) if self.fires(method, path) else None


class LostCompletion(Loss):
    """The completion of an upload whose answer is lost: the object is there, and its writer isn't told."""

    name = "lost-CompleteMultipartUpload"

    def is_its(self, method, path):
        return method == "POST" and "uploadId=" in path

    def takes(self, method, path):
        return self.fires(method, path)


class Damaged(Loss):
    """A body with one bit that isn't as it was sent."""

    def damaged(self, method, path, body):
        if not body or not self.fires(method, path):
            return body
        middle = len(body) // 2
        return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


class DamagedPart(Damaged):
    name = "corrupt-UploadPart"

    def is_its(self, method, path):
        return method == "PUT" and "partNumber=" in path


class DamagedObject(Damaged):
    name = "corrupt-PutObject"

    def is_its(self, method, path):
        return method == "PUT" and "/manifests/" in path


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
