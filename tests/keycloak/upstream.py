"""An upstream that answers with what it received, and counts."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener(ThreadingHTTPServer):
    """Many may come at once: where the queue is full, one is sent again after a second."""

    request_queue_size = 128
    daemon_threads = True


class Server:
    """Serves by a handler of `http.server` on a free port of loopback, until it is closed."""

    def __init__(self, handler):
        self._server = Listener(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Upstream(Server):
    """Counts, and remembers what it was given."""

    def __init__(self):
        self.requests = 0
        self.bearers = set()  # every token it was given: none may show up in a log
        self.posted = []  # bodies of form posts, for Keycloak's back-channel logout
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream.record(self.headers, body)
                echo = {"method": self.command, "path": self.path, "headers": self.headers.items()}
                payload = json.dumps(echo).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        super().__init__(Handler)

    def record(self, headers, body):
        self.requests += 1
        if headers.get_content_type() == "application/x-www-form-urlencoded":
            self.posted.append(body.decode())
        for value in headers.get_all("authorization", []):
            self.bearers.add(value.partition(" ")[2])
