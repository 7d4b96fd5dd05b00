"""MiniStack, an AWS-compatible server that none of us wrote, as a child of this process."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
from botocore.config import Config

REGION = "us-east-1"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """Starts the server on a free port; `url` is its address."""

    def __init__(self, log):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        env = dict(os.environ, BIND_HOST="127.0.0.1", GATEWAY_PORT=str(self.port))
        # It looks for containers to run; there are none to be had.
        env["DOCKER_HOST"] = "unix:///nonexistent.sock"
        program = os.path.join(os.path.dirname(sys.executable), "ministack")
        self.process = subprocess.Popen([program], env=env, stdout=log, stderr=log)
        wait_for(f"{self.url}/_ministack/health", self.process)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_for(url, process, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode} before it answered at {url}")
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer at {url} within {seconds} s")
        time.sleep(0.1)


def client(service, url):
    config = Config(retries={"max_attempts": 3}, s3={"addressing_style": "path"}, max_pool_connections=32)
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def credentials():
    """The environment of a program that talks to the server."""
    return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
