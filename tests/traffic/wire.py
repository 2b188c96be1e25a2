"""Bytes on a connection: HTTP/1.1 by hand, and HTTP/2 by the library h2, which checks what comes."""

import socket

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PATIENCE = 60  # seconds; only what hangs takes so long


class Wire:
    """One connection, read piece by piece. Nothing is hidden."""

    def __init__(self, connection, timeout=PATIENCE):
        self.socket = connection
        self.socket.settimeout(timeout)
        self.buffer = b""

    @classmethod
    def to(cls, gateway, alpn=None, version=None, timeout=PATIENCE):
        connection = socket.create_connection((gateway.address, gateway.port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if gateway.tls:
            context = gateway.tls.context()
            if alpn:
                context.set_alpn_protocols(alpn)
            if version:
                context.minimum_version = context.maximum_version = version
            connection = context.wrap_socket(connection, server_hostname="localhost")
        return cls(connection, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode("latin1") if isinstance(data, str) else data)

    def _fill(self):
        piece = self.socket.recv(1 << 16)
        self.buffer += piece
        return bool(piece)

    def until(self, mark):
        while mark not in self.buffer:
            assert self._fill(), f"the connection ended after {self.buffer[:500]!r}"
        taken, self.buffer = self.buffer.split(mark, 1)
        return taken + mark

    def exactly(self, length):
        while len(self.buffer) < length:
            assert self._fill(), f"the connection ended after {len(self.buffer)} of {length} bytes"
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def rest(self):
        """All until the connection ends."""
        while self._fill():
            pass
        taken, self.buffer = self.buffer, b""
        return taken

    def head(self):
        """A first line and the fields, lower case, each with its values joined."""
        lines = self.until(b"\r\n\r\n").decode("latin1").split("\r\n")
        fields = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
        return lines[0], fields

    def chunk(self):
        """One chunk; empty for the last, whose trailers are left."""
        size = int(self.until(b"\r\n").split(b";")[0], 16)
        if size == 0:
            return b""
        data = self.exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    def chunked(self):
        """A chunked body, and its trailers as lines."""
        body = b""
        while piece := self.chunk():
            body += piece
        trailers = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            trailers.append(line.decode("latin1").strip())
        return body, trailers

    def body(self, fields):
        """The body of an answer that is framed."""
        if "content-length" in fields:
            return self.exactly(int(fields["content-length"]))
        return self.chunked()[0]


class Http2:
    """One HTTP/2 connection; requests one after the other."""

    def __init__(self, gateway, timeout=PATIENCE):
        self.wire = Wire.to(gateway, alpn=["h2"], timeout=timeout)
        if gateway.tls:
            assert self.wire.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(header_encoding="latin1", validate_outbound_headers=False)
        self.state = h2.connection.H2Connection(config)
        self.state.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close()

    def flush(self):
        self.wire.send(self.state.data_to_send())

    def events(self):
        """What the next bytes bring; nothing more after the connection ended."""
        data = self.wire.socket.recv(1 << 16)
        events = self.state.receive_data(data) if data else [h2.events.ConnectionTerminated()]
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return events

    def begin(self, method="GET", path="/", host="default.test", headers=(), end=True, scheme="http"):
        stream = self.state.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", scheme), (":authority", host), (":path", path)]
        self.state.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self.flush()
        return stream

    def data(self, stream, data, end=False):
        self.state.send_data(stream, data, end_stream=end)
        self.flush()

    def answer(self, stream):
        """Status, fields, body, trailers of a stream that ends; a reset is an AssertionError."""
        fields, body, trailers = {}, b"", {}
        while True:
            for event in self.events():
                assert not isinstance(event, h2.events.ConnectionTerminated), "the connection ended"
                if getattr(event, "stream_id", None) != stream:
                    continue
                assert not isinstance(event, h2.events.StreamReset), f"reset: {event.error_code}"
                if isinstance(event, h2.events.ResponseReceived):
                    fields = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = dict(event.headers)
                elif isinstance(event, h2.events.StreamEnded):
                    return int(fields[":status"]), fields, body, trailers

    def request(self, **settings):
        return self.answer(self.begin(**settings))


class Tunnel(Wire):
    """A stream of HTTP/2 whose request and answer go on and on, read and written like a connection."""

    def __init__(self, http2, stream):
        self.http2, self.stream, self.fields, self.buffer, self.is_over = http2, stream, None, b"", False

    def close(self):
        self.http2.wire.close()

    def head(self):
        """The fields of the answer."""
        while self.fields is None:
            self._take()
        return self.fields

    def send(self, data):
        state = self.http2.state
        try:
            while data:
                size = min(state.local_flow_control_window(self.stream), state.max_outbound_frame_size)
                if size:
                    self.http2.data(self.stream, data[:size])
                    data = data[size:]
                else:
                    self._take()
        except h2.exceptions.StreamClosedError:
            raise ConnectionResetError("the stream ended") from None

    def _take(self):
        for event in self.http2.events():
            if isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionResetError("the connection ended")
            if getattr(event, "stream_id", None) != self.stream:
                continue
            if isinstance(event, h2.events.StreamReset):
                raise ConnectionResetError(f"reset: {event.error_code}")
            if isinstance(event, h2.events.ResponseReceived):
                self.fields = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.buffer += event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.is_over = True

    def _fill(self):
        length = len(self.buffer)
        while len(self.buffer) == length and not self.is_over:
            self._take()
        return len(self.buffer) > length
