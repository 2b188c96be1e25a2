"""An upstream that can be told to fail in many ways.

    backend.py PORT JOURNAL

It reads commands from standard input, a JSON object each line, and answers each by a line. `{"mode": …}` says how it is from
now on, `{}` asks for its counts. What it took that is no GET stands in the file JOURNAL, an id a line, written before it
is answered: so it is known even of one that was killed.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from collections import Counter
from hashlib import sha1
from base64 import b64encode

BIG = 200 * 1024
GARBAGE = bytes(range(256)) * 4
ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Backend:
    def __init__(self, port, journal):
        self.port, self.mode, self.seconds = port, "good", 0.0
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.counts, self.peers, self.server, self.hole = Counter(), set(), None, []

    async def listen(self):
        if self.server is None:
            loop = asyncio.get_running_loop()
            self.server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port, backlog=1024)

    def shut(self):
        """Takes no more connections; those there are end after the next answer."""
        if self.server is not None:
            self.server.close()
            self.server = None

    async def become(self, mode, seconds=0.0):
        for held in self.hole:
            held.close()
        self.hole = []
        self.mode, self.seconds = mode, seconds
        if mode == "refuse":
            self.shut()
        elif mode == "hole":
            # A listener whose queue is full: further connections are neither taken nor refused.
            self.shut()
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(0)
            self.hole = [listener]
            for _ in range(4):
                held = socket.socket()
                held.setblocking(False)
                held.connect_ex(("127.0.0.1", self.port))
                self.hole.append(held)
            for peer in list(self.peers):
                peer.transport.abort()
        else:
            await self.listen()


class Peer(asyncio.Protocol):
    """One connection: requests one after another."""

    def __init__(self, backend):
        self.backend, self.buffer, self.is_busy, self.is_socket = backend, b"", False, False

    def connection_made(self, transport):
        self.transport = transport
        self.backend.peers.add(self)
        self.backend.counts["connections"] += 1
        self.has_ended = self.backend.mode == "half-closed-at-once"
        if self.has_ended:
            transport.write_eof()

    def connection_lost(self, _):
        self.backend.peers.discard(self)
        if self.buffer.startswith(b"POST ") and not self.is_busy:
            # Its body was on its way, so it cannot be sent again.
            self.spoil("POST")

    def eof_received(self):
        return False

    def data_received(self, data):
        self.buffer += data
        while not self.is_busy and not self.transport.is_closing():
            if self.is_socket:
                if not self.frame():
                    return
            else:
                request = self.request()
                if request is None:
                    return
                self.take(*request)

    def request(self):
        """Method, path, fields and the body's length of the first request, once all of it is here."""
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.split(b"\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"transfer-encoding" in fields:
            found = chunks(rest)
            if found is None:
                return None
            length, used = found
        else:
            length = used = int(fields.get(b"content-length", 0))
            if len(rest) < used:
                return None
        self.buffer = rest[used:]
        method, path, _ = first.decode().split(" ")
        return method, path, fields, length

    def take(self, method, path, fields, length):
        backend = self.backend
        name = path.rpartition("/")[2]
        is_check = path == "/healthz"
        if not is_check:
            backend.counts["requests"] += 1
            if method != "GET":
                os.write(backend.journal, name.encode() + b"\n")
        if path.startswith("/api/events/"):
            self.events(int(name))
            return
        if path == "/api/ws":
            digest = b64encode(sha1(fields[b"sec-websocket-key"] + ACCEPT).digest())
            self.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + digest + b"\r\n\r\n")
            self.is_socket = True
            return
        if path.startswith("/api/big/"):
            body = (name + "\n").encode().ljust(BIG, b"x")
        else:
            body = f"{name} {length}\n".encode()
        # What was ended stays so in the next mode.
        mode = "half-closed-at-once" if self.has_ended else backend.mode
        getattr(self, mode.replace("-", "_"))(method, body, is_check)

    # What a request meets, by mode.

    def good(self, method, body, is_check):
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def refuse(self, method, body, is_check):
        self.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def slow(self, method, body, is_check):
        if is_check:
            return self.good(method, body, is_check)
        self.is_busy = True

        def late():
            self.is_busy = False
            if not self.transport.is_closing():
                self.good(method, body, is_check)
                self.data_received(b"")

        self.spoil(method)
        asyncio.get_running_loop().call_later(self.backend.seconds, late)

    def mute(self, method, body, is_check):
        self.is_busy = True
        self.spoil(method)

    def garbage(self, method, body, is_check):
        self.spoil(method)
        self.write(GARBAGE)
        self.transport.close()

    def two_lengths(self, method, body, is_check):
        self.spoil(method)
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello, you")

    def half_head(self, method, body, is_check):
        self.spoil(method)
        self.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        self.half_close()

    def half_closed(self, method, body, is_check):
        """The end of the connection in place of an answer; the other direction stays open."""
        self.spoil(method)
        self.half_close()

    def half_closed_at_once(self, method, body, is_check):
        self.spoil(method)
        self.is_busy = True

    def reset(self, method, body, is_check):
        self.spoil(method)
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.close()

    def cut(self, method, body, is_check):
        """Half of the body, then the end."""
        self.spoil(method)
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
        self.half_close()

    def cut_chunked(self, method, body, is_check):
        self.spoil(method)
        half = body[: len(body) // 2]
        self.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(half) + half + b"\r\n")
        self.half_close()

    def hole(self, method, body, is_check):
        pass

    def half_close(self):
        self.is_busy = True
        self.transport.write_eof()

    def spoil(self, method):
        self.backend.counts[f"spoiled_{method}"] += 1

    def write(self, data):
        self.transport.write(data)

    # What stays open.

    def events(self, seconds):
        """Ten numbered events a second, and a last one."""
        self.is_busy = True
        self.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def tell():
            for number in range(seconds * 10):
                self.write(chunk(b"data: %d\n\n" % number))
                await asyncio.sleep(0.1)
            self.write(chunk(b"data: end\n\n") + b"0\r\n\r\n")
            self.is_busy = False

        self.teller = asyncio.get_running_loop().create_task(tell())

    def frame(self):
        """Answers a masked text frame of a WebSocket by its like."""
        if len(self.buffer) < 6 or len(self.buffer) < 6 + (self.buffer[1] & 0x7F):
            return False
        length, mask = self.buffer[1] & 0x7F, self.buffer[2:6]
        text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.buffer[6 : 6 + length]))
        opcode, self.buffer = self.buffer[0], self.buffer[6 + length :]
        self.write(bytes([opcode, length]) + text)
        if opcode & 0x0F == 8:
            self.transport.close()
        return True


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunks(data):
    """Length of a chunked body and of its coding, once it is whole."""
    length, at = 0, 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        if len(data) < at:
            return None
        length += size
        if size == 0:
            return length, at


async def main(port, journal):
    backend = Backend(port, journal)
    await backend.listen()
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if command:
            await backend.become(**command)
        print(json.dumps(dict(backend.counts, peers=len(backend.peers))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
