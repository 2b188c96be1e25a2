//! A minted token held against what Postern publishes, by code that shares nothing with the gateway's own.

use crate::dev::http_client::{self, get};
use crate::dev::keys::{self, Claims};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;
use std::net::SocketAddr;

/// Follows discovery at `issuer` to the key set and checks the token's ES256 signature; says why not otherwise.
pub(super) async fn verify(gateway: SocketAddr, issuer: &str, token: &str) -> Result<Claims, String> {
    let document = fetch(gateway, "/.well-known/openid-configuration").await?;
    if document["issuer"] != issuer {
        return Err(format!("a discovery document of {}", document["issuer"]));
    }
    let jwks_uri = document["jwks_uri"].as_str().ok_or("a discovery document without `jwks_uri`")?;
    let path = jwks_uri.strip_prefix(issuer).ok_or_else(|| format!("keys elsewhere, at {jwks_uri}"))?;
    let set = fetch(gateway, path).await?;

    let (header, claims) = keys::decode(token).ok_or("no token")?;
    if header.get("alg").is_none_or(|alg| alg != "ES256") {
        return Err("another algorithm than ES256".to_owned());
    }
    let entries = set["keys"].as_array().ok_or("a key set without keys")?;
    let key = entries.iter().find(|key| Some(&key["kid"]) == header.get("kid")).ok_or("a `kid` not in the key set")?;
    is_signed(key, token).ok_or("a wrong signature")?;
    Ok(claims)
}

async fn fetch(gateway: SocketAddr, path: &str) -> Result<Value, String> {
    let answer = http_client::send(gateway, get(path)).await.map_err(|error| error.to_string())?;
    if answer.status.is_success() { Ok(answer.json()) } else { Err(format!("{} at {path}", answer.status.as_str())) }
}

/// RFC 7518 §3.4: the signature is r and s, the key's point x and y, 32 bytes each.
fn is_signed(key: &Value, token: &str) -> Option<()> {
    let (input, signature) = token.rsplit_once('.')?;
    let part = |name: &str| BASE64URL.decode(key[name].as_str()?).ok();
    let point = [vec![4], part("x")?, part("y")?].concat();
    let signature = BASE64URL.decode(signature).ok()?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(input.as_bytes(), &signature).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Algorithm;
    use crate::dev::SigningKey;

    #[test]
    fn a_signature_is_checked_with_the_published_key() {
        let [key, other] = [(); 2].map(|()| SigningKey::generate(Algorithm::Es256).unwrap());
        let token = key.compact(b"{}", br#"{"sub":"alice"}"#).unwrap();
        assert!(is_signed(key.jwk(), &token).is_some());
        assert!(is_signed(other.jwk(), &token).is_none());
        assert!(is_signed(key.jwk(), &token.replacen("e30.", "e31.", 1)).is_none());
        assert!(is_signed(&Value::Null, &token).is_none());
    }
}
