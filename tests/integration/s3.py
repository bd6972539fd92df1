"""A real S3 server for a test: versitygw over a folder, on loopback, with its own keys."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

GET_IT = "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"

READY_SECONDS = 60.0


class S3Server:
    """A server with one bucket, `artifacts`.

    Attributes:
        secret: its secret key, which must not be shown anywhere.
        bucket: the folder in which it keeps the objects as files.
        environment: AWS's variables, by which a study finds the server and its keys.
    """

    def __init__(self, program: Path, folder: Path, host: str) -> None:
        with socket.socket() as free:
            free.bind((host, 0))
            self._address: tuple[str, int] = free.getsockname()
        host, port = self._address
        self.secret = secrets.token_hex(20)
        access = f"key{secrets.token_hex(8)}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.bucket = folder / "data" / "artifacts"
        self.bucket.mkdir(parents=True)
        (folder / "attributes").mkdir()
        log = folder / "log"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [
                    *(program, "--port", f"{host}:{port}", "--region", "us-east-1"),
                    *("posix", "--sidecar", folder / "attributes", folder / "data"),
                ],
                stdout=stream,
                stderr=stream,
                env=os.environ | {"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": self.secret},
                start_new_session=True,
            )
        until = time.monotonic() + READY_SECONDS
        while not self._listens():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the server."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(self._address, 1.0).close()
        except OSError:
            return False
        return True


def find_program() -> Path | None:
    """Return the path of versitygw; None where it is not installed."""
    places = [Path(sys.executable).parent, Path.home() / "go" / "bin", *map(Path, os.get_exec_path())]
    found = shutil.which("versitygw", path=os.pathsep.join(map(str, places)))
    return None if found is None else Path(found)


@contextlib.contextmanager
def running_s3(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run a server for as long as the block lasts; skip the test, and say how to get one, where there is none."""
    program = find_program()
    if program is None:
        pytest.skip(f"no S3 server here; get one: {GET_IT}")
    server = S3Server(program, folder, host)
    try:
        yield server
    finally:
        server.stop()
