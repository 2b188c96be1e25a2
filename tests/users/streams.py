"""Connections that stay open: an upstream with a WebSocket and with server-sent events, and a client for each."""

import base64
import hashlib
import os
import queue
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from upstream import Server

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
TEXT, CLOSE = 1, 8
INTERVAL = 0.1  # seconds between two events


def frame(opcode, payload, masked):
    head = bytes([0x80 | opcode, (0x80 if masked else 0) | len(payload)])
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read_frame(stream):
    """Opcode and payload; None at the end. No test sends a frame of 126 bytes or more."""
    head = stream.read(2)
    if len(head) < 2:
        return None
    opcode, length = head[0] & 0x0F, head[1] & 0x7F
    mask = stream.read(4) if head[1] & 0x80 else b"\0\0\0\0"
    return opcode, bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream.read(length)))


def close_code(payload):
    return struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None


class StreamServer(Server):
    """`/streams/echo` is a WebSocket that echoes, `/streams/events` a stream of events without end."""

    def __init__(self):
        self.closed = queue.Queue()  # what ended each WebSocket: the code of a Close frame, or None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.headers.get("upgrade", "").lower() == "websocket":
                    server.echo(self)
                else:
                    server.events(self)
                self.close_connection = True

            def log_message(self, *_):
                pass

        super().__init__(Handler)

    def echo(self, request):
        key = request.headers["sec-websocket-key"] + GUID
        request.send_response(101)
        request.send_header("upgrade", "websocket")
        request.send_header("connection", "upgrade")
        request.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        request.end_headers()
        code = None
        try:
            while received := read_frame(request.rfile):
                opcode, payload = received
                request.wfile.write(frame(opcode, payload, masked=False))
                if opcode == CLOSE:
                    code = close_code(payload)
                    break
        except OSError:
            pass
        self.closed.put(code)

    def events(self, request):
        request.send_response(200)
        request.send_header("content-type", "text/event-stream")
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"9\r\ndata: x\n\n\r\n")
                request.wfile.flush()
                time.sleep(INTERVAL)
        except OSError:
            pass


class Stream:
    """A connection through the gateway that was let in; `stream` is what comes from it."""

    def __init__(self, gateway, path, token, headers=()):
        address = urlsplit(gateway.url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=15)
        lines = [f"GET {path} HTTP/1.1", f"host: {address.netloc}", f"authorization: Bearer {token}", *headers]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self._stream = self._socket.makefile("rb")
        self.status = int(self._stream.readline().split()[1])
        while self._stream.readline().strip():
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()
        self._socket.close()


class WebSocket(Stream):
    def __init__(self, gateway, token):
        key = base64.b64encode(os.urandom(16)).decode()
        super().__init__(gateway, "/streams/echo", token, (
            "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", f"sec-websocket-key: {key}",
        ))
        assert self.status == 101, f"no WebSocket, but {self.status}"
        assert self.is_open(), "the upstream does not echo"

    def is_open(self):
        """Whether the upstream still echoes."""
        try:
            self._socket.sendall(frame(TEXT, b"hello", masked=True))
            return read_frame(self._stream) == (TEXT, b"hello")
        except OSError:
            return False

    def closed(self):
        """Waits for the end, and gives the code of the Close frame (None if there was none) and when it came."""
        try:
            while received := read_frame(self._stream):
                if received[0] == CLOSE:
                    at = time.monotonic()
                    self._socket.sendall(frame(CLOSE, received[1], masked=True))
                    return close_code(received[1]), at
        except OSError:
            pass
        return None, time.monotonic()


class Events(Stream):
    def __init__(self, gateway, token):
        super().__init__(gateway, "/streams/events", token)
        assert self.status == 200, f"no events, but {self.status}"
        self.last()

    def last(self):
        """When an event came; None at the end of the stream."""
        try:
            while line := self._stream.readline():
                if line.startswith(b"data"):
                    return time.monotonic()
                if line == b"0\r\n":  # the last chunk: the end is told, and the connection stays
                    return None
        except TimeoutError:
            raise AssertionError("the stream is open, but nothing comes") from None
        except OSError:
            pass
        return None

    def ended(self, limit=30):
        """Waits for the end, and gives when the last event came."""
        deadline, last = time.monotonic() + limit, time.monotonic()
        while (at := self.last()) is not None:
            last = at
            assert at < deadline, f"events still come after {limit} s"
        return last
