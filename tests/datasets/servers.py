"""Real servers on this machine for tests of remote data: HTTP that misbehaves as told, and one that speaks S3."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Behaviour:
    """What goes wrong, by path: how many of the next answers are 503, cut short, have a wrong byte or never come."""

    root: Path
    unavailable: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    corrupted: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    forbidden: set[str] = field(default_factory=set)
    delay_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, kind: Counter[str], path: str) -> bool:
        with self.lock:
            kind[path] -= 1
            return kind[path] >= 0


@contextmanager
def http_server(root: Path) -> Iterator[tuple[str, Behaviour]]:
    """(address, behaviour) of a server of the folder `root`."""
    behaviour = Behaviour(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            with behaviour.lock:
                behaviour.requests[path] += 1
            time.sleep(behaviour.delay_s)
            file = root / path
            if behaviour.takes(behaviour.silent, path):
                time.sleep(1.0)
            elif path in behaviour.forbidden:
                self.send_error(403)
            elif behaviour.takes(behaviour.unavailable, path):
                self.send_error(503)
            elif not file.is_file():
                self.send_error(404)
            else:
                data = bytearray(file.read_bytes())
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if behaviour.takes(behaviour.truncated, path):
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                if behaviour.takes(behaviour.corrupted, path):
                    data[len(data) // 2] ^= 1
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
