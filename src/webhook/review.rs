//! An AdmissionReview of `admission.k8s.io/v1` in, the answer to it out. No sockets here.

use super::patch::{self, Addition, Ephemeral, shown};
use super::pod::{Object, Pod, SECRET};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The one version of reviews. The configuration of the webhook says so, and the API server sends no other.
const VERSION: &str = "admission.k8s.io/v1";

/// What became of a review, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The pod gets volume and mounts.
    Patched,
    /// It asks for the token, and has or gets volume and mounts; but its namespace has no Secret.
    WithoutSecret,
    /// It asks for the token and has all it needs.
    Unchanged,
    /// It does not ask, or is no pod.
    Untouched,
    /// It asks, and cannot have the token.
    Refused,
    /// There was no review.
    Malformed,
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Patched, Self::WithoutSecret, Self::Unchanged, Self::Untouched, Self::Refused, Self::Malformed];

    /// Its word in metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::WithoutSecret => "without_secret",
            Self::Unchanged => "unchanged",
            Self::Untouched => "untouched",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
        }
    }
}

/// Whether a namespace has its Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownSecret {
    /// It has one, be it empty.
    Present,
    /// It has none.
    Absent,
    /// Nobody has looked.
    Unknown,
}

/// The answer to a review.
#[derive(Debug)]
pub struct Answer {
    /// An AdmissionReview.
    pub body: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a text is no review that can be answered. The API server reads this, and with it whoever makes the pod.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum ReviewError {
    #[error("no AdmissionReview: {0}")]
    Form(serde_json::Error),
    #[error("a `{kind}` of `{version}` is no AdmissionReview of `{VERSION}`")]
    Kind { kind: String, version: String },
    #[error("the AdmissionReview holds no request with a uid")]
    NoRequest,
}

/// All but the objects, which may be of any kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Object<Request>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    resource: Option<Object<Resource>>,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    resource: String,
}

/// The objects of a review about pods: read when that is known.
#[derive(Deserialize)]
struct PodReview {
    request: Object<Pods>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pods {
    object: Option<Object<Pod>>,
    old_object: Option<Object<Pod>>,
}

/// Answers a review. `secrets` tells of a namespace whether it has its Secret.
///
/// # Errors
/// [`ReviewError`], if there is no `uid` to answer to. With a `uid` the answer is a review, if need be one that refuses.
pub fn answer(body: &[u8], secrets: impl Fn(&str) -> KnownSecret) -> Result<Answer, ReviewError> {
    let Object(review) = serde_json::from_slice::<Object<Review>>(body).map_err(ReviewError::Form)?;
    if review.api_version != VERSION || review.kind != "AdmissionReview" {
        return Err(ReviewError::Kind { kind: shown(&review.kind), version: shown(&review.api_version) });
    }
    let request = review.request.map(|Object(request)| request).filter(|request| !request.uid.is_empty());
    let request = request.ok_or(ReviewError::NoRequest)?;
    let response = match judge(&request, body) {
        Ok(verdict) => allowed(&request, verdict, secrets(&request.namespace)),
        Err(refusal) => refused(&request, &refusal),
    };
    Ok(response)
}

/// What is to be done to an admitted object.
enum Verdict {
    Untouched,
    NoVolume,
    Add(Vec<Addition>),
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Conflict(#[from] patch::Conflict),
    #[error("the pod cannot be read: {0}")]
    Pod(#[from] serde_json::Error),
    #[error("the review holds no pod")]
    NoPod,
}

fn judge(request: &Request, body: &[u8]) -> Result<Verdict, Refusal> {
    let resource = request.resource.as_ref().map(|Object(resource)| resource);
    let is_pod =
        resource.is_some_and(|r| (r.group.as_str(), r.version.as_str(), r.resource.as_str()) == ("", "v1", "pods"));
    match (is_pod, request.sub_resource.as_str(), request.operation.as_str()) {
        (true, "", "CREATE") => {
            let additions = patch::for_new_pod(&pods(body)?.0)?;
            Ok(additions.map_or(Verdict::Untouched, Verdict::Add))
        }
        (true, "ephemeralcontainers", "UPDATE") => {
            let (pod, stored) = pods(body)?;
            match patch::for_ephemeral_containers(&pod, &stored.ok_or(Refusal::NoPod)?)? {
                Ephemeral::Untouched => Ok(Verdict::Untouched),
                Ephemeral::NoVolume => Ok(Verdict::NoVolume),
                Ephemeral::Add(additions) => Ok(Verdict::Add(additions)),
            }
        }
        // Whatever else a configuration sends here passes as it is. A pod that is there cannot get a volume any more.
        _ => Ok(Verdict::Untouched),
    }
}

/// The pod of a review, and the one that is stored.
fn pods(body: &[u8]) -> Result<(Pod, Option<Pod>), Refusal> {
    let Object(PodReview { request: Object(pods) }) = serde_json::from_slice(body)?;
    let Object(pod) = pods.object.ok_or(Refusal::NoPod)?;
    Ok((pod, pods.old_object.map(|Object(stored)| stored)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    // The API server takes both or neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

fn allowed(request: &Request, verdict: Verdict, secret: KnownSecret) -> Answer {
    let mut warnings = Vec::new();
    let (additions, mut outcome) = match verdict {
        Verdict::Untouched => (Vec::new(), Outcome::Untouched),
        Verdict::NoVolume => {
            warnings
                .push("the pod was made without the volume of its token, so its ephemeral containers have none".into());
            (Vec::new(), Outcome::Untouched)
        }
        Verdict::Add(additions) => {
            let outcome = if additions.is_empty() { Outcome::Unchanged } else { Outcome::Patched };
            (additions, outcome)
        }
    };
    if matches!(outcome, Outcome::Patched | Outcome::Unchanged) && secret == KnownSecret::Absent {
        outcome = Outcome::WithoutSecret;
        let namespace = shown(&request.namespace);
        tracing::warn!(namespace, pod = shown(&request.name), "a pod asks for the token where there is none");
        warnings.push(format!(
            "the namespace `{namespace}` has no Secret `{SECRET}`: the pod starts without a token, and gets one if the Secret is \
             made"
        ));
    }
    let patch = (!additions.is_empty()).then(|| STANDARD.encode(to_json(&additions)));
    let patch_type = patch.is_some().then_some("JSONPatch");
    reply(Response { uid: &request.uid, allowed: true, status: None, patch_type, patch, warnings }, outcome)
}

fn refused(request: &Request, refusal: &Refusal) -> Answer {
    let (code, reason) = match refusal {
        Refusal::Conflict(_) => (422, "Invalid"),
        Refusal::Pod(_) | Refusal::NoPod => (400, "BadRequest"),
    };
    let namespace = shown(&request.namespace);
    tracing::info!(namespace, pod = shown(&request.name), %refusal, "a pod was refused");
    let status = Some(Status { code, reason, message: refusal.to_string() });
    let response =
        Response { uid: &request.uid, allowed: false, status, patch_type: None, patch: None, warnings: Vec::new() };
    reply(response, Outcome::Refused)
}

fn reply(response: Response<'_>, outcome: Outcome) -> Answer {
    Answer { body: to_json(&Answered { api_version: VERSION, kind: "AdmissionReview", response }), outcome }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what has only strings for keys is JSON")
}
