"""The real Keycloak: started, asked for tokens, and administered."""

import base64
import subprocess
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import web

START = Path(__file__).with_name("start.sh")


@dataclass
class Tokens:
    """What the token endpoint handed out."""

    access_token: str
    refresh_token: str | None = None
    id_token: str | None = None
    session: str | None = None

    def __str__(self):
        return self.access_token


@dataclass
class User:
    """A user that a test made for itself."""

    id: str
    name: str
    password: str
    namespace: str


class Keycloak:
    """One server on a port of its own, with the realm of `realm-demo.json` or of another file."""

    def __init__(self, realm_file=None):
        self.port = web.free_port()
        self._start = [START, str(self.port), *(["--realm", str(realm_file)] if realm_file else [])]
        self.url = f"http://127.0.0.1:{self.port}/realms/demo"
        self.issued = set()  # every token that was ever handed out: none may show up in a log
        self.admin_api = f"http://127.0.0.1:{self.port}/admin/realms/demo"
        self._admin_token = None

    def start(self):
        subprocess.run(self._start, check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        subprocess.run([START, "stop", str(self.port)], check=True)

    def remove(self):
        subprocess.run([START, "stop", str(self.port), "--remove"], check=True)

    # Tokens

    def login(self, user, client="cli", secret=None, scope="openid"):
        """Password grant of a user of the realm file (by name) or of a [`User`]."""
        name, password = (user, f"{user}-pw") if isinstance(user, str) else (user.name, user.password)
        return self._grant(
            client, secret, {"grant_type": "password", "username": name, "password": password, "scope": scope}
        )

    def client_credentials(self, client, secret):
        return self._grant(client, secret, {"grant_type": "client_credentials"})

    def refresh(self, tokens, client="cli", secret=None):
        return self._grant(client, secret, {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token})

    def _grant(self, client, secret, form):
        form = {"client_id": client, **({"client_secret": secret} if secret else {}), **form}
        answer = web.send("POST", f"{self.url}/protocol/openid-connect/token", form=form, timeout=60)
        assert answer.status == 200, f"{client}: {answer}"
        fields = answer.json
        tokens = Tokens(
            fields["access_token"], fields.get("refresh_token"), fields.get("id_token"), fields.get("session_state")
        )
        self.issued.update(filter(None, (tokens.access_token, tokens.refresh_token, tokens.id_token)))
        return tokens

    def introspect(self, token):
        """Keycloak's own opinion of a token, as the gateway's client gets it."""
        basic = base64.b64encode(b"gateway:gateway-secret").decode()
        return web.send(
            "POST",
            f"{self.url}/protocol/openid-connect/token/introspect",
            headers={"authorization": f"Basic {basic}"},
            form={"token": token},
        ).json

    def revoke(self, token, client="cli"):
        """RFC 7009, as the login client does it."""
        form = {"client_id": client, "token": token}
        answer = web.send("POST", f"{self.url}/protocol/openid-connect/revoke", form=form)
        assert answer.status == 200, answer
        return time.monotonic()

    # Administration

    def admin(self, method, path, body=None, expect=(200, 201, 204)):
        """One call of the Admin API. A key that was disabled may have signed our own token: hence the second try."""
        for last in (False, True):
            if self._admin_token is None:
                self._admin_token = self.client_credentials("test-driver", "test-driver-secret").access_token
            headers = {"authorization": f"Bearer {self._admin_token}"}
            answer = web.send(method, self.admin_api + path, headers=headers, body=body, timeout=60)
            if answer.status != 401 or last:
                break
            self._admin_token = None
        assert answer.status in expect, f"{method} {path}: {answer}"
        return answer

    def new_user(self, roles=(), namespace=None):
        name = f"user-{uuid.uuid4().hex[:10]}"
        user = User("", name, f"{name}-pw", namespace or f"ns-{name}")
        answer = self.admin("POST", "/users", {
            "username": name, "enabled": True, "firstName": "New", "lastName": "User",
            "email": f"{name}@example.test", "emailVerified": True,
            "attributes": {"namespace": [user.namespace]},
            "credentials": [{"type": "password", "value": user.password, "temporary": False}],
        })
        user.id = answer.headers["location"].rsplit("/", 1)[1]
        for role in roles:
            self.add_role(user, role)
        return user

    def set_enabled(self, user, enabled):
        self.admin("PUT", f"/users/{user.id}", {"enabled": enabled})
        return time.monotonic()

    def delete_user(self, user):
        self.admin("DELETE", f"/users/{user.id}")
        return time.monotonic()

    def end_session(self, session):
        self.admin("DELETE", f"/sessions/{session}")
        return time.monotonic()

    def add_role(self, user, role):
        self.admin("POST", f"/users/{user.id}/role-mappings/realm", [self._role(role)])
        return time.monotonic()

    def remove_role(self, user, role):
        self.admin("DELETE", f"/users/{user.id}/role-mappings/realm", [self._role(role)])
        return time.monotonic()

    def _role(self, name):
        return self.admin("GET", f"/roles/{name}").json

    def set_namespace(self, user, namespace):
        fields = self.admin("GET", f"/users/{user.id}").json
        fields["attributes"]["namespace"] = [namespace]
        self.admin("PUT", f"/users/{user.id}", fields)
        return time.monotonic()

    def set_client_attribute(self, client, name, value):
        fields = self.admin("GET", f"/clients?clientId={client}").json[0]
        fields["attributes"][name] = value
        self.admin("PUT", f"/clients/{fields['id']}", fields)

    @contextmanager
    def without_audience_mapper(self, client):
        """A client whose own audience mapper is gone for a while."""
        fields = self.admin("GET", f"/clients?clientId={client}").json[0]
        path, mapper = f"/clients/{fields['id']}/protocol-mappers/models", fields["protocolMappers"][0]
        self.admin("DELETE", f"{path}/{mapper['id']}")
        try:
            yield
        finally:
            self.admin("POST", path, mapper)

    # Signing keys

    def add_key(self, private_key_pem, priority):
        """A further RS256 key; with the highest priority it signs the very next token."""
        answer = self.admin("POST", "/components", {
            "name": f"rotated-{priority}", "providerId": "rsa", "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": self.admin("GET", "").json["id"],
            "config": {
                "priority": [str(priority)], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"],
                "privateKey": [private_key_pem],
            },
        })
        return answer.headers["location"].rsplit("/", 1)[1]

    def disable_key(self, key):
        fields = self.admin("GET", f"/components/{key}").json
        fields["config"]["enabled"] = ["false"]
        # Keycloak masks the private key when it is read; sent back masked, the stored one stays.
        self.admin("PUT", f"/components/{key}", fields)
        return time.monotonic()

    def delete_key(self, key):
        self.admin("DELETE", f"/components/{key}", expect=(204, 404))
