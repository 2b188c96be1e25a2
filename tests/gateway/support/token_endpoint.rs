//! A token endpoint that makes whatever a test has it make, and waits for as long as a test has it wait.

use super::{Peer, Seen, Stage, Upstream};
use postern::dev::TokenSpec;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};

/// Stands at the address of the stage's realm; all but its tokens is the realm's own.
pub(crate) struct TokenEndpoint {
    server: Upstream,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is answered; until there is something, it waits.
    answer: Option<(u16, Value)>,
}

impl TokenEndpoint {
    /// One that waits.
    pub(crate) fn start(stage: &Stage) -> Self {
        let realm = stage.issuer.addr();
        let script = Arc::<Script>::default();
        let its_script = Arc::clone(&script);
        let server = Upstream::serving(move |mut peer| {
            while let Some(mut head) = peer.read_head() {
                let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                head.body = peer.read_bytes(length).unwrap_or_default();
                if head.line.contains("/token ") {
                    peer.record(head);
                    let (status, answer) = its_script.next();
                    send(&mut peer, status, &answer.to_string());
                } else {
                    pass(&mut peer, &head, realm);
                }
            }
        });
        Self { server, script }
    }

    /// The line of `[issuer.main]` that has the gateway ask here.
    pub(crate) fn address(&self) -> String {
        format!("address = '{}'", self.url(""))
    }

    /// A URL of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr())
    }

    /// What is answered from now on.
    pub(crate) fn answer(&self, status: u16, answer: Value) {
        self.script.state.lock().unwrap().answer = Some((status, answer));
        self.script.changed.notify_all();
    }

    /// What is answered from now on: a token that lives for five minutes. `scope` is what the answer says.
    pub(crate) fn grant(&self, stage: &Stage, token: &TokenSpec, scope: &str) -> String {
        let token = stage.issuer.issue(&token.clone().lifetime(300));
        self.answer(200, granted(&token, scope));
        token
    }

    /// How often it was asked for a token.
    pub(crate) fn calls(&self) -> usize {
        self.server.requests()
    }

    /// What it was asked last.
    pub(crate) fn form(&self) -> HashMap<String, String> {
        let parsed = url::form_urlencoded::parse(&self.server.last().body).into_owned().collect::<Vec<_>>();
        let count = parsed.len();
        let form: HashMap<_, _> = parsed.into_iter().collect();
        assert_eq!(form.len(), count, "a parameter is there twice");
        form
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.server.last()
    }
}

/// The answer of RFC 8693 §2.2.1.
pub(crate) fn granted(token: &str, scope: &str) -> Value {
    json!({
        "access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": scope,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    })
}

impl Script {
    fn next(&self) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        loop {
            match &state.answer {
                Some(answer) => return answer.clone(),
                None => state = self.changed.wait(state).unwrap(),
            }
        }
    }
}

/// Has the realm answer.
fn pass(peer: &mut Peer, head: &Seen, realm: std::net::SocketAddr) {
    let mut io = TcpStream::connect(realm).unwrap();
    let mut request = format!("{}\r\n", head.line);
    for (name, value) in head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("connection: close\r\n\r\n");
    io.write_all(&[request.as_bytes(), &head.body].concat()).unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (answer_head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = answer_head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    send(peer, status, body);
}

fn send(peer: &mut Peer, status: u16, body: &str) {
    peer.send(format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
}
