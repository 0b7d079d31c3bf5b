"""What Ray runs in place of Python for each worker of a job: it has the fork server start the worker, and ends.

Run by itself, without the package, whose import is what this saves: `python -I -S fork_client.py SOCKET ARGUMENT…`.
"""

import json
import os
import socket
import sys


def main() -> None:
    """Hand over arguments, environment, folder and standard streams; begin as usual where nobody takes them."""
    address, *arguments = sys.argv[1:]
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109 - pathlib takes 20 ms to import
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(address)
            socket.send_fds(server, [b"\n"], [0, 1, 2])
            server.sendall(json.dumps(order).encode())
            server.shutdown(socket.SHUT_WR)
            started = server.recv(1)  # the server may still be importing
    except OSError:
        started = b""
    if not started:
        os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
