//! An issuer that says of tokens whatever a test has it say, when the test has it say so.

use super::{Peer, Stage, Upstream};
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex};

/// Stands at the address of the stage's realm, with its keys, and answers introspection by itself.
pub(crate) struct Liar {
    server: Upstream,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    /// What introspection answers; until there is something, it waits.
    answer: Mutex<Option<String>>,
    changed: Condvar,
}

impl Liar {
    pub(crate) fn start(stage: &Stage) -> Self {
        let demo = stage.issuer.demo();
        let (url, keys) = (demo.url(), demo.key_set());
        let discovery = json!({
            "issuer": url, "jwks_uri": format!("{url}/keys"), "introspection_endpoint": format!("{url}/introspect"),
        });
        let said = Arc::new(Said::default());
        let answers = Arc::clone(&said);
        let server = Upstream::serving(move |mut peer| {
            while let Some(head) = peer.read_head() {
                if head.line.contains("/introspect ") {
                    // Recorded when it has come, not when it is answered.
                    let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                    peer.read_bytes(length);
                    peer.record(head);
                    send(&mut peer, &answers.wait());
                } else if head.line.contains("/keys ") {
                    send(&mut peer, &keys.to_string());
                } else {
                    send(&mut peer, &discovery.to_string());
                }
            }
        });
        Self { server, said }
    }

    /// The line of `[issuer.main]` that has the gateway ask here.
    pub(crate) fn address(&self) -> String {
        format!("address = 'http://{}'", self.server.addr())
    }

    /// What introspection answers from now on.
    pub(crate) fn say(&self, answer: Value) {
        *self.said.answer.lock().unwrap() = Some(answer.to_string());
        self.said.changed.notify_all();
    }

    /// How often it was asked about tokens.
    pub(crate) fn introspections(&self) -> usize {
        self.server.requests()
    }
}

impl Said {
    fn wait(&self) -> String {
        let mut answer = self.answer.lock().unwrap();
        loop {
            match &*answer {
                Some(text) => return text.clone(),
                None => answer = self.changed.wait(answer).unwrap(),
            }
        }
    }
}

fn send(peer: &mut Peer, body: &str) {
    peer.send(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
}
