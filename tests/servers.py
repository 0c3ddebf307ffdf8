"""Servers of files on this machine, each in a process of its own: FTP, and the protocol of S3."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

FTP = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

class Handler(FTPHandler):
    authorizer = DummyAuthorizer()

Handler.authorizer.add_anonymous(sys.argv[1], perm="elradfmw")
server = FTPServer(("127.0.0.1", 0), Handler)
print(server.address[1], flush=True)
server.serve_forever()
"""
S3 = """
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()
"""


@contextlib.contextmanager
def _server(program: str, *arguments: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        assert line, "the server ended"
        yield int(line)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@contextlib.contextmanager
def ftp(folder: Path) -> Iterator[str]:
    """The URL of `folder`, to be read and written by anybody; fsspec's temporary files are in its `tmp`."""
    (folder / "tmp").mkdir(parents=True)
    with _server(FTP, str(folder)) as port:
        yield f"ftp://127.0.0.1:{port}"


@contextlib.contextmanager
def s3(bucket: str) -> Iterator[dict[str, str]]:
    """The environment in which `s3://BUCKET` is on a server of moto's, with that bucket."""
    with _server(S3) as port:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT"), timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield {
            "FSSPEC_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def run(*arguments: str, cwd: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    """`xbench` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "xbench", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        timeout=300,
    )
