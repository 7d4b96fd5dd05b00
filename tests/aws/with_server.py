#!/usr/bin/env python3
"""Runs a command beside an AWS-compatible server: `with_server.py COMMAND…`. It finds it in PENSTOCK_TEST_ENDPOINT."""

import os
import subprocess
import sys
import tempfile

from server import Server, credentials


def main():
    with tempfile.TemporaryFile() as log:
        server = Server(log)
        try:
            env = {**os.environ, **credentials(), "PENSTOCK_TEST_ENDPOINT": server.url}
            code = subprocess.run(sys.argv[1:], env=env, check=False).returncode
        finally:
            server.stop()
        if code:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-5000:])
    sys.exit(code)


if __name__ == "__main__":
    main()
