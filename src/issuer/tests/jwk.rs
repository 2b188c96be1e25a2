//! Which JWKs become keys, and what these verify.

use crate::config::Algorithm;
use crate::issuer::tests::keys::{TestKey, b64, jwks};
use crate::issuer::{JwkError, JwksError, MAX_ENTRIES, VerifyingKey, parse_jwks};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The only key of a set of one JWK.
#[track_caller]
fn key(jwk: Value) -> VerifyingKey {
    parse_jwks(&jwks(&[jwk])).unwrap().keys.pop().unwrap()
}

#[track_caller]
fn check_skipped(jwk: Value, expected: JwkError) {
    match parse_jwks(&jwks(std::slice::from_ref(&jwk))) {
        Err(JwksError::NoUsableKey { first: Some(error) }) => assert_eq!(error, expected, "{jwk}"),
        other => panic!("{jwk}: {other:?}"),
    }
}

fn fitting(key: &VerifyingKey) -> Vec<Algorithm> {
    Algorithm::ALL.into_iter().filter(|algorithm| key.fits(*algorithm)).collect()
}

#[test]
fn each_algorithm_verifies_as_the_reference_does() {
    for algorithm in Algorithm::ALL {
        let signer = TestKey::new(algorithm, "k");
        let ours = key(signer.jwk.clone());
        let reference = reference(&signer);
        let message = b"eyJhbGciOiJ4In0.eyJzdWIiOiJ1In0";
        let good = signer.sign(message);
        for (message, signature) in forgeries(message, &good) {
            let is_good = message == b"eyJhbGciOiJ4In0.eyJzdWIiOiJ1In0" && signature == good;
            assert_eq!(ours.verify(algorithm, &message, &signature), is_good, "{algorithm:?} {}", signature.len());
            if let Some((name, key)) = &reference {
                let theirs = jsonwebtoken::crypto::verify(&b64(&signature), &message, key, *name).unwrap();
                assert_eq!(theirs, is_good, "{algorithm:?} {}", signature.len());
            }
        }
    }
}

/// The sound pair first, then pairs that differ from it a little.
fn forgeries(message: &[u8], signature: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = vec![(message.to_vec(), signature.to_vec()), (b"another".to_vec(), signature.to_vec())];
    for at in [0, signature.len() / 2, signature.len() - 1] {
        let mut flipped = signature.to_vec();
        flipped[at] ^= 1;
        pairs.push((message.to_vec(), flipped));
    }
    let mut longer = signature.to_vec();
    longer.push(0);
    let shorter = signature[..signature.len() - 1].to_vec();
    let zeros = vec![0; signature.len()];
    pairs.extend([longer, shorter, zeros, Vec::new()].map(|signature| (message.to_vec(), signature)));
    pairs
}

/// `jsonwebtoken`'s key of the same JWK; it does not know ES512.
fn reference(signer: &TestKey) -> Option<(jsonwebtoken::Algorithm, jsonwebtoken::DecodingKey)> {
    let name: jsonwebtoken::Algorithm = signer.algorithm.name().parse().ok()?;
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk.clone()).unwrap();
    Some((name, jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap()))
}

#[test]
fn an_ecdsa_signature_in_der_is_refused() {
    let signer = TestKey::es256("k");
    let raw = signer.sign(b"message");
    let part = |half: &[u8]| [&[2, 33, 0], half].concat();
    let der = [&[0x30, 70], part(&raw[..32]).as_slice(), &part(&raw[32..])].concat();
    let key = key(signer.jwk.clone());
    assert!(key.verify(Algorithm::Es256, b"message", &raw));
    assert!(!key.verify(Algorithm::Es256, b"message", &der));
}

#[test]
fn the_alg_of_a_key_fixes_its_only_algorithm() {
    use Algorithm::{Es256, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let rsa = TestKey::new(Rs256, "k");
    assert_eq!(fitting(&key(rsa.jwk.clone())), [Rs256]);
    assert_eq!(fitting(&key(rsa.jwk_with(&json!({"alg": null})))), [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512]);
    assert_eq!(fitting(&key(TestKey::es256("k").jwk_with(&json!({"alg": null})))), [Es256]);
    let signature = rsa.sign(b"message");
    assert!(!key(rsa.jwk_with(&json!({"alg": "RS384"}))).verify(Rs256, b"message", &signature));
    check_skipped(rsa.jwk_with(&json!({"alg": "ES256"})), JwkError::Algorithm);
    check_skipped(rsa.jwk_with(&json!({"alg": "RSA-OAEP"})), JwkError::Algorithm);
    check_skipped(rsa.jwk_with(&json!({"alg": "rs256"})), JwkError::Algorithm);
    check_skipped(TestKey::new(Algorithm::Es384, "k").jwk_with(&json!({"alg": "ES256"})), JwkError::Algorithm);
}

#[test]
fn only_public_keys_for_signatures_are_taken() {
    let signer = TestKey::es256("k");
    for good in [
        json!({"use": null}),
        json!({"kid": null}),
        json!({"key_ops": ["verify"]}),
        json!({"key_ops": ["sign", "verify"]}),
        json!({"x5c": ["nonsense"], "x5u": "http://evil.test", "new": {"a": [1]}}),
    ] {
        assert_eq!(fitting(&key(signer.jwk_with(&good))), [Algorithm::Es256], "{good}");
    }
    check_skipped(signer.jwk_with(&json!({"use": "enc"})), JwkError::NotForSignatures);
    check_skipped(signer.jwk_with(&json!({"key_ops": ["encrypt"]})), JwkError::NotForSignatures);
    check_skipped(signer.jwk_with(&json!({"key_ops": []})), JwkError::NotForSignatures);
    check_skipped(signer.jwk_with(&json!({"d": "AA"})), JwkError::Private);
    check_skipped(signer.jwk_with(&json!({"kid": "k".repeat(513)})), JwkError::Kid);
    check_skipped(json!({"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}), JwkError::Type);
    check_skipped(json!({"kty": "AKP", "kid": "k", "alg": "ML-DSA-44", "pub": "AA"}), JwkError::Type);
    for malformed in
        [json!({"kid": 7}), json!({"kty": null}), json!({"kty": 5}), json!({"key_ops": "verify"}), json!({"x": 1})]
    {
        check_skipped(signer.jwk_with(&malformed), JwkError::Malformed);
    }
    for malformed in [json!(null), json!(1), json!("key"), json!([]), json!({})] {
        check_skipped(malformed, JwkError::Malformed);
    }
}

#[test]
fn weak_or_broken_rsa_keys_are_skipped() {
    let rsa = TestKey::new(Algorithm::Rs256, "k");
    let n = |bytes: usize, first: u8, last: u8| {
        let mut n = vec![0x55; bytes];
        (n[0], n[bytes - 1]) = (first, last);
        json!({"n": b64(&n)})
    };
    for good in [n(256, 0x80, 1), n(1024, 0xff, 1), json!({"e": b64(&[3])}), json!({"e": b64(&[0, 1, 0, 1])})] {
        assert!(key(rsa.jwk_with(&good)).fits(Algorithm::Rs256), "{good}");
    }
    // 1024 bits; 2047 bits; 2048 bits with zeros before them; 8193 bits; an even one; none.
    let zeros = json!({"n": b64(&[&[0; 128][..], &[0xff; 128]].concat())});
    for bad in [n(128, 0x80, 1), n(256, 0x7f, 1), zeros, n(1025, 1, 1), n(256, 0x80, 2), json!({"n": ""})] {
        check_skipped(rsa.jwk_with(&bad), JwkError::Modulus);
    }
    for bad in [&[1][..], &[], &[0], &[1, 0, 0], &[0xff; 5], &[0, 0, 1]] {
        check_skipped(rsa.jwk_with(&json!({"e": b64(bad)})), JwkError::Exponent);
    }
    check_skipped(rsa.jwk_with(&json!({"n": null})), JwkError::Malformed);
    check_skipped(rsa.jwk_with(&json!({"n": "***"})), JwkError::Encoding);
    check_skipped(rsa.jwk_with(&json!({"e": "AQAB="})), JwkError::Encoding);
}

#[test]
fn points_that_are_none_are_skipped() {
    let (ec, ed) = (TestKey::es256("k"), TestKey::new(Algorithm::EdDsa, "k"));
    check_skipped(ec.jwk_with(&json!({"y": b64(&[5; 32])})), JwkError::Point);
    check_skipped(ec.jwk_with(&json!({"x": b64(&[0; 32]), "y": b64(&[0; 32])})), JwkError::Point);
    check_skipped(ec.jwk_with(&json!({"y": b64(&[5; 31])})), JwkError::Encoding);
    check_skipped(ec.jwk_with(&json!({"crv": "P-384", "alg": null})), JwkError::Encoding);
    check_skipped(ec.jwk_with(&json!({"y": null})), JwkError::Malformed);
    check_skipped(ec.jwk_with(&json!({"crv": "secp256k1"})), JwkError::Type);
    check_skipped(ec.jwk_with(&json!({"crv": null})), JwkError::Type);
    check_skipped(ed.jwk_with(&json!({"crv": "Ed448"})), JwkError::Type);
    check_skipped(ed.jwk_with(&json!({"crv": "X25519"})), JwkError::Type);
    check_skipped(ed.jwk_with(&json!({"x": b64(&[1; 31])})), JwkError::Encoding);
    check_skipped(ed.jwk_with(&json!({"x": b64(&[1; 44])})), JwkError::Encoding);
}

#[test]
fn ed25519_keys_that_anybody_can_sign_for_are_skipped() {
    let ed = TestKey::new(Algorithm::EdDsa, "k");
    let order_8 = [
        "Juiuj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU",
        "JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU",
        "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA3o",
        "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA_o",
    ];
    // The first is a neighbour of the second, not of small order: the list is exact.
    assert!(parse_jwks(&jwks(&[ed.jwk_with(&json!({"x": order_8[0]}))])).is_ok_and(|set| set.keys.len() == 1));
    for x in &order_8[1..] {
        check_skipped(ed.jwk_with(&json!({"x": x})), JwkError::Point);
    }
    let small = |first: u8, rest: u8, last: u8| b64(&[&[first][..], &[rest; 30], &[last]].concat());
    for x in [small(0, 0, 0), small(1, 0, 0), small(1, 0, 0x80), small(0xec, 0xff, 0x7f), small(0xee, 0xff, 0xff)] {
        check_skipped(ed.jwk_with(&json!({"x": x})), JwkError::Point);
    }
}

#[test]
fn bad_entries_are_skipped_and_the_others_used() {
    let (good, enc) = (TestKey::es256("good"), TestKey::new(Algorithm::Rs256, "enc"));
    let set = parse_jwks(&jwks(&[
        enc.jwk_with(&json!({"use": "enc", "alg": "RSA-OAEP"})),
        json!({"kty": 5, "kid": 7}),
        good.jwk.clone(),
        good.jwk.clone(),
    ]))
    .unwrap();
    assert_eq!(set.keys.iter().map(VerifyingKey::kid).collect::<Vec<_>>(), [Some("good")]);
    assert_eq!(set.skipped, [JwkError::NotForSignatures, JwkError::Malformed, JwkError::Twice]);
}

#[test]
fn keys_of_one_kid_are_each_tried_up_to_a_limit() {
    let keys: Vec<_> = (0..6).map(|_| TestKey::es256("dup")).collect();
    let ed = TestKey::new(Algorithm::EdDsa, "dup");
    let mut published: Vec<_> = keys.iter().map(|key| key.jwk.clone()).collect();
    published.insert(1, ed.jwk.clone());
    let set = parse_jwks(&jwks(&published)).unwrap();
    let [found] = set.keys.as_slice() else { panic!("{:?}", set.keys) };
    assert_eq!(fitting(found), [Algorithm::Es256, Algorithm::EdDsa]);
    let verified: Vec<_> = keys.iter().map(|key| found.verify(Algorithm::Es256, b"m", &key.sign(b"m"))).collect();
    assert_eq!(verified, [true, true, true, false, false, false]);
    assert!(found.verify(Algorithm::EdDsa, b"m", &ed.sign(b"m")));
    assert_eq!(set.skipped, [JwkError::TooManyOfOneKid; 3]);
}

#[test]
fn a_set_that_is_none_or_too_large_is_refused() {
    let key = TestKey::es256("k").jwk;
    for none in
        ["", "[]", "{}", "null", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[]} x"#, "<html>", "\u{feff}{}"]
    {
        assert!(matches!(parse_jwks(none.as_bytes()), Err(JwksError::NotASet { .. })), "{none}");
    }
    assert!(matches!(parse_jwks(br#"{"keys":[]}"#), Err(JwksError::NoUsableKey { first: None })));
    assert!(parse_jwks(&jwks(&vec![key.clone(); MAX_ENTRIES])).is_ok());
    let error = parse_jwks(&jwks(&vec![key; MAX_ENTRIES + 1])).unwrap_err();
    assert_eq!(error.to_string(), "it holds 101 keys; at most 100 are taken");
    assert!(parse_jwks(&[b'['; 100_000]).is_err());
}

/// JSON that looks like a JWK often enough to get past the first checks.
fn any_jwk() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["kty", "kid", "use", "key_ops", "alg", "crv", "n", "e", "x", "y", "d", "x5c"]);
    let word =
        prop::sample::select(vec!["RSA", "EC", "OKP", "sig", "ES256", "RS256", "EdDSA", "P-256", "Ed25519", "AQAB"]);
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| json!(b64(&bytes)));
    let coordinate = prop::collection::vec(any::<u8>(), 32..33).prop_map(|bytes| json!(b64(&bytes)));
    let leaf = prop_oneof![
        word.prop_map(Value::from),
        bytes,
        coordinate,
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!(["verify"])),
    ];
    let members = prop::collection::hash_map(name, leaf, 0..10);
    members.prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A key of a shape that passes, with bytes that may be anything.
fn shaped_jwk() -> impl Strategy<Value = Value> {
    let bytes = |length: usize| prop::collection::vec(any::<u8>(), length).prop_map(|bytes| b64(&bytes));
    prop_oneof![
        (bytes(256), bytes(3)).prop_map(|(n, e)| json!({"kty": "RSA", "n": n, "e": e})),
        (bytes(32), bytes(32)).prop_map(|(x, y)| json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})),
        (bytes(66), bytes(66)).prop_map(|(x, y)| json!({"kty": "EC", "crv": "P-521", "x": x, "y": y})),
        bytes(32).prop_map(|x| json!({"kty": "OKP", "crv": "Ed25519", "x": x})),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = parse_jwks(&text);
    }

    #[test]
    fn no_jwk_makes_the_parser_or_its_keys_panic(entries in prop::collection::vec(prop_oneof![any_jwk(), shaped_jwk()], 0..4)) {
        let published = entries.len();
        if let Ok(set) = parse_jwks(&jwks(&entries)) {
            for key in &set.keys {
                for algorithm in Algorithm::ALL {
                    prop_assert!(!key.verify(algorithm, b"message", &[7; 64]));
                }
            }
            prop_assert!(!set.keys.is_empty() && set.keys.len() + set.skipped.len() <= published);
        }
    }
}
