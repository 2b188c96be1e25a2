"""An issuer that answers like Keycloak as far as Postern asks it, and that can be told to answer wrongly."""

import secrets
import time
import urllib.parse
import uuid

import gateway
import jwt
from issuer import Issuer

BACKCHANNEL_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
TOKENS = "/protocol/openid-connect/token"  # below the realm, which here is all of the server
EVENTS = ["LOGIN", "LOGOUT", "USER_DISABLED_BY_PERMANENT_LOCKOUT"]  # of users, which it keeps
HTML = b"<html><body>Welcome to the login page of some proxy</body></html>"


class Lab(Issuer):
    """Users are who they are said to be in `users`; everybody else is unknown to the administration."""

    SUBJECT = "11111111-2222-4333-8444-555555555555"

    def __init__(self):
        super().__init__()
        self.users = {self.SUBJECT: {}}
        self.admin_events, self.user_events = [], []
        self.opaque_tokens = {}
        self.asked = []  # paths of the administration that were asked for
        self.faults = {}  # beginning of a path: what is done instead of answering
        self.introspected_as = {}  # what every positive introspection says differently

    def issuer(self, name="lab", **settings):
        """The gateway's lines for it."""
        further = f'admin_url = "{self.url}/admin"\nbackchannel_logout = {{ clients = ["cli"] }}'
        return gateway.issuer(name, self.url, further=further, **settings)

    # Answers

    def answer(self, method, path, form):
        for beginning, fault in list(self.faults.items()):
            if path.startswith(beginning):
                return fault()
        if method == "POST" and path == TOKENS:
            token = self.token("RS256", sub="service-account", typ="Bearer", aud="realm-management")
            return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 300, "not-before-policy": 0}
        if path == "/":
            return 200, {"realm": "lab", "token-service": f"{self.url}{TOKENS}", "tokens-not-before": 0}
        if path.startswith("/admin/"):
            self.asked.append(path)
            parts = urllib.parse.urlsplit(path.removeprefix("/admin"))
            query = {name: values[0] for name, values in urllib.parse.parse_qs(parts.query).items()}
            return self.administration([urllib.parse.unquote(part) for part in parts.path.split("/")[1:]], query)
        return super().answer(method, path, form)

    def discovery(self):
        return {**super().discovery(), "token_endpoint": f"{self.url}{TOKENS}"}

    def administration(self, path, query):
        match path:
            case ["users"]:
                disabled = [self.user(each) for each, fields in list(self.users.items()) if fields.get("enabled") is False]
                first, most = int(query.get("first", 0)), int(query.get("max", 100))
                return 200, disabled[first : first + most]
            case ["users", subject, *rest] if subject in self.users:
                if not rest:
                    return 200, self.user(subject)
                return (200, []) if rest == ["sessions"] else (404, {"error": "HTTP 404 Not Found"})
            case ["users", _, *_]:
                return 404, {"error": "User not found"}
            case ["admin-events"]:
                return 200, self.since(self.admin_events, query)
            case ["events"]:
                return 200, self.since(self.user_events, query)
            case ["events", "config"]:
                on = ("eventsEnabled", "adminEventsEnabled", "adminEventsDetailsEnabled")
                return 200, {**dict.fromkeys(on, True), "enabledEventTypes": EVENTS}
        return 404, {"error": "HTTP 404 Not Found"}

    def user(self, subject):
        return {
            "id": subject, "username": f"user-{subject[:4]}", "enabled": True, "notBefore": 0, "attributes": {},
            **self.users[subject],
        }

    @staticmethod
    def since(events, query):
        start = int(query.get("dateFrom", 0))
        first, most = int(query.get("first", 0)), int(query.get("max", 100))
        ordered = sorted(
            (event for event in events if not isinstance(event.get("time"), int) or event["time"] >= start),
            key=lambda event: event["time"] if isinstance(event.get("time"), int) else 0,
            reverse=query.get("direction") != "asc",
        )
        return ordered[first : first + most]

    def introspection(self, token):
        """Unlike Keycloak's, it knows no disabled users, so that what shuts them out is what the administration says."""
        if token in self.issued and token in self.opaque_tokens:
            return {"active": True, **self.opaque_tokens[token], **self.introspected_as}
        answer = super().introspection(token)
        return {**answer, **self.introspected_as} if answer["active"] else answer

    # Tokens

    def token(self, algorithm="RS256", **claims):
        return super().token(algorithm, **{"sub": self.SUBJECT, "sid": uuid.uuid4().hex, **claims})

    def opaque(self, **claims):
        now, token = int(time.time()), secrets.token_urlsafe(32)
        self.opaque_tokens[token] = {
            "iss": self.url, "sub": self.SUBJECT, "aud": "gateway", "iat": now, "exp": now + 600, "typ": "Bearer",
            "token_type": "Bearer", "client_id": "cli", "preferred_username": "opal", "namespace": "team-o", **claims,
        }
        self.issued.add(token)
        return token

    def logout_token(self, key=None, header=None, without=(), **claims):
        """OpenID Connect Back-Channel Logout 1.0 section 2.4, as Keycloak fills it."""
        now = int(time.time())
        payload = {
            "iss": self.url, "aud": "cli", "iat": now, "exp": now + 120, "jti": uuid.uuid4().hex, "typ": "Logout",
            "events": {BACKCHANNEL_LOGOUT: {}}, **claims,
        }
        for claim in without:
            del payload[claim]
        header = {"kid": "RS256", "typ": "logout+jwt", **(header or {})}
        return jwt.encode(payload, key or self.keys["RS256"], algorithm="RS256", headers=header)

    # Events

    def admin_event(self, **fields):
        event = {
            "id": str(uuid.uuid4()), "time": int(time.time() * 1000), "operationType": "UPDATE",
            "resourceType": "USER", "resourcePath": f"users/{self.SUBJECT}", **fields,
        }
        self.admin_events.append({name: value for name, value in event.items() if value is not ...})
        return time.monotonic()
