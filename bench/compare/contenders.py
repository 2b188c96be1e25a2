"""The proxies, each on one core, with its access log in a file, connections to the upstream kept, bodies passed on as they come."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from harness import POSTERN

# In the folder of the bench; emptied after each run.
ACCESS_LOG = "access.log"


@dataclass(frozen=True)
class Contender:
    name: str
    program: str
    version: tuple
    command: Callable  # (stage, scenario, port): what is started
    checks: bool  # whether it looks at tokens

    def version_line(self):
        """What it says of its own version; None where it is not installed."""
        if not self.program:
            return None
        said = subprocess.run([self.program, *self.version], capture_output=True, text=True, check=True)
        return re.search(r"v?(\d+\.\d+\.\d+)", said.stdout + said.stderr)[1]


def nginx(stage, scenario, port):
    """Never checks anything: what it costs just to pass a request on."""
    tls = f"ssl_certificate {stage.certificate}; ssl_certificate_key {stage.key};" if scenario.tls else ""
    listen = f"{port}{' ssl' if scenario.tls else ''}{' http2' if scenario.http2 else ''}"
    upstream = stage.upstream_tls if scenario.tls_upstream else stage.upstream
    to = "https" if scenario.tls_upstream else "http"
    verified = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {stage.ca}; proxy_ssl_name localhost;" if scenario.tls_upstream else ""
    server = (
        f"{tls} client_max_body_size 0; location / {{ proxy_pass {to}://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; "
        f"proxy_request_buffering off; proxy_buffers 16 32k; proxy_max_temp_file_size 0; {verified} }}"
    )
    kept = f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}"
    log = f"{stage.bench.work / ACCESS_LOG} combined buffer=32k flush=1s"
    return stage.bench.nginx_command("nginx", listen, server, kept, access_log=log)


def haproxy(stage, scenario, port, rules=""):
    listen = f"127.0.0.1:{port}{f' ssl crt {both(stage)}' if scenario.tls else ''}{' proto h2' if scenario.http2 else ''}"
    upstream = stage.upstream_tls if scenario.tls_upstream else stage.upstream
    verified = f" ssl verify required verifyhost localhost ca-file {stage.ca}" if scenario.tls_upstream else ""
    config = stage.bench.work / "haproxy.cfg"
    config.write_text(f"""\
global
    nbthread 1
    maxconn 4096
    tune.bufsize 32768
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    http-reuse always
frontend in
    bind {listen}
{rules}
    default_backend out
backend out
    server upstream 127.0.0.1:{upstream}{verified}
""")
    # It has no file to log to, but its standard output may be one.
    return ["sh", "-c", 'exec "$@" >>access.log', "sh", "haproxy", "-db", "-f", str(config)]


def both(stage):
    """Certificate and key in one file, as HAProxy wants them."""
    file = stage.bench.work / "both.pem"
    file.write_bytes(stage.certificate.read_bytes() + stage.key.read_bytes())
    return file


def haproxy_jwt(stage, scenario, port):
    """Signature, algorithm, issuer, audience and expiry."""
    algorithm = scenario.algorithm
    token = "http_auth_bearer"
    demands = [
        f"{{ {token},jwt_header_query('$.alg') -m str {algorithm} }}",
        f'{{ {token},jwt_verify("{algorithm}","{stage.bench.work}/{algorithm}.pem") -m int 1 }}',
        f"{{ {token},jwt_payload_query('$.iss') -m str {stage.issuer.url} }}",
        f"{{ {token},jwt_payload_query('$.aud[0]') -m str api }}",
        "{ var(txn.exp),sub(txn.now) -m int gt 0 }",
    ]
    rules = [f"set-var(txn.exp) {token},jwt_payload_query('$.exp','int')", "set-var(txn.now) date()"]
    rules += [f"deny deny_status 401 unless {demand}" for demand in demands]
    return haproxy(stage, scenario, port, "\n".join(f"    http-request {rule}" for rule in rules))


def envoy(stage, scenario, port, filters=()):
    extension = "type.googleapis.com/envoy.extensions."
    secret = {"certificate_chain": {"filename": str(stage.certificate)}, "private_key": {"filename": str(stage.key)}}
    shown, trusted = {"tls_certificates": [secret]}, {"validation_context": {"trusted_ca": {"filename": str(stage.ca)}}}
    downstream = {"@type": extension + "transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": shown}
    upstream = {"@type": extension + "transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": trusted}
    socket = lambda context: {"transport_socket": {"name": "tls", "typed_config": context}}  # noqa: E731
    address = lambda number: {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}  # noqa: E731
    log = {"@type": extension + "access_loggers.file.v3.FileAccessLog", "path": str(stage.bench.work / ACCESS_LOG)}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    manager = {
        "@type": extension + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [{"name": "file", "typed_config": log}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, {"name": "router", "typed_config": {"@type": extension + "filters.http.router.v3.Router"}}],
    }
    endpoint = {"endpoint": address(stage.upstream_tls if scenario.tls_upstream else stage.upstream)}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
    } | (socket(upstream) if scenario.tls_upstream else {})
    chain = {"filters": [{"name": "http", "typed_config": manager}]} | (socket(downstream) if scenario.tls else {})
    listener = address(port) | {"filter_chains": [chain]}
    config = stage.bench.work / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return [ENVOY, "-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def envoy_jwt(stage, scenario, port, cached=True):
    """Signature, issuer, audience and expiry; cached, a token's signature is checked when it is first seen."""
    provider = {"issuer": stage.issuer.url, "audiences": ["api"], "local_jwks": {"inline_string": stage.jwks}, "forward": True}
    if cached:
        provider["jwt_cache_config"] = {"jwt_cache_size": 2000}
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"issuer": provider},
        "rules": [rule],
    }
    return envoy(stage, scenario, port, [{"name": "jwt", "typed_config": config}])


def caddy(stage, scenario, port):
    certificate = f"tls {stage.certificate} {stage.key}" if scenario.tls else ""
    to = f"https://127.0.0.1:{stage.upstream_tls}" if scenario.tls_upstream else f"127.0.0.1:{stage.upstream}"
    trust = f"tls_trusted_ca_certs {stage.ca}" if scenario.tls_upstream else ""
    config = stage.bench.work / "Caddyfile"
    config.write_text(f"""\
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
    servers {{
        protocols h1 h2 h2c
    }}
}}
{"https" if scenario.tls else "http"}://127.0.0.1:{port} {{
    {certificate}
    log {{
        output file {stage.bench.work / ACCESS_LOG} {{
            roll_disabled
        }}
        level INFO
    }}
    reverse_proxy {to} {{
        transport http {{
            keepalive_idle_conns_per_host 128
            {trust}
        }}
    }}
}}
""")
    return ["env", f"HOME={stage.bench.work}", "caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def postern(stage, scenario, port, bound="30s", workers=1):
    """The token verified, its user's status from introspection, a namespace token injected."""
    command = stage.bench.postern_command(port, stage.upstream, stage.issuer.url, bound)
    config = Path(command[-1])
    server = f"workers = {workers}\n"
    if scenario.tls:
        server += f'tls = {{ certificate = "{stage.certificate}", key = "{stage.key}" }}\n'
    text = config.read_text().replace("workers = 1\n", server)
    if scenario.tls_upstream:
        text = text.replace(f"http://127.0.0.1:{stage.upstream}", f"https://127.0.0.1:{stage.upstream_tls}")
        text += f'\n[upstream.api.tls]\nca = "{stage.ca}"\n'
    config.write_text(text)
    return command


def postern_without_status(stage, scenario, port):
    """For where each token is new: no other contender asks anybody, and Postern asks no oftener than 500 times a second."""
    return postern(stage, scenario, port, bound=None)


ENVOY = shutil.which("envoy", path=os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)]))
NGINX, HAPROXY, CADDY = (shutil.which(name) for name in ("nginx", "haproxy", "caddy"))
WITH_STATUS, WITHOUT_STATUS, ENVOY_CACHED = "Postern", "Postern, no user status", "Envoy jwt_authn, cached"
CONTENDERS = [
    Contender("nginx", NGINX, ("-v",), nginx, False),
    Contender("HAProxy", HAPROXY, ("-v",), haproxy, False),
    Contender("HAProxy jwt_verify", HAPROXY, ("-v",), haproxy_jwt, True),
    Contender("Envoy", ENVOY, ("--version",), envoy, False),
    Contender(ENVOY_CACHED, ENVOY, ("--version",), envoy_jwt, True),
    Contender("Envoy jwt_authn", ENVOY, ("--version",), lambda *given: envoy_jwt(*given, cached=False), True),
    Contender("Caddy", CADDY, ("version",), caddy, False),
    Contender(WITH_STATUS, POSTERN, ("--version",), postern, True),
    Contender(WITHOUT_STATUS, POSTERN, ("--version",), postern_without_status, True),
]


def of(scenario):
    """Who takes part in a scenario, nginx first."""
    asking = WITHOUT_STATUS if scenario.is_fresh else WITH_STATUS
    return [
        one
        for one in CONTENDERS
        if one.program and (one.program != POSTERN or one.name == asking) and (one.checks or one.name == "nginx" or not scenario.is_fresh)
    ]
