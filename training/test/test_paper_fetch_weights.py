"""Weights arrive whole from a hub that hangs up midway, damaged ones do not stay, local ones are recorded."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sem_depth_training.fetch_weights import FetchError, fetch_weights

WEIGHTS = bytes(range(256)) * 98304  # 24 MiB: the client keeps nothing of a broken-off 10 MiB piece
PATH = "pretrained/pfd/seecoder/seecoder-v1-0.safetensors"
COMMIT = "0" * 40
MAIN = "from sem_depth_training.cli import main; main()"


class Hub(ThreadingHTTPServer):
    """A Hugging Face hub with one repository on the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.sha256 = hashlib.sha256(WEIGHTS).hexdigest()
        self.hang_ups = 0
        self.starts: list[int] = []


class HubHandler(BaseHTTPRequestHandler):
    """Answers what the hub's client asks: the listing with hashes, and the file, whole or from an offset."""

    server: Hub

    def do_HEAD(self) -> None:
        self._file_headers(0, 200)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self._listing()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.server.starts.append(start)
        self._file_headers(start, 206 if wanted else 200)
        end = len(WEIGHTS)
        if self.server.hang_ups:
            self.server.hang_ups -= 1
            end = start + (end - start) // 2
            self.close_connection = True
        self.wfile.write(WEIGHTS[start:end])

    def _listing(self) -> None:
        lfs = {"oid": self.server.sha256, "sha256": self.server.sha256, "size": len(WEIGHTS), "pointerSize": 130}
        entry = {"rfilename": PATH, "size": len(WEIGHTS), "blobId": "1" * 40, "lfs": lfs}
        name = "shi-labs/prompt-free-diffusion"
        body = json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": [entry]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file_headers(self, start: int, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{self.server.sha256}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(WEIGHTS) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_seecoder(endpoint: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command against a hub of our own; the client reads the address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "200"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", MAIN, "fetch-weights", "seecoder", "--to", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def address(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.hang_ups = 1
    done = fetch_seecoder(address(hub), tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "seecoder" / PATH
    assert path.read_bytes() == WEIGHTS
    assert hub.starts[0] == 0
    assert len(hub.starts) == 2
    assert 0 < hub.starts[1] <= len(WEIGHTS) // 2
    record = json.loads((tmp_path / "weights.json").read_text())["seecoder"]
    assert record["path"] == str(path)
    assert record["sha256"] == {"seecoder-v1-0.safetensors": hub.sha256}
    assert "unstated" in done.stdout


def test_a_file_of_another_hash_is_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.sha256 = "a" * 64
    done = fetch_seecoder(address(hub), tmp_path)
    assert done.returncode == 2
    assert "sha256" in done.stderr
    assert "a" * 64 in done.stderr
    assert not (tmp_path / "seecoder" / PATH).exists()


def test_without_a_hub_the_message_says_how_to_use_a_local_file(tmp_path: Path) -> None:
    done = fetch_seecoder("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2
    assert "--local seecoder=PATH" in done.stderr


def test_local_weights_are_used_where_they_lie_and_recorded(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"weight": np.zeros(1000, np.float32)}, file)
    content = file.read_bytes()
    fetched = fetch_weights("stable-diffusion", tmp_path / "weights", local=file)
    record = json.loads((tmp_path / "weights" / "weights.json").read_text())["stable-diffusion"]
    assert fetched.path == record["path"] == str(file)
    assert record["sha256"] == {"mine.safetensors": hashlib.sha256(content).hexdigest()}
    assert record["licence"].startswith("CreativeML OpenRAIL-M")


def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"weight": np.zeros(10, np.float32)}, file)
    (tmp_path / "weights.json").write_text('{"seecoder": ')
    with pytest.raises(FetchError, match=r"weights\.json: not a record of fetched weights .*delete it and fetch"):
        fetch_weights("stable-diffusion", tmp_path, local=file)


def test_a_local_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"absent\.safetensors: no such file"):
        fetch_weights("seecoder", tmp_path, local=tmp_path / "absent.safetensors")


def test_a_local_file_that_was_cut_short_is_named_and_not_recorded(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file({"weight": np.zeros(1000, np.float32)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FetchError, match=r"cut\.safetensors: not a whole .safetensors file .*copy it again"):
        fetch_weights("seecoder", tmp_path / "weights", local=file)
    assert not (tmp_path / "weights" / "weights.json").exists()
