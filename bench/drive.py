"""Sends an exact number of requests over a fixed number of connections, so that what they cost can be divided."""

import selectors
import socket
from itertools import cycle


class DriveError(Exception):
    """An answer that was not 200, or a connection that ended."""


class Connection:
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, port, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.pending = b""

    def send(self, request):
        self.socket.sendall(request)

    def receive(self):
        """The body of the answer once it is whole, else None."""
        data = self.socket.recv(65536)
        if not data:
            raise DriveError("the connection ended before its answer")
        self.pending += data
        head, end, rest = self.pending.partition(b"\r\n\r\n")
        if not end:
            return None
        if not head.startswith(b"HTTP/1.1 200 "):
            raise DriveError(f"answered {self.pending[:400]!r}")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        if len(rest) < length:
            return None
        if len(rest) > length:
            raise DriveError(f"{len(rest) - length} bytes too many: {rest[length:][:80]!r}")
        self.pending = b""
        return rest


def request(port, path, token):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def drive(port, path, tokens, lengths, connections=8, tls=None):
    """For each of `lengths`, that many requests, the tokens in rotation, over the same connections. Yields after each."""
    requests = cycle([request(port, path, token) for token in tokens])
    with selectors.DefaultSelector() as selector:
        idle = [Connection(port, tls) for _ in range(connections)]
        for connection in idle:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        for length in lengths:
            started = min(length, connections)
            for connection in idle[:started]:
                connection.send(next(requests))
            done = 0
            while done < length:
                ready = selector.select(60)
                if not ready:
                    raise DriveError("no answer for 60 s")
                for key, _ in ready:
                    if key.data.receive() is None:
                        continue
                    done += 1
                    if started < length:
                        started += 1
                        key.data.send(next(requests))
            yield length
        for connection in idle:
            connection.socket.close()
