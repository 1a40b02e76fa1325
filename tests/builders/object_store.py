"""A front of an S3 server that does harm: it is away, hangs, resets, answers late, or says that it is unavailable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROGRAM = r"""
import json, socket, struct, sys, threading, time

upstream, mode, seconds, opened = int(sys.argv[1]), "pass", 0.0, []
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HEAD = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "


def end(connection, reset=False):
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        connection.shutdown(socket.SHUT_RDWR) if not reset else None
    except OSError:
        pass
    connection.close()


def forward(source, target, late):
    try:
        while data := source.recv(65536):
            if late and mode == "slow":
                time.sleep(seconds)
            target.sendall(data)
    except OSError:
        pass
    end(source), end(target)


def serve(client):
    opened.append(client)
    if mode in ("pass", "slow"):
        server = socket.create_connection(("127.0.0.1", upstream))
        opened.append(server)
        threading.Thread(target=forward, args=(server, client, False), daemon=True).start()
        forward(client, server, True)
        return
    try:
        client.recv(65536)
        if mode == "reset":
            end(client, reset=True)
        elif mode == "unavailable":
            client.sendall(HEAD + str(len(BODY)).encode() + b"\r\n\r\n" + BODY)
            end(client)
    except OSError:
        pass


def listen():
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            time.sleep(0.02)
            continue
        threading.Thread(target=serve, args=(client,), daemon=True).start()


threading.Thread(target=listen, daemon=True).start()
print(port, flush=True)
for line in sys.stdin:
    was_away = mode == "away"
    mode, seconds = json.loads(line)
    if mode == "away" and not was_away:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    elif was_away and mode != "away":
        listener = socket.create_server(("127.0.0.1", port))
    while opened:
        end(opened.pop())
    print("done", flush=True)
"""


class Front:
    """The front of a server; made by `front_of`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.port = process, port

    def become(self, mode: str, seconds: float = 0.0) -> None:
        """Be `away`, `hang`, `reset` or `unavailable`, or `slow` by so many seconds a request, or `pass` all on.

        Connections that are open are closed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([mode, seconds]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def address(self, path: str) -> str:
        """Return the address of `bucket/prefix` behind this front."""
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"


@contextmanager
def front_of(port: int) -> Iterator[Front]:
    """Stand before the server at a port of this machine, in a process of its own, as the server does."""
    command = [sys.executable, "-c", _PROGRAM, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Front(process, int(process.stdout.readline()))
        finally:
            process.kill()
