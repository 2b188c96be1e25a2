"""What stands behind Postern: Go's net/http, Node, nginx, and a server that does what a test tells it, byte for byte."""

import json
import os
import queue
import socket
import subprocess
import threading
from collections import defaultdict
from pathlib import Path

import web
from wire import PATIENCE, Wire

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(os.environ["TRAFFIC_PROGRAMS"])  # run.sh builds them

NGINX_HEAD = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log {level};
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
"""

NGINX = NGINX_HEAD + """
    # What it would drop in silence it is to show.
    underscores_in_headers on;
    ignore_invalid_headers off;
    client_header_buffer_size 64k;
    large_client_header_buffers 8 128k;
    client_max_body_size 0;
    upstream behind {{ server 127.0.0.1:{behind}; keepalive 8; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{secure_port} ssl http2;
        listen unix:{folder}/nginx.sock;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Read-Path $uri;
        }}
    }}
    server {{
        listen 127.0.0.1:{mutual_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_client_certificate {ca};
        ssl_verify_client on;
        location / {{ proxy_pass http://behind; proxy_set_header X-Shown $ssl_client_s_dn; }}
    }}
}}
"""

# Before an upstream and nothing else, with room for the heads that Postern takes.
PLAIN_NGINX = NGINX_HEAD + """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{behind};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_redirect off;
            proxy_next_upstream off;
        }}
    }}
}}
"""


class Program:
    """A server that prints its ports as a line of JSON and ends with its standard input."""

    def __init__(self, *command):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ports = json.loads(self._process.stdout.readline())

    def stop(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def go(tls, address="127.0.0.1", at=()):
    """At another host with another address, if `at` stands before the command."""
    return Program(*at, PROGRAMS / "upstream", tls.certificate, tls.key, address)


def node():
    return Program("node", HERE / "upstream.mjs")


class Nginx:
    """It forwards what it read to `behind`, which says what that was."""

    def __init__(self, folder, behind, tls):
        self.secure_port, self.mutual_port = web.free_port(), web.free_port()
        self.socket = folder / "nginx.sock"
        ports = {"secure_port": self.secure_port, "mutual_port": self.mutual_port, "behind": behind}
        self._start(folder, NGINX, level="error", ca=tls.ca, certificate=tls.certificate, key=tls.key, **ports)

    def _start(self, folder, text, **settings):
        self.port = web.free_port()
        (folder / "nginx.conf").write_text(text.format(folder=folder, port=self.port, **settings))
        with open(folder / "nginx.log", "ab") as log:
            self._process = subprocess.Popen(
                ["nginx", "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"], stdout=log, stderr=log
            )
        web.eventually("nginx listens", lambda: self._listens(folder))

    def _listens(self, folder):
        assert self._process.poll() is None, (folder / "nginx.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self._process.terminate()
        self._process.wait(30)


class PlainNginx(Nginx):
    """A proxy before `behind`."""

    def __init__(self, folder, behind):
        self._start(folder, PLAIN_NGINX, level="crit", behind=behind)


class Scripted:
    """Takes connections and hands them to the test, which reads and answers."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepted = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                self._accepted.put(Wire(self._listener.accept()[0]))
            except OSError:
                return

    def accept(self):
        """The next connection. A test closes what it took, so that none is used again."""
        return self._accepted.get(timeout=PATIENCE)

    def nobody_came(self):
        return self._accepted.empty()

    def stop(self):
        self._listener.close()


class Answering:
    """Gives each request the answer whose number its path names, byte for byte, and remembers on which connections. With `ends` each
    connection ends after one answer."""

    def __init__(self, answer, ends=False):
        self._answer, self._ends = answer, ends
        self._lock = threading.Lock()
        self._hung_up = set()
        # By number: the connections on which it was given.
        self.given = defaultdict(list)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection = Given(self._listener.accept()[0])
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        with connection.wire as wire:
            try:
                while True:
                    number = int(wire.head()[0].split(" ")[1].strip("/"))
                    connection.numbers.append(number)
                    if connection.has_ended:
                        continue
                    answer = self._answer(number)
                    wire.send(answer.sent)
                    with self._lock:
                        self.given[number].append(connection)
                        ends = self._ends or not answer.stays or number in self._hung_up
                    if ends:
                        connection.end()
            except (AssertionError, OSError):
                pass
        connection.is_over.set()

    def hang_up(self, number):
        """Ends the connection after this answer, if it has not ended yet."""
        with self._lock:
            self._hung_up.add(number)
            given = self.given[number][-1:]
        for connection in given:
            connection.end()

    def stop(self):
        self._listener.close()


class Given:
    """A connection on which answers are given: the numbers that were asked for, in their order."""

    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire = Wire(connection, None)
        self.numbers = []
        self.has_ended = False
        # Set when the other side has closed it.
        self.is_over = threading.Event()

    def end(self):
        """No more is sent; what is asked is still heard."""
        self.has_ended = True
        try:
            self.wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
