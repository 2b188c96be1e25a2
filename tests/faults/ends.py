"""SIGTERM under load."""

import asyncio
import signal
import time
from threading import Thread

from held import Events
from lab import Lab, until


class Balancer(Thread):
    """A load balancer by connection, as a Service of Kubernetes is one: a new connection goes to a gateway that is ready; those that are
    made stay where they are."""

    def __init__(self, gateways):
        super().__init__(daemon=True)
        self.gateways, self.ready, self.port = gateways, list(gateways), None
        self.start()
        until("the balancer listens", lambda: self.port)

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        while True:
            ready = []
            for gateway in self.gateways:
                if await asyncio.to_thread(gateway.is_ready):
                    ready.append(gateway)
            self.ready = ready or self.ready
            await asyncio.sleep(0.25)

    async def take(self, reader, writer):
        self.ready.append(self.ready.pop(0))
        gateway = self.ready[0]
        try:
            there = await asyncio.open_connection("127.0.0.1", gateway.port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))


async def pass_on(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
    finally:
        if writer.transport.is_closing() or not writer.can_write_eof():
            writer.close()


def sigterm(report, full):
    """one of two gateways is ended by SIGTERM, behind a balancer that looks at /readyz; streams are half through"""
    times = 10 if full else 1
    with Lab() as lab:
        gateways = [lab.gateway(), lab.gateway()]
        balancer = Balancer(gateways)
        statuses, wrong, longest = [], [], 0.0
        with lab.load(f"http://127.0.0.1:{balancer.port}") as load:
            for number in range(times):
                load.go_on(1)
                gateway = gateways[number % 2]
                held = [Events(gateway, 6), Events(gateway, 8)]
                load.go_on(0.5)
                began = time.monotonic()
                gateway.child.send_signal(signal.SIGTERM)
                statuses.append(gateway.child.wait(60))
                longest = max(longest, time.monotonic() - began)
                wrong += [one.done() for one in held]
                gateway.start()
                until("the balancer knows of it", lambda: gateway in balancer.ready)  # noqa: B023
        report.row(f"SIGTERM {times} times", load, why="it serves on until the balancer knows, and ends what it is at")
        report.check(set(statuses) == {0}, f"it ended with status {set(statuses)}, after {longest:.1f} s at most")
        report.check(not any(wrong), f"streams that were open then came to their end: {len(wrong)}, {[one for one in wrong if one] or 'all'}")
        report.check(lab.effects_twice() == 0, "no request that is no GET was sent twice")
