"""What is compared: one kind of traffic each."""

from dataclasses import dataclass

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    pool: str = "tokens"
    connections: int = 64
    path: str = "/api/hello"
    upload: int = 0  # bytes that each request carries
    closes: bool = False  # each request on a connection of its own
    tls: bool = False
    http2: bool = False
    tls_upstream: bool = False
    is_open: bool = False  # at half of what goes through nginx, in an open loop

    @property
    def is_fresh(self):
        """Whether each request carries a token that was never seen before. Those who do not look at tokens are then left out."""
        return self.pool.startswith("fresh-")

    @property
    def algorithm(self):
        return self.pool.removeprefix("fresh-") if self.is_fresh else "RS256"


MAIN = Scenario("main", "1,000 tokens over and over, 64 connections")
SCENARIOS = [
    MAIN,
    Scenario("one", "1,000 tokens over and over, 1 connection", connections=1),
    Scenario("thousand", "1,000 tokens over and over, 1,000 connections", connections=1000),
    Scenario("half-load", "Half of what goes through nginx, in an open loop", is_open=True),
    Scenario("new-rs256", "Each request a new token, RS256", pool="fresh-RS256"),
    Scenario("new-es256", "Each request a new token, ES256", pool="fresh-ES256"),
    Scenario("connect", "A connection per request", closes=True),
    Scenario("http2", "HTTP/2 in, 8 connections of 8 streams", http2=True),
    Scenario("tls", "TLS in", tls=True),
    Scenario("tls-upstream", "TLS upstream", tls_upstream=True),
    Scenario("down-100k", "Answers of 100 KiB", pool="few", path="/api/100k"),
    Scenario("up-100k", "Requests of 100 KiB", pool="few", path="/api/upload", upload=100 * KIB),
    Scenario("down-10m", "Answers of 10 MiB, 8 connections", pool="few", connections=8, path="/api/10m"),
    Scenario("up-10m", "Requests of 10 MiB, 8 connections", pool="few", connections=8, path="/api/upload", upload=10 * MIB),
]
