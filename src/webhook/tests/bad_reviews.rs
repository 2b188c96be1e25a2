//! What is no review has no `uid` to answer to: a 400, which the API server takes as a failed call.

use crate::webhook::review::{KnownSecret, answer};

#[track_caller]
fn check(body: impl AsRef<[u8]>, message: &str) {
    let body = body.as_ref();
    let error = answer(body, |_| KnownSecret::Present).map(|answer| answer.body).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn what_is_no_json_object_is_no_review() {
    for body in ["", " ", "null", "[]", "7", "\"\"", "{", "{}}", "{\"kind\":}", "{\"kind\":\"AdmissionReview\",}"] {
        check(body, "no AdmissionReview: ");
    }
    check([0xff, 0xfe, b'{', b'}'], "no AdmissionReview: ");
    check(b"{\"kind\":\"\xff\"}", "no AdmissionReview: ");
}

#[test]
fn another_kind_or_version_is_no_review() {
    check("{}", "a `` of `` is no AdmissionReview");
    check(r#"{"apiVersion":"v1","kind":"Pod"}"#, "a `Pod` of `v1`");
    check(r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#, "of `admission.k8s.io/v1beta1`");
}

#[test]
fn a_review_without_a_request_and_its_uid_cannot_be_answered() {
    let review = |request: &str| format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"{request}}}"#);
    for request in
        ["", r#","request":null"#, r#","request":{}"#, r#","request":{"uid":""}"#, r#","response":{"uid":"u"}"#]
    {
        check(review(request), "no request with a uid");
    }
    for request in [r#","request":[]"#, r#","request":["u"]"#, r#","request":{"uid":7}"#, r#","request":{"uid":null}"#]
    {
        check(review(request), "no AdmissionReview: ");
    }
}

#[test]
fn a_review_that_says_something_twice_is_refused() {
    let twice = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"a","uid":"b"}}"#;
    check(twice, "duplicate field `uid`");
}

#[test]
fn no_depth_brings_the_reader_down() {
    let deep = "[".repeat(100_000);
    check(&deep, "no AdmissionReview: ");
    check(format!(r#"{{"apiVersion":{deep}"#), "no AdmissionReview: ");
    check(format!(r#"{{"unknown":{deep}"#), "no AdmissionReview: ");
    let start = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","object":"#;
    check(format!("{start}{deep}"), "no AdmissionReview: ");
    let whole = format!("{start}{{\"x\":{deep}{}}}}}}}", "]".repeat(100_000));
    // What nobody reads may be as deep as it likes.
    assert!(answer(whole.as_bytes(), |_| KnownSecret::Present).is_ok());
}
