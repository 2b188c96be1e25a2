"""WebSockets: an echo server of the library `websockets`, and a client that sends frames as a test writes them."""

import asyncio
import base64
import os
import threading

from websockets.asyncio.server import serve
from wire import PATIENCE, Http2, Tunnel, Wire

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Server:
    """Sends back each message, as text or binary, and closes as it is told: `close 4001 reason`."""

    def __init__(self):
        started = threading.Event()

        async def echo(connection):
            async for message in connection:
                if isinstance(message, str) and message.startswith("close "):
                    _, code, reason = message.split(" ", 2)
                    await connection.close(int(code), reason)
                elif isinstance(message, str) and message == "drop":
                    connection.transport.abort()
                else:
                    await connection.send(message)

        def chosen(_, offered):
            return "other" if "other" in offered else None

        async def run():
            settings = {"max_size": 64 << 20, "ping_interval": None, "select_subprotocol": chosen}
            async with serve(echo, "127.0.0.1", 0, **settings) as server:
                self.port = server.sockets[0].getsockname()[1]
                self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
                started.set()
                await self._ended.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE)

    def stop(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)


def frame(opcode, payload=b"", *, fin=True, reserved=0, masked=True):
    """One frame of a client."""
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    length, mask_bit = len(payload), 0x80 if masked else 0
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 1 << 16:
        head += bytes([mask_bit | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + length.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    whole = int.from_bytes((mask * (length // 4 + 1))[:length], "big") ^ int.from_bytes(payload, "big")
    return head + mask + whole.to_bytes(length, "big")


class Peer:
    """A client's end: after the handshake, frames."""

    def __init__(self, address, port, host, *, context=None, extensions="", protocols="", timeout=PATIENCE):
        target = type("Target", (), {"address": address, "port": port, "tls": context})
        self.wire = Wire.to(target, alpn=["http/1.1"] if context else None, timeout=timeout)
        more = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
        more += f"Sec-WebSocket-Protocol: {protocols}\r\n" if protocols else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self.wire.send(
            f"GET /chat HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n{more}\r\n"
        )
        self.line, self.fields = self.wire.head()
        self.status = int(self.line.split(" ")[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def send(self, *frames):
        self.wire.send(b"".join(frames))

    def frame(self):
        """The next frame: its first byte, and its payload."""
        first, second = self.wire.exactly(2)
        length = second & 0x7F
        assert not second & 0x80, "a server's frame is masked"
        if length >= 126:
            length = int.from_bytes(self.wire.exactly(2 if length == 126 else 8), "big")
        return first, self.wire.exactly(length)

    def all(self):
        """Every frame until the other side closes; a Close is answered in kind, if it comes first."""
        frames = []
        try:
            while True:
                first, payload = self.frame()
                frames.append((first, payload))
                if first & 0xF == CLOSE:
                    try:
                        self.send(frame(CLOSE, payload[:2]))
                    except OSError:
                        pass
                    rest = self.wire.rest()
                    frames += [("after the close", rest)] if rest else []
                    return frames
        except (AssertionError, ConnectionResetError):
            return [*frames, ("cut", b"")]


class PeerOfHttp2(Peer):
    """The same over HTTP/2, asked for by extended CONNECT (RFC 8441)."""

    def __init__(self, gateway, host):
        self.http2 = Http2(gateway)
        scheme = "https" if gateway.tls else "http"
        headers = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
        stream = self.http2.begin("CONNECT", "/chat", host, headers, end=False, scheme=scheme)
        self.wire = Tunnel(self.http2, stream)
        self.fields = self.wire.head()
        self.status = int(self.fields[":status"])
