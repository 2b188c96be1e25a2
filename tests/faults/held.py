"""What clients keep open across a fault: a stream of events, an upload that takes its time, a WebSocket, a connection that is used on and on."""

import os
import socket
import time
from threading import Thread


class Held(Thread):
    """A client of its own. `done()` waits for its end and says what went wrong, or nothing."""

    def __init__(self, gateway, wrap=None):
        super().__init__(daemon=True)
        self.gateway, self.token, self.wrong, self.is_ending = gateway, gateway.lab.token(), "it never ended", False
        self.count = 0
        plain = socket.create_connection(("127.0.0.1", gateway.port), 30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = wrap(plain) if wrap else plain
        self.start()

    def run(self):
        try:
            self.wrong = self.work()
        except (OSError, ValueError, IndexError) as error:
            self.wrong = f"after {self.count}: {error!r}"

    def done(self):
        self.is_ending = True
        self.join(60)
        self.socket.close()
        return self.wrong

    def head(self, method, path, *fields):
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.gateway.port}", f"Authorization: Bearer {self.token}", *fields]
        return "\r\n".join([*lines, "", ""]).encode()

    def read_until(self, mark):
        data = b""
        while mark not in data:
            more = self.socket.recv(65536)
            if not more:
                raise ValueError(f"the connection ended behind {data[-80:]!r}")
            data += more
        return data


class Events(Held):
    """A stream of events of so many seconds: each number must come, in order, and then the end."""

    def __init__(self, gateway, seconds):
        self.seconds = seconds
        super().__init__(gateway)

    def work(self):
        self.socket.sendall(self.head("GET", f"/api/events/{self.seconds}"))
        data = self.read_until(b"data: end")
        told = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: ")]
        self.count = len(told)
        expected = [b"%d" % number for number in range(self.seconds * 10)] + [b"end"]
        return None if data.startswith(b"HTTP/1.1 200 ") and told == expected else f"{self.count} events came"


class Upload(Held):
    """A request whose body comes piece by piece for as long as the fault lasts."""

    def work(self):
        self.socket.sendall(self.head("POST", "/api/echo/held", "Transfer-Encoding: chunked"))
        while not self.is_ending:
            self.socket.sendall(b"3\r\nabc\r\n")
            self.count += 1
            time.sleep(0.1)
        self.socket.sendall(b"0\r\n\r\n")
        expected = b"held %d\n" % (3 * self.count)
        self.read_until(expected)
        return None


class WebSocket(Held):
    """A WebSocket over which frames go back and forth."""

    def work(self):
        fields = ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
        self.socket.sendall(self.head("GET", "/api/ws", *fields))
        if not self.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 "):
            return "it was refused"
        while not self.is_ending:
            text = b"frame %d." % self.count
            mask = os.urandom(4)
            masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
            self.socket.sendall(bytes([0x81, 0x80 | len(text)]) + mask + masked)
            if self.read_until(b".")[2:] != text:
                return f"another frame came than {text!r}"
            self.count += 1
            time.sleep(0.05)
        return None


class KeptConnection(Held):
    """One connection that carries one request after the other, and must never be closed."""

    def work(self):
        while not self.is_ending:
            self.socket.sendall(self.head("GET", f"/api/echo/kept-{self.count}"))
            if not self.read_until(b" 0\n").endswith(b"kept-%d 0\n" % self.count):
                return f"request {self.count} had another answer"
            self.count += 1
            time.sleep(0.02)
        return None
