//! One request, one answer: where it goes, how long it may take, how much is read, and what kind of failure it was.
//!
//! The client's own calls are not used: they take the status of an error from its body, and log the bodies that they cannot read.

use super::connect::Cluster;
use super::error::KubernetesError;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// How long a request may take, from start to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest object that is read: a Secret holds at most 1 MiB, and its annotations 256 KiB.
pub(super) const OBJECT_LIMIT: usize = 4 * 1024 * 1024;

/// The most that is read of an error.
const ERROR_LIMIT: usize = 64 * 1024;

/// The name under which our server-side applies are known.
pub(super) const MANAGER: &str = "postern";

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// An object, or a list of them: its path, and what it is called in an error.
#[derive(Debug, Clone)]
pub(super) struct Target {
    path: String,
    what: String,
}

impl Target {
    /// `kind` of `name` in `namespace`, or cluster-wide.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a name that the API knows to be none: it might lead to another path.
    pub(super) fn object(
        group: &str,
        namespace: Option<&str>,
        kind: &str,
        name: &str,
    ) -> Result<Self, KubernetesError> {
        let list = Self::list(group, namespace, kind)?;
        let target = Self { path: format!("{}/{name}", list.path), what: format!("{}/{name}", list.what) };
        if is_name(name) { Ok(target) } else { Err(no_name(name)) }
    }

    /// All of `kind` in `namespace`, or everywhere.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub(super) fn list(group: &str, namespace: Option<&str>, kind: &str) -> Result<Self, KubernetesError> {
        match namespace {
            None => Ok(Self { path: format!("/{group}/{kind}"), what: kind.to_owned() }),
            Some(name) if !is_name(name) => Err(no_name(name)),
            Some(name) => {
                Ok(Self { path: format!("/{group}/namespaces/{name}/{kind}"), what: format!("{kind}/{name}") })
            }
        }
    }

    /// What is asked of an object beside itself.
    pub(super) fn subresource(mut self, name: &str) -> Self {
        self.path = format!("{}/{name}", self.path);
        self
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// What it is called in an error.
    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

/// Whether a text can be a name in the API: it never leads out of its place in a path.
fn is_name(name: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && bytes.first().is_some_and(is_end)
        && bytes.last().is_some_and(is_end)
        && bytes.iter().all(|byte| is_end(byte) || *byte == b'-' || *byte == b'.')
}

fn no_name(name: &str) -> KubernetesError {
    let what = name.chars().take(64).flat_map(char::escape_debug).collect();
    KubernetesError::Invalid { what, message: "this is no name".to_owned() }
}

/// What a server-side apply made of an object.
pub(super) struct Applied<T> {
    pub(super) object: T,
    /// Whether it was not there before.
    pub(super) is_new: bool,
}

impl Cluster {
    pub(super) async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, KubernetesError> {
        self.ask(Method::GET, target, "", None).await.map(|(_, object)| object)
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, target: &Target, body: &Value) -> Result<T, KubernetesError> {
        self.ask(Method::POST, target, "fieldManager=postern", Some((JSON, body))).await.map(|(_, object)| object)
    }

    pub(super) async fn put<T: DeserializeOwned>(&self, target: &Target, body: &Value) -> Result<T, KubernetesError> {
        self.ask(Method::PUT, target, "fieldManager=postern", Some((JSON, body))).await.map(|(_, object)| object)
    }

    /// A JSON merge patch (RFC 7396).
    pub(super) async fn merge<T: DeserializeOwned>(&self, target: &Target, body: &Value) -> Result<T, KubernetesError> {
        self.ask(Method::PATCH, target, "fieldManager=postern", Some((MERGE, body))).await.map(|(_, object)| object)
    }

    /// A server-side apply as [`MANAGER`]. With `force` fields that others have set are taken over.
    pub(super) async fn apply<T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &Value,
        force: bool,
    ) -> Result<Applied<T>, KubernetesError> {
        let query = format!("fieldManager={MANAGER}&force={force}");
        let (status, object) = self.ask(Method::PATCH, target, &query, Some((APPLY, body))).await?;
        Ok(Applied { object, is_new: status == 201 })
    }

    /// Deletes an object only if it is still the one of these preconditions. One that is not there is no error.
    pub(super) async fn delete(&self, target: &Target, preconditions: &Value) -> Result<(), KubernetesError> {
        let body = serde_json::json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions });
        match self.ask::<Value>(Method::DELETE, target, "", Some((JSON, &body))).await {
            Ok(_) | Err(KubernetesError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        query: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<(u16, T), KubernetesError> {
        let ask = async {
            let answer = self.send(&method, target, query, body).await?;
            let status = answer.status().as_u16();
            Ok((status, read_json(target, answer, OBJECT_LIMIT).await?))
        };
        in_time(target, TIMEOUT, ask).await
    }

    /// One page of a list.
    pub(super) async fn page<T: DeserializeOwned>(
        &self,
        target: &Target,
        query: &str,
        limit: usize,
    ) -> Result<T, KubernetesError> {
        let ask = async { read_json(target, self.send(&Method::GET, target, query, None).await?, limit).await };
        in_time(target, TIMEOUT, ask).await
    }

    /// The answer to a watch, of which nothing has been read.
    pub(super) async fn open(&self, target: &Target, query: &str) -> Result<Response<Body>, KubernetesError> {
        in_time(target, TIMEOUT, self.send(&Method::GET, target, query, None)).await
    }

    /// Sends a request and gives a 200 or 201; after a 401 once more, if the credentials could be read again.
    async fn send(
        &self,
        method: &Method,
        target: &Target,
        query: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Body>, KubernetesError> {
        let mut answer = self.send_once(method, target, query, body).await?;
        if answer.status() == 401 && self.renew().await {
            answer = self.send_once(method, target, query, body).await?;
        }
        let status = answer.status().as_u16();
        if matches!(status, 200..=202) {
            return Ok(answer);
        }
        let after = retry_after(answer.headers());
        // What a 401 says is not read: all is told by its status, and the rest may never come.
        let told = if status == 401 { Bytes::new() } else { read(answer, ERROR_LIMIT).await.unwrap_or_default() };
        Err(KubernetesError::of_answer(&target.what, status, after, &told))
    }

    async fn send_once(
        &self,
        method: &Method,
        target: &Target,
        query: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Body>, KubernetesError> {
        let uri = if query.is_empty() { target.path.clone() } else { format!("{}?{query}", target.path) };
        let mut request = Request::builder().method(method).uri(uri).header(ACCEPT, JSON);
        let mut content = Vec::new();
        if let Some((kind, value)) = body {
            request = request.header(CONTENT_TYPE, kind);
            content = value.to_string().into_bytes();
        }
        let request = request.body(Body::from(content)).map_err(|_| no_name(&target.path))?;
        self.client().send(request).await.map_err(|error| unreachable(target, &error))
    }
}

/// Bounds what is asked in time. What was sent and not answered may have been done.
async fn in_time<T>(
    target: &Target,
    timeout: Duration,
    asked: impl Future<Output = Result<T, KubernetesError>>,
) -> Result<T, KubernetesError> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(result) => result,
        Err(_) => Err(KubernetesError::Unreachable { what: target.what.clone(), cause: "it took too long".to_owned() }),
    }
}

async fn read_json<T: DeserializeOwned>(
    target: &Target,
    answer: Response<Body>,
    limit: usize,
) -> Result<T, KubernetesError> {
    let body =
        read(answer, limit).await.map_err(|error| match error.downcast::<http_body_util::LengthLimitError>() {
            Ok(_) => KubernetesError::Unexpected { what: target.what.clone() },
            Err(error) => unreachable(target, &*error),
        })?;
    // Where it failed is not told: the text around is somebody's Secret.
    serde_json::from_slice(&body).map_err(|_| KubernetesError::Unexpected { what: target.what.clone() })
}

async fn read(answer: Response<Body>, limit: usize) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(answer.into_body(), limit).collect().await?.to_bytes())
}

/// The error of a connection, with its causes: the outermost says little.
pub(super) fn unreachable(target: &Target, error: &(dyn std::error::Error + 'static)) -> KubernetesError {
    let mut cause = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let text = inner.to_string();
        if !cause.ends_with(&text) {
            cause = format!("{cause}: {text}");
        }
        next = inner.source();
    }
    KubernetesError::Unreachable { what: target.what.clone(), cause }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_to_another_path() {
        for name in ["", "..", ".", "a/b", "a%2Fb", "a?b", "A", "a ", "-a", "a-", "a#", "ü", &"a".repeat(254)] {
            let refused = Target::object("api/v1", Some(name), "secrets", "access-token");
            assert!(matches!(refused, Err(KubernetesError::Invalid { .. })), "{name:?}");
            assert!(Target::object("api/v1", None, "namespaces", name).is_err(), "{name:?}");
        }
        let target = Target::object("api/v1", Some("team-a.1"), "secrets", "access-token").unwrap();
        assert_eq!(target.path, "/api/v1/namespaces/team-a.1/secrets/access-token");
        assert_eq!(target.what(), "secrets/team-a.1/access-token");
    }
}
