"""A proxy that passes everything through and remembers which IAM action each request takes, on which resource.

It hears the program's requests as AWS would: those of the SDK and those of the object store alike.
"""

import http.client
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Names by which SQS allows the batch form of a request.
SINGLE = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}


def used(method, path, headers, body):
    """The (action, resource) pairs that a request takes. A resource is the end of an ARN."""
    target = headers.get("x-amz-target")
    if target:
        prefix, name = target.split(".", 1)
        asked = json.loads(body or b"{}")
        if prefix.startswith("DynamoDBStreams"):
            return [(f"dynamodb:{name}", "stream")]
        if prefix.startswith("DynamoDB"):
            table = f"table/{asked.get('TableName', '')}"
            index = asked.get("IndexName")
            return [(f"dynamodb:{name}", f"{table}/index/{index}" if index else table)]
        if prefix == "AmazonSQS":
            queue = asked.get("QueueName") or asked.get("QueueUrl", "").rsplit("/", 1)[-1]
            return [(f"sqs:{SINGLE.get(name, name)}", queue)]
        if prefix == "AWSEvents":
            buses = [entry.get("EventBusName") for entry in asked.get("Entries", [])] or [asked.get("Name")]
            return [(f"events:{name}", f"event-bus/{bus}") for bus in sorted(set(buses))]
        return [(f"{prefix}:{name}", "*")]
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        action = urllib.parse.parse_qs(body.decode()).get("Action", ["?"])[0]
        # Everybody may ask who they are.
        return [] if action == "GetCallerIdentity" else [(f"?:{action}", "*")]
    url = urllib.parse.urlsplit(path)
    query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = url.path.lstrip("/").partition("/")
    # The program names objects by their paths; policies by bucket and all below it, or below a prefix.
    resource = f"{bucket}/{urllib.parse.unquote(key)}" if key else bucket
    version = "Version" if "versionId" in query else ""
    if not key:
        return [("s3:ListBucket", resource)]
    if method in ("GET", "HEAD"):
        return [(f"s3:GetObject{version}", resource)]
    if method == "DELETE":
        return [("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", resource)]
    pairs = [("s3:PutObject", resource)]
    source = headers.get("x-amz-copy-source")
    if source:
        place, _, version = urllib.parse.unquote(source).lstrip("/").partition("?versionId=")
        pairs.append((f"s3:GetObject{'Version' if version else ''}", place))
    return pairs


def is_probe(path, body):
    """Whether a request only tries whether it is allowed: it names what can't be."""
    key = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
    return b"preflight" in body.lower() or "preflight" in path or key.endswith("*")


class Recorder:
    """A recording proxy before `upstream` on a free port; `url` is its address, `used` what was recorded, `probed` what was
    only tried.

    Over a proxy with faults, `server` is the server behind it: what is cut or lost by the proxy is cut and lost here, nothing
    is asked again, and HEAD goes around it, because it answers without the length of the object. `losses` are faults of ours,
    which the proxy can't tell apart or make: answers that are lost or made up, bodies that are damaged on their way to the
    server.
    `gate` is a place to stop at (moments.py).
    """

    def __init__(self, upstream, server=None, losses=(), into=None, probed=None):
        self.used, self.probed, self.gate = set() if into is None else into, set() if probed is None else probed, None
        place = lambda url: urllib.parse.urlsplit(url).netloc
        recorder, faithful = self, server is not None
        local = threading.local()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self):
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length) if length else b""
                if self.headers.get("transfer-encoding", "").lower() == "chunked":
                    body = self.read_chunks()
                headers = {name.lower(): value for name, value in self.headers.items()}
                only_tried = is_probe(self.path, body)
                (recorder.probed if only_tried else recorder.used).update(used(self.command, self.path, headers, body))
                headers.pop("transfer-encoding", None)
                headers.pop("connection", None)
                headers.pop("expect", None)
                for loss in losses:
                    if answer := loss.answer(self.command, self.path):
                        status, more = answer
                        self.send_response_only(status)
                        for name, value in {**more, "content-length": "0"}.items():
                            self.send_header(name, value)
                        return self.end_headers()
                    body = loss.damaged(self.command, self.path, body)
                headers["content-length"] = str(len(body))
                gate = recorder.gate
                if gate and not only_tried and gate.stops(self.command, self.path, headers, body):
                    gate.wait_before()
                else:
                    gate = None
                if faithful:
                    local.connection = None
                for last in (faithful, True):
                    try:
                        connection = getattr(local, "connection", None)
                        if connection is None:
                            to = server if faithful and self.command == "HEAD" else upstream
                            connection = local.connection = http.client.HTTPConnection(place(to), timeout=90)
                        connection.request(self.command, self.path, body, headers)
                        answer = connection.getresponse()
                        content = answer.read()
                        break
                    except (http.client.HTTPException, OSError):
                        local.connection = None
                        if last:
                            raise ConnectionResetError from None
                for loss in losses:
                    if loss.takes(self.command, self.path):
                        raise ConnectionResetError
                if gate:
                    gate.wait_after(answer.status)
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                of_head = answer.getheader("content-length", "0") if self.command == "HEAD" else None
                self.send_header("content-length", of_head or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def read_chunks(self):
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return body

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

            def handle(self):
                try:
                    super().handle()
                except (ConnectionError, BrokenPipeError):
                    pass  # A client that was killed.

            def log_message(self, *_):
                pass

        class Proxy(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Proxy(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
