"""A forwarder of connections: what a Service is in a cluster, and a network that can be cut."""

import asyncio
import threading


class Front:
    """Listens on a port of loopback and connects each caller to the first of `targets` (ports) that answers."""

    def __init__(self, *targets):
        self.targets = list(targets)
        self.port = None
        self._cuts = set()  # of open connections
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        self._is_up.wait(10)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        self._loop.run_forever()

    async def _serve(self, reader, writer):
        for target in list(self.targets):
            try:
                there = await asyncio.open_connection("127.0.0.1", target)
                break
            except OSError:
                continue
        else:
            writer.transport.abort()
            return
        pumps = [asyncio.ensure_future(pump) for pump in (copy(reader, there[1]), copy(there[0], writer))]
        self._cuts.update(pumps)
        await asyncio.wait(pumps)
        self._cuts.difference_update(pumps)
        for end in (writer, there[1]):
            end.transport.abort()

    def cut(self):
        """Ends every open connection at once, as a network does that lost them."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self):
        for pump in list(self._cuts):
            pump.cancel()

    def close(self):
        """From now on nobody gets through."""
        self.targets = []
        self.cut()


async def copy(reader, writer):
    """All that comes, until one of the two ends."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, NotImplementedError):
        pass
