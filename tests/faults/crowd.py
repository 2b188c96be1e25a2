"""Many clients in one process.

    crowd.py KIND COUNT PORT SECONDS    the token is the first line of standard input; each further line asks for the counts

`slow`: a third sends its request's head a few bytes a second, a third its body, a third reads its answer so.
`idle`: each sends a request, reads the answer, and then does nothing. They come one after another, in so many seconds.
"""

import asyncio
import json
import resource
import socket
import sys
from collections import Counter

CHUNK = 3  # bytes a second
AT_ONCE = 100  # connections in the making


class Crowd:
    def __init__(self, port, token):
        self.port, self.token, self.counts, self.kept = port, token, Counter(), []
        self.gate = asyncio.Semaphore(AT_ONCE)

    async def connect(self, number, buffer=None):
        plain = socket.socket()
        plain.setblocking(False)
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        # Several addresses, lest ports run out.
        plain.bind((f"127.0.1.{1 + number % 8}", 0))
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        self.kept.append(plain)
        return plain

    def head(self, method, path, *fields):
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {self.token}", *fields]
        return "\r\n".join([*lines, "", ""]).encode()

    async def idle(self, number, every):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(number * every)
        async with self.gate:
            connection = await self.connect(number)
            await loop.sock_sendall(connection, self.head("GET", f"/api/echo/{number}"))
            data = b""
            while not data.endswith(f"{number} 0\n".encode()):
                more = await loop.sock_recv(connection, 4096)
                if not more:
                    raise OSError("the connection ended")
                data += more
        self.counts["open"] += 1
        await self.watch(connection, is_waiting=True)

    async def slow(self, number):
        loop = asyncio.get_running_loop()
        kind = ("head", "body", "reader")[number % 3]
        async with self.gate:
            connection = await self.connect(number, 4096 if kind == "reader" else None)
            if kind == "reader":
                await loop.sock_sendall(connection, self.head("GET", f"/api/big/{number}"))
            elif kind == "body":
                await loop.sock_sendall(connection, self.head("POST", f"/api/echo/slow{number}", "Content-Length: 100000"))
            else:
                await loop.sock_sendall(connection, b"GET /api/echo/slow HTTP/1.1\r\nX-Slow: ")
        self.counts["open"] += 1
        while True:
            await asyncio.sleep(1)
            if kind == "reader":
                if not await loop.sock_recv(connection, CHUNK):
                    raise OSError("the answer ended")
            else:
                await loop.sock_sendall(connection, b"x" * CHUNK)
                await self.watch(connection, is_waiting=False)

    async def watch(self, connection, is_waiting):
        """Nothing is to come: that is waited for, or only looked at."""
        try:
            data = await asyncio.get_running_loop().sock_recv(connection, 100) if is_waiting else connection.recv(100)
        except BlockingIOError:
            return
        raise OSError(f"it got {data!r}")

    async def one(self, kind, number, every):
        try:
            await (self.idle(number, every) if kind == "idle" else self.slow(number))
        except OSError as error:
            self.counts["broken"] += 1
            if self.counts["broken"] <= 3:
                print(f"client {number}: {error}", file=sys.stderr, flush=True)


async def main(kind, count, port, seconds):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    crowd = Crowd(port, (await reader.readline()).decode().strip())
    tasks = [asyncio.create_task(crowd.one(kind, number, seconds / count)) for number in range(count)]
    while crowd.counts["open"] + crowd.counts["broken"] < count:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    while await reader.readline():
        print(json.dumps({"open": crowd.counts["open"], "broken": crowd.counts["broken"]}), flush=True)
    del tasks


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
