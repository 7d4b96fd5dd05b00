"""What people do by the command line, on the server: look before they start, land, flush, ask, verify, redrive; and what they
are told when something is wrong with the account."""

import json
import os
import subprocess
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faults import Elsewhere, Faults
from recorder import Recorder
from server import credentials
from telling import must, say

DAY = "2026-04-01"


class Hands:
    def __init__(self, proof, env):
        self.proof, self.env = proof, env

    def run(self, command, *arguments, code=0, url=None, more=None):
        """Runs a command of the program on the pipeline; what it told. It must end with this code, or one of these."""
        line = [self.proof.binary, "--log", "warn", command, self.proof.file, *arguments]
        line += ["--env", self.env, "--endpoint-url", url or self.proof.server.url]
        environment = {**os.environ, **credentials(), **self.proof.variables, **(more or {})}
        ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=150)
        codes = code if isinstance(code, tuple) else (code,)
        shown = " ".join(map(str, line[3:]))
        must(ended.returncode in codes, f"`{shown}` ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
        self.log = getattr(self, "log", "") + f"$ {shown}\n{ended.stdout}{ended.stderr}\n"
        return ended.stdout + ended.stderr

    def must_say(self, told, *words):
        for word in words:
            must(word in told, f"it doesn't say {word!r}:\n{told}")


class FarClock:
    """A server that answers who one is, by a clock that is two hours ahead."""

    def __init__(self):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                body = (
                    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                    b"<Arn>arn:aws:iam::1:user/u</Arn><UserId>U</UserId><Account>000000000000</Account>"
                    b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
                )
                self.send_response_only(200)
                self.send_header("content-type", "text/xml")
                self.send_header("content-length", str(len(body)))
                self.send_header("date", formatdate(time.time() + 7200, usegmt=True))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def wrong_accounts(proof, hands):
    """What `validate --env` says before anything is started."""
    hands.run("validate")
    told = hands.run("validate", code=1, more={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"})
    hands.must_say(told, "no credentials were found")
    told = hands.run("validate", code=1, more={"AWS_REGION": "", "AWS_DEFAULT_REGION": ""})
    hands.must_say(told, "no region is set", "AWS_REGION")
    told = hands.run("validate", code=1, url=FarClock().url)
    hands.must_say(told, "this machine's clock is 7", "behind AWS's: set it")
    nobody = Hands(proof, "nowhere")
    nobody.must_say(
        nobody.run("validate", code=1), "ndjson-parquet-sqs-file-tracking-nowhere", "it is not there in account", "Env=nowhere"
    )
    told = hands.run("validate", code=1, url=Recorder(proof.server.url, losses=[Elsewhere("eu-west-1")]).url)
    hands.must_say(told, "it is in region eu-west-1", "set AWS_REGION")
    say("no credentials, no region, a wrong clock, another environment, another region: named, with what to do")
    # What the server itself never says.
    proxy = Faults(proof.server.url, open(proof.folder / "wrong.log", "w"))
    try:
        denied = lambda service, operation, code="AccessDeniedException": {
            "service": service,
            "operation": operation,
            "error": {"code": code, "status": 403 if service in ("s3", "sqs") else 400},
        }
        needs = lambda action, resource: f'{{"Effect":"Allow","Action":"{action}","Resource":"arn:aws:{resource}'
        table, queue = "dynamodb:us-east-1:000000000000:table/ndjson-parquet", "sqs:us-east-1:000000000000:ndjson-parquet"
        for name, rule, words in (
            (
                "an expired token",
                {"service": "sts", "operation": "GetCallerIdentity", "error": {"code": "ExpiredToken", "status": 403}},
                ("ExpiredToken", "credentials have expired: get new ones"),
            ),
            (
                "a denied change of an item",
                denied("dynamodb", "UpdateItem"),
                (
                    "UpdateItem of table ndjson-parquet-sqs-file-tracking-ci",
                    needs("dynamodb:UpdateItem", f"{table}-sqs-file-tracking-ci"),
                ),
            ),
            (
                "a denied new item",
                denied("dynamodb", "PutItem"),
                (
                    needs("dynamodb:PutItem", f"{table}-sqs-file-tracking-ci"),
                    needs("dynamodb:PutItem", f"{table}-leases-ci"),
                    # Without its row all work goes on.
                    "warning: table ndjson-parquet-sqs-metrics-ci",
                ),
            ),
            ("a denied end of a lease", denied("dynamodb", "DeleteItem"), (needs("dynamodb:DeleteItem", f"{table}-leases-ci"),)),
            ("a denied place in a stream", denied("dynamodbstreams", "GetShardIterator"), ('"dynamodb:GetShardIterator"',)),
            ("a denied stream", denied("dynamodbstreams", "GetRecords"), (needs("dynamodb:GetRecords", f"{table}-sqs-file-tracking-ci/stream/*"),)),
            (
                "a denied end of a message",
                denied("sqs", "DeleteMessageBatch", "AccessDenied"),
                tuple(needs("sqs:DeleteMessage", f"{queue}-{of}-ci") for of in ("file-events", "manifest-ready")),
            ),
            (
                "a message that can't be kept",
                denied("sqs", "ChangeMessageVisibilityBatch", "AccessDenied"),
                tuple(needs("sqs:ChangeMessageVisibility", f"{queue}-{of}-ci") for of in ("file-events", "manifest-ready")),
            ),
            (
                "a denied object",
                denied("s3", "HeadObject", "AccessDenied"),
                (
                    needs("s3:GetObject", "s3:::ndjson-parquet-input-ci-000000000000/landing/ndjson/*"),
                    needs("s3:GetObject", "s3:::ndjson-parquet-manifest-ci-000000000000/manifests/*"),
                ),
            ),
            (
                "a denied new object",
                # It takes the parts of an upload for objects.
                denied("s3", "PutObject", "AccessDenied"),
                (
                    needs("s3:PutObject", "s3:::ndjson-parquet-manifest-ci-000000000000/logs/convert/*"),
                    needs("s3:PutObject", "s3:::ndjson-parquet-output-ci-000000000000/pipeline/output/merged-parquet-*"),
                    needs("s3:PutObject", "s3:::ndjson-parquet-quarantine-ci-000000000000/rejects/*"),
                ),
            ),
            (
                "a denied end of an upload",
                # And this for the deletion of one.
                denied("s3", "DeleteObject", "AccessDenied"),
                (needs("s3:AbortMultipartUpload", "s3:::ndjson-parquet-output-ci-000000000000/pipeline/output/merged-parquet-*"),),
            ),
            (
                "a denied queue",
                denied("sqs", "GetQueueUrl", "AccessDenied"),
                ('"Action":"sqs:GetQueueUrl"', "ndjson-parquet-file-events-ci"),
            ),
            (
                "a clock that is refused",
                {"service": "dynamodb", "operation": "DescribeTable", "error": {"code": "InvalidSignatureException", "status": 400}},
                ("compare this machine's clock",),
            ),
        ):
            added = proxy.ask("POST", "rules", [{"times": 100, **rule}])
            must(added is not None, f"no rule for {name}")
            told = hands.run("validate", code=1, url=proxy.url)
            hands.must_say(told, *words)
            say(f"{name}: named, with what to do")
    finally:
        proxy.stop()


def hands(proof, env="ci"):
    of = Hands(proof, env)
    try:
        wrong_accounts(proof, of)
        work(proof, of)
    except BaseException:
        print(getattr(of, "log", ""))
        raise


def work(proof, of):
    # Nothing is closed by age or count: a person does it.
    proof.variables |= {"PENSTOCK_MAX_AGE": "1h", "PENSTOCK_MAX_FILES": "200", "PENSTOCK_LOOK_EVERY": "2s"}
    for service, name in (("engine", "engine-1"), ("worker", "worker-1")):
        proof.start(service, name)
    folder = proof.folder / "landing" / DAY
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"good {number}.ndjson").write_text("".join(f'{{"id":"{number}-{at}"}}\n' for at in range(10)))
    (folder / "bad.ndjson").write_text("no json\n" * 4)
    (folder / "wrong.csv").write_text("id\n1\n")
    told = of.run("land", str(proof.folder / "landing"))
    of.must_say(told, "5 files landed")
    say("landed by the command line")
    count = lambda *states: [item for item in proof.items()[0] if item["status"].split("#")[0] in states]
    proof.wait("four files pending", lambda: len(count("pending")) == 4, 60)
    of.must_say(of.run("status"), DAY, "pending")
    told = of.run("trace", f"{DAY}/good 0.ndjson")
    of.must_say(told, "good 0.ndjson", "pending")
    told = of.run("verify", DAY, code=3)
    told = of.run("flush", DAY)
    of.must_say(told, "batch-0001")
    proof.wait("what was flushed is done", lambda: len(count("completed")) == 3 and len(count("failed")) == 1, 90)
    proof.wait("settled", proof.is_quiet, 60)
    told = of.run("trace", f"{DAY}/bad.ndjson")
    of.must_say(told, "failed", "reject")
    of.must_say(of.run("verify", DAY), "All of it adds up")
    state = json.loads(of.run("status", "--json"))
    must(state, "status prints no JSON")
    say("status, trace, flush and verify told the truth of it")

    told = of.run("redrive", "--failed", DAY)
    of.must_say(told, "bad.ndjson", "--yes")
    must(len(count("failed")) == 1, "a redrive without --yes changed something")
    of.run("redrive", "--failed", DAY, "--yes")
    proof.wait("the redriven file is pending", lambda: len(count("pending")) == 1, 30)
    of.run("flush", DAY)
    proof.wait("it failed again, for it is as it was", lambda: len(count("failed")) == 1, 60)
    say("redriven: looked at first, then done")

    # The producer mends its file under the same key: that is another version, with an item of its own.
    (folder / "bad.ndjson").write_text('{"id":"mended"}\n')
    # What is landed again with it is known already.
    of.run("land", str(folder.parent))
    proof.wait("the mended version is pending", lambda: len(count("pending")) == 1, 30)
    of.run("flush", DAY)
    proof.wait("the mended version is converted", lambda: len(count("completed")) == 4, 60)
    proof.wait("settled", proof.is_quiet, 60)
    of.must_say(of.run("verify", DAY), "All of it adds up")
    say("mended, landed again, and all adds up")

    # Dead letters go back to where they came from.
    queue = proof.outputs["DlqUrl"]
    proof.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(proof.notification("landing/ndjson/2026-04-02/late.ndjson", b'{"id":"late"}\n')))
    told = of.run("redrive", "--dlq", "dlq")
    of.must_say(told, "--yes")
    of.run("redrive", "--dlq", "dlq", "--yes")
    proof.wait("what the dead letter told of", lambda: any(i["date_prefix"] == "2026-04-02" for i in proof.items()[0]), 60)
    say("a dead letter was sent back, and its file is there")
    for program in proof.programs:
        program.stop()
    again(proof, of)
    (proof.folder / "hands.log").write_text(of.log)


def again(proof, of):
    """What deploy/README.md says of a teardown that keeps the data, and of a table without which all work goes on."""
    proof.delete_services()
    proof.deploy_services()
    say("the services' stack was deleted, and deployed again beside the data")
    proof.client("dynamodb").delete_table(TableName=f"ndjson-parquet-sqs-metrics-{of.env}")
    told = of.run("validate")
    of.must_say(told, f"warning: table ndjson-parquet-sqs-metrics-{of.env}: it is not there in account")
    say("without the table of metrics there is a warning, and no more")
