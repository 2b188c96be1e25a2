"""A gRPC service on gRPC's own library, of plain bytes, so that no code has to be generated."""

import threading
from concurrent import futures

import grpc
from wire import PATIENCE

SERVICE = "postern.test.Service"


class Server:
    """Unary, and streams in each direction. It notes what calls ended without it."""

    def __init__(self, tls):
        self.begun, self.cancelled = threading.Event(), threading.Event()
        options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Told": grpc.unary_unary_rpc_method_handler(self._told),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            "Join": grpc.stream_unary_rpc_method_handler(self._join),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        credentials = grpc.ssl_server_credentials([(tls.key.read_bytes(), tls.certificate.read_bytes())])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.secure_port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def stop(self):
        self._server.stop(None).wait(PATIENCE)

    def _echo(self, request, context):
        context.send_initial_metadata((("x-first", "head"), ("x-bytes-bin", b"\x00\xff\x01")))
        context.set_trailing_metadata((("x-last", "trailer"), ("x-end-bin", b"\xfe\x00")))
        return request

    def _told(self, request, context):
        """What came with the call, and how long it may take."""
        told = [f"{name}={value!r}" for name, value in context.invocation_metadata()]
        return "\n".join([f"remaining={context.time_remaining()}", *told]).encode()

    def _fail(self, request, context):
        code, _, details = request.decode().partition(" ")
        context.set_trailing_metadata((("x-why", "on purpose"),))
        context.abort({each.value[0]: each for each in grpc.StatusCode}[int(code)], details)

    def _wait(self, request, context):
        """Never answers; notes that the caller is gone."""
        ended = threading.Event()
        if not context.add_callback(lambda: (ended.set(), self.cancelled.set())):
            # It is over already.
            ended.set()
            self.cancelled.set()
        self.begun.set()
        ended.wait(90)
        return b""

    def _join(self, requests, context):
        return b",".join(requests)

    def _count(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def _talk(self, requests, context):
        """Answers each message before it takes the next."""
        for request in requests:
            if request == b"fail":
                context.abort(grpc.StatusCode.DATA_LOSS, "in the middle")
            yield request.upper()


class Client:
    """Calls by the names above, through a gateway."""

    def __init__(self, gateway, authority):
        target = f"{gateway.address}:{gateway.port}"
        options = [
            ("grpc.default_authority", authority),
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
            ("grpc.enable_retries", 0),
        ]
        if gateway.tls:
            credentials = grpc.ssl_channel_credentials(gateway.tls.ca.read_bytes())
            # The certificate is for `localhost`, whatever the host that is asked for.
            options.append(("grpc.ssl_target_name_override", "localhost"))
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._channel.close()

    def unary(self, name):
        return self._channel.unary_unary(f"/{SERVICE}/{name}")

    def joining(self, name="Join"):
        return self._channel.stream_unary(f"/{SERVICE}/{name}")

    def counting(self, name="Count"):
        return self._channel.unary_stream(f"/{SERVICE}/{name}")

    def talking(self, name="Talk"):
        return self._channel.stream_stream(f"/{SERVICE}/{name}")


