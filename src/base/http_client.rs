//! A small HTTP client for what Postern asks of issuers: JSON in, bounded in time and size.
//!
//! No redirect is followed and no proxy is taken from the environment: where a request goes, and with it
//! our client secret, is decided by the configuration alone.

use crate::base::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

/// No answer of an issuer is read beyond this many bytes, unless the caller says otherwise.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// The largest answer of the operators' API: a line for each of some ten thousand users.
const OPERATORS_LIMIT: usize = 16 * 1024 * 1024;

/// A connection that is not up by then will hardly be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An idle connection is given up before the issuer's side would close it under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Whom a request was made for.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why there is no answer to use. Names the URL without its user and query, never a token or a secret.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum HttpError {
    #[error("the HTTP client cannot be built: {0}")]
    Client(String),
    #[error("`{url}` cannot be reached: {cause}")]
    Unreachable { url: String, cause: String },
    #[error("`{url}` did not answer in time")]
    Timeout { url: String },
    #[error("`{url}` answered {status}")]
    Status { url: String, status: u16 },
    #[error("`{url}` answered more than {limit} bytes")]
    TooLarge { url: String, limit: usize },
    #[error("`{url}` did not answer the expected JSON (line {line}, column {column})")]
    NotJson { url: String, line: usize, column: usize },
}

/// The client. Its connections live on the runtime that it is called on.
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
}

impl HttpClient {
    /// A client that trusts as `tls` says and gives each call `timeout` from start to the last byte.
    ///
    /// # Errors
    /// [`HttpError::Client`] where reqwest cannot use the TLS configuration.
    pub fn new(tls: &rustls::ClientConfig, timeout: Duration) -> Result<Self, HttpError> {
        let inner = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout.min(CONNECT_TIMEOUT))
            .timeout(timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| HttpError::Client(chain(&error)))?;
        Ok(Self { inner })
    }

    /// The body of a 200.
    ///
    /// # Errors
    /// Everything but a 200 whose body fits in [`BODY_LIMIT`].
    pub async fn get(&self, url: &Url) -> Result<Vec<u8>, HttpError> {
        call(url, self.inner.get(url.clone())).await
    }

    /// As [`Self::get`], as the holder of a token if there is one.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_as(&self, url: &Url, token: Option<&BearerToken>) -> Result<Vec<u8>, HttpError> {
        let mut request = self.inner.get(url.clone());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token.0.clone());
        }
        call(url, request).await
    }

    /// The body of a 200, read as JSON. The content type is not looked at: JSON is what parses as such.
    ///
    /// # Errors
    /// As [`Self::get`], and a body that is not JSON of that shape.
    pub async fn get_json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, HttpError> {
        let body = self.get(url).await?;
        serde_json::from_slice(&body).map_err(|error| not_json(url, &error))
    }

    /// As [`Self::get`], from a caller that names the server by another `Host`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_as_host(&self, url: &Url, host: &'static str) -> Result<Vec<u8>, HttpError> {
        call(url, self.inner.get(url.clone()).header(HOST, HeaderValue::from_static(host))).await
    }

    /// Posts JSON, as the holder of a token if there is one, and gives the answer whatever its status.
    ///
    /// # Errors
    /// No answer in time, or one longer than 16 MiB.
    pub async fn post_json(
        &self,
        url: &Url,
        token: Option<&BearerToken>,
        body: &serde_json::Value,
    ) -> Result<Reply, HttpError> {
        let mut request = self.inner.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.to_string());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token.0.clone());
        }
        reply(url, request, OPERATORS_LIMIT).await
    }

    /// Posts bytes of a type, as the holder of a token if there is one. What is answered is not looked at.
    ///
    /// # Errors
    /// No answer, or one that is no 2xx.
    pub async fn post_bytes(
        &self,
        url: &Url,
        content_type: &'static str,
        token: Option<&BearerToken>,
        body: Vec<u8>,
    ) -> Result<(), HttpError> {
        let mut request = self.inner.post(url.clone()).header(CONTENT_TYPE, content_type).body(body);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token.0.clone());
        }
        let answer = request.send().await.map_err(|error| failed(url, error))?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        read(url, answer, BODY_LIMIT).await?;
        if status.is_success() { Ok(()) } else { Err(HttpError::Status { url: shown(url), status: status.as_u16() }) }
    }

    /// Posts a form as the client that `who` names, and gives the body of a 200.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_form(
        &self,
        url: &Url,
        who: &BasicCredentials,
        form: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Vec<u8>, HttpError> {
        let request = self.inner.post(url.clone()).timeout(timeout).header(AUTHORIZATION, who.0.clone()).form(form);
        call(url, request).await
    }

    /// Posts a form on behalf of somebody at `caller`, who is named by `X-Forwarded-For` and by nothing else, and gives the answer
    /// whatever its status, with a body of at most `limit` bytes. No credentials of ours go with it.
    ///
    /// # Errors
    /// No answer in time, or not all of one.
    pub async fn post_form_for(
        &self,
        url: &Url,
        caller: IpAddr,
        form: &[(&str, &str)],
        timeout: Duration,
        limit: usize,
    ) -> Result<Reply, HttpError> {
        let request = self.inner.post(url.clone()).timeout(timeout).header(X_FORWARDED_FOR, caller.to_string());
        reply(url, request.form(form), limit).await
    }

    /// Posts a form as the client that `who` names, and gives the answer whatever its status.
    ///
    /// # Errors
    /// No answer in time, or one longer than [`BODY_LIMIT`].
    pub async fn post_form_for_reply(
        &self,
        url: &Url,
        who: &BasicCredentials,
        form: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<Reply, HttpError> {
        let request = self.inner.post(url.clone()).timeout(timeout).header(AUTHORIZATION, who.0.clone()).form(form);
        reply(url, request, BODY_LIMIT).await
    }

    /// Sends a request without a body as the holder of `token`, and gives the answer whatever its status, with a body of at most
    /// `limit` bytes.
    ///
    /// # Errors
    /// No answer, or not all of one.
    pub async fn send_as(
        &self,
        method: Method,
        url: &Url,
        token: &BearerToken,
        limit: usize,
    ) -> Result<Reply, HttpError> {
        let request = self.inner.request(method, url.clone()).header(AUTHORIZATION, token.0.clone());
        reply(url, request, limit).await
    }
}

/// What was answered, whatever the status.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body, complete.
    pub body: Vec<u8>,
}

/// An access token of ours, ready to be sent. Never formatted.
#[derive(Clone)]
pub struct BearerToken(HeaderValue);

impl BearerToken {
    /// `None` for a text that no header can hold.
    pub fn new(token: &Secret) -> Option<Self> {
        let value = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut header = HeaderValue::from_str(&value).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }
}

/// A client's id and secret, ready to be sent by HTTP Basic. Never formatted.
#[derive(Clone)]
pub struct BasicCredentials(HeaderValue);

impl BasicCredentials {
    /// Both parts are form-encoded before they are joined (RFC 6749 §2.3.1), so a `:` or a non-ASCII
    /// character in either arrives as it was meant.
    pub fn new(id: &str, secret: &Secret) -> Self {
        let mut plain = Zeroizing::new(String::new());
        plain.extend(form_urlencoded::byte_serialize(id.as_bytes()));
        plain.push(':');
        plain.extend(form_urlencoded::byte_serialize(secret.expose().as_bytes()));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(plain.as_bytes())));
        let mut header = HeaderValue::from_str(&value).expect("base64 is visible ASCII");
        header.set_sensitive(true);
        Self(header)
    }
}

/// The error of a body that is not the JSON it should be. Says where, not what: the rest of the body may be
/// somebody's claims.
pub fn not_json(url: &Url, error: &serde_json::Error) -> HttpError {
    HttpError::NotJson { url: shown(url), line: error.line(), column: error.column() }
}

/// The URL as errors show it: without user, query and fragment.
pub fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

async fn call(url: &Url, request: RequestBuilder) -> Result<Vec<u8>, HttpError> {
    let answer = send(url, request).await?;
    if answer.status() != http::StatusCode::OK {
        return Err(HttpError::Status { url: shown(url), status: answer.status().as_u16() });
    }
    read(url, answer, BODY_LIMIT).await
}

async fn reply(url: &Url, request: RequestBuilder, limit: usize) -> Result<Reply, HttpError> {
    let answer = send(url, request).await?;
    Ok(Reply { status: answer.status().as_u16(), body: read(url, answer, limit).await? })
}

/// JSON, and what key sets are by RFC 7517 §8.5: a Kubernetes API server answers 406 to whoever does not name that.
const JSON: &str = "application/json, application/jwk-set+json";

async fn send(url: &Url, request: RequestBuilder) -> Result<Response, HttpError> {
    request.header(ACCEPT, JSON).send().await.map_err(|error| failed(url, error))
}

/// Reads a body chunk by chunk, so that an endless one costs no more than `limit`.
async fn read(url: &Url, mut answer: Response, limit: usize) -> Result<Vec<u8>, HttpError> {
    let too_large = || HttpError::TooLarge { url: shown(url), limit };
    if answer.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failed(url, error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn failed(url: &Url, error: reqwest::Error) -> HttpError {
    if error.is_timeout() {
        return HttpError::Timeout { url: shown(url) };
    }
    HttpError::Unreachable { url: shown(url), cause: chain(&error.without_url()) }
}

/// An error with its causes: reqwest's own message is only the outermost ("error sending request").
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn id_and_secret_are_form_encoded_before_basic() {
        let BasicCredentials(header) = BasicCredentials::new("gate:way", &Secret::new("p ä+%"));
        let plain = STANDARD.decode(header.to_str().unwrap().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(plain, b"gate%3Away:p+%C3%A4%2B%25");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn an_error_shows_neither_user_nor_query() {
        let url = Url::parse("https://user:hunter2@issuer.test/keys?token=abc#d").unwrap();
        assert_eq!(shown(&url), "https://issuer.test/keys");
    }

    /// What it says may not be so any more: whoever reads it acts on it.
    #[tokio::test]
    async fn an_answer_that_lay_there_while_the_process_was_paused_is_none() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/users", server.local_addr().unwrap())).unwrap();
        let (asked_to, asked) = std::sync::mpsc::channel();
        let (pause_to, pause) = std::sync::mpsc::channel();
        let (done_to, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            while !read_some(&mut connection).ends_with(b"\r\n\r\n") {}
            asked_to.send(()).unwrap();
            pause.recv().unwrap();
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            done_to.send(connection).unwrap();
        });
        let tls = crate::base::tls::client_config(None, None, &[]).unwrap();
        let timeout = Duration::from_millis(500);
        let client = HttpClient::new(&tls, timeout).unwrap();
        let call = tokio::spawn(async move { client.get(&url).await });
        while asked.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        pause_to.send(()).unwrap();
        // Nothing of this process goes on while its only thread stands still.
        let _connection = done.recv().unwrap();
        std::thread::sleep(timeout);
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, HttpError::Timeout { .. }), "{error}");
    }

    fn read_some(connection: &mut std::net::TcpStream) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let read = connection.read(&mut buffer).unwrap();
        buffer[..read].to_vec()
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_named_with_its_cause() {
        let tls = crate::base::tls::client_config(None, None, &[]).unwrap();
        let client = HttpClient::new(&tls, Duration::from_secs(5)).unwrap();
        let url = Url::parse("http://127.0.0.1:1/keys").unwrap();
        let error = client.get(&url).await.unwrap_err();
        assert!(matches!(error, HttpError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("`http://127.0.0.1:1/keys`"), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
