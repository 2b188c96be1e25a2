//! Poll delivery (RFC 8936): what a client asks, and what it gets.

use super::super::client::Client;
use super::outbox::{OutboxError, Page};
use super::{Feed, Moved};
use crate::base::json::{self, Json};
use crate::token_service::TokenService;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The most tokens in one answer.
const MAX_SETS: usize = 100;

/// How long a poll waits for news.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// So many polls of one client wait at a time; further ones are answered at once.
const MAX_WAITERS: usize = 16;

/// A poll, read (RFC 8936 §2.2).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PollRequest {
    /// `ack`: `jti`s of tokens that the client has.
    pub acknowledged: Vec<String>,
    /// `setErrs`: `jti`s of tokens that it could not use, and its error codes.
    pub errors: Vec<(String, String)>,
    /// `maxEvents`.
    pub most: Option<usize>,
    /// `returnImmediately`.
    pub returns_immediately: bool,
}

/// Why a body is no poll: the member that is wrong, or the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// No JSON object, or one with a member twice.
    #[error("the body is not a sound JSON object")]
    Json,
    /// A member of another type than RFC 8936 says.
    #[error("`{0}` is of the wrong type")]
    Member(&'static str),
}

impl PollRequest {
    /// Reads a body. Members that are not known are passed over.
    ///
    /// # Errors
    /// [`PollError`].
    pub fn parse(body: &[u8]) -> Result<Self, PollError> {
        let members = json::parse_object(body).ok_or(PollError::Json)?;
        let acknowledged = match members.get("ack") {
            None => Vec::new(),
            Some(Json::Array(jtis)) => {
                let jtis: Option<Vec<_>> = jtis.iter().map(|jti| jti.as_str().map(str::to_owned)).collect();
                jtis.ok_or(PollError::Member("ack"))?
            }
            Some(_) => return Err(PollError::Member("ack")),
        };
        let error = |(jti, error): (&str, &Json<'_>)| {
            Some((jti.to_owned(), error.as_object()?.get("err")?.as_str()?.to_owned()))
        };
        let errors = match members.get("setErrs") {
            None => Vec::new(),
            Some(Json::Object(errors)) => {
                let errors: Option<Vec<_>> = errors.iter().map(error).collect();
                errors.ok_or(PollError::Member("setErrs"))?
            }
            Some(_) => return Err(PollError::Member("setErrs")),
        };
        let most = match members.get("maxEvents") {
            None => None,
            Some(number) => {
                let number = number.as_u64().ok_or(PollError::Member("maxEvents"))?;
                Some(usize::try_from(number).unwrap_or(usize::MAX))
            }
        };
        let returns_immediately = match members.get("returnImmediately") {
            None => false,
            Some(Json::Bool(now)) => *now,
            Some(_) => return Err(PollError::Member("returnImmediately")),
        };
        Ok(Self { acknowledged, errors, most, returns_immediately })
    }
}

/// What a poll is answered with (RFC 8936 §2.3).
#[derive(Debug, Default)]
pub(in crate::endpoints) struct PollAnswer {
    sets: Vec<(String, String)>,
    has_more: bool,
}

impl PollAnswer {
    pub(in crate::endpoints) fn into_json(self) -> Value {
        let sets: Map<_, _> = self.sets.into_iter().map(|(jti, set)| (jti, Value::String(set))).collect();
        let mut answer = Map::from_iter([("sets".to_owned(), Value::Object(sets))]);
        if self.has_more {
            answer.insert("moreAvailable".into(), true.into());
        }
        Value::Object(answer)
    }
}

/// How many polls wait, by client.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<Arc<str>, Arc<AtomicUsize>>>);

struct Waiter(Arc<AtomicUsize>);

impl Waiters {
    /// A place to wait in, if there is one.
    fn enter(&self, client: &Arc<str>) -> Option<Waiter> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(Arc::clone(client)).or_default();
        let waiter = Waiter(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITERS).then_some(waiter)
    }
}

impl Waiters {
    fn count(&self) -> usize {
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.values().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Feed {
    /// How many polls wait for news.
    pub fn polls_that_wait(&self) -> usize {
        self.waiters.count()
    }

    /// Answers a poll: takes what the client has off its queue, then gives what waits, or waits for it. On the control plane.
    pub(in crate::endpoints) async fn poll(
        self: &Arc<Self>,
        client: &Arc<Client>,
        request: PollRequest,
        service: &Arc<TokenService>,
    ) -> Result<PollAnswer, OutboxError> {
        let most = request.most.unwrap_or(MAX_SETS).min(MAX_SETS);
        let mut moved = self.moved.subscribe();
        self.acknowledge(client, request.acknowledged, request.errors).await?;
        let until = tokio::time::sleep(LONGEST_WAIT);
        let mut until = std::pin::pin!(until);
        let mut place = None;
        loop {
            let Moved { is_ending, .. } = *moved.borrow_and_update();
            let answer = self.page(client, most, service).await?;
            if !answer.sets.is_empty() || most == 0 || request.returns_immediately || is_ending {
                return Ok(answer);
            }
            if place.is_none() {
                place = self.waiters.enter(&client.name);
            }
            if place.is_none() {
                return Ok(answer);
            }
            tokio::select! {
                () = &mut until => return Ok(answer),
                changed = moved.changed() => if changed.is_err() { return Ok(answer) },
            }
        }
    }

    async fn acknowledge(
        self: &Arc<Self>,
        client: &Arc<Client>,
        mut acknowledged: Vec<String>,
        errors: Vec<(String, String)>,
    ) -> Result<(), OutboxError> {
        for (jti, code) in errors {
            self.counts.events_refused.inc();
            // Sending it once more would not help.
            tracing::warn!(client = &*client.name, ?jti, ?code, "a client could not use a security event token");
            acknowledged.push(jti);
        }
        if acknowledged.is_empty() {
            return Ok(());
        }
        let (feed, name) = (Arc::clone(self), Arc::clone(&client.name));
        let done = tokio::task::spawn_blocking(move || feed.outbox.acknowledge(&name, &acknowledged));
        // A task that is cancelled belongs to a process that ends.
        done.await.unwrap_or(Ok(0)).map(|_| ()).inspect_err(|error| self.failed(error))
    }

    async fn page(
        self: &Arc<Self>,
        client: &Arc<Client>,
        most: usize,
        service: &Arc<TokenService>,
    ) -> Result<PollAnswer, OutboxError> {
        let waiting = self.outbox.waiting().get(&*client.name).copied().unwrap_or(0);
        if most == 0 || waiting == 0 {
            return Ok(PollAnswer::default());
        }
        let (feed, client, service) = (Arc::clone(self), Arc::clone(client), Arc::clone(service));
        let read = tokio::task::spawn_blocking(move || {
            let Page { sets, has_more } = feed.outbox.waiting_for(&client.name, most)?;
            // Signed anew each time: a key does not stay published for as long as a token may wait.
            let sign = |(jti, claims): (String, Vec<u8>)| match service.sign_event(&claims) {
                Ok(set) => Some((jti, set)),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "security events");
                    None
                }
            };
            Ok(PollAnswer { sets: sets.into_iter().filter_map(sign).collect(), has_more })
        });
        read.await.unwrap_or_else(|_| Ok(PollAnswer::default())).inspect_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_poll_is_read() {
        assert_eq!(PollRequest::parse(b"{}"), Ok(PollRequest::default()));
        let body = br#"{"ack":["a","b"],"setErrs":{"c":{"err":"jwtAud","description":"x"}},"maxEvents":5,
            "returnImmediately":true,"else":[]}"#;
        let expected = PollRequest {
            acknowledged: vec!["a".into(), "b".into()],
            errors: vec![("c".into(), "jwtAud".into())],
            most: Some(5),
            returns_immediately: true,
        };
        assert_eq!(PollRequest::parse(body), Ok(expected));
    }

    #[test]
    fn anything_else_is_not_guessed_at() {
        for (body, wrong) in [
            (r#"{"ack":"a"}"#, "ack"),
            (r#"{"ack":[1]}"#, "ack"),
            (r#"{"setErrs":["a"]}"#, "setErrs"),
            (r#"{"setErrs":{"a":"err"}}"#, "setErrs"),
            (r#"{"setErrs":{"a":{}}}"#, "setErrs"),
            (r#"{"maxEvents":-1}"#, "maxEvents"),
            (r#"{"maxEvents":1.5}"#, "maxEvents"),
            (r#"{"maxEvents":"1"}"#, "maxEvents"),
            (r#"{"returnImmediately":"true"}"#, "returnImmediately"),
            (r#"{"returnImmediately":null}"#, "returnImmediately"),
        ] {
            assert_eq!(PollRequest::parse(body.as_bytes()), Err(PollError::Member(wrong)), "{body}");
        }
        for body in ["", "[]", "null", r#"{"ack":[],"ack":["a"]}"#, "{}{}", "ack=a"] {
            assert_eq!(PollRequest::parse(body.as_bytes()), Err(PollError::Json), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PollRequest::parse(&body);
        }
    }

    #[test]
    fn a_client_has_so_many_places_to_wait_in() {
        let (waiters, orders, billing) = (Waiters::default(), "orders".into(), "billing".into());
        let held: Vec<_> = (0..MAX_WAITERS).map(|_| waiters.enter(&orders).unwrap()).collect();
        assert!(waiters.enter(&orders).is_none());
        assert!(waiters.enter(&billing).is_some());
        drop(held);
        assert!(waiters.enter(&orders).is_some());
    }
}
