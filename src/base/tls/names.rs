//! The names that stand in a certificate.

use rustls::pki_types::CertificateDer;

/// Names that a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Hosts among the subject's alternative names, in lower case; `*.` for one label at the front.
    pub dns: Vec<String>,
    /// URIs among them, as they stand there.
    pub uris: Vec<String>,
    /// The subject's common name, if it has exactly one.
    pub common_name: Option<String>,
}

impl Names {
    /// Reads them. A certificate that cannot be read has none.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Self::default() };
        Self {
            dns: certificate.valid_dns_names().map(str::to_ascii_lowercase).collect(),
            uris: certificate.valid_uri_names().map(str::to_owned).collect(),
            common_name: common_name(certificate.subject()),
        }
    }
}

/// `id-at-commonName`, 2.5.4.3 (RFC 5280 §4.1.2.4).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The one common name of a subject: a sequence of sets of pairs, its own head taken off. More than one, or one in another
/// alphabet, is none: readers would differ about it.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while !subject.is_empty() {
        let mut set = take(&mut subject, SET)?;
        while !set.is_empty() {
            let mut pair = take(&mut set, SEQUENCE)?;
            if take(&mut pair, OBJECT_IDENTIFIER)? != COMMON_NAME {
                continue;
            }
            let text = [UTF8_STRING, PRINTABLE_STRING, IA5_STRING].into_iter().find_map(|tag| take(&mut pair, tag))?;
            let text = std::str::from_utf8(text).ok().filter(|_| pair.is_empty())?;
            if found.replace(text.to_owned()).is_some() {
                return None;
            }
        }
    }
    found
}

/// What the element at the front holds, if it has this tag; it is taken away then (X.690 §8.1). Of DER only what subjects have:
/// lengths below 64 KiB.
fn take<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let whole = *from;
    let (length, rest) = match *whole.strip_prefix(&[tag])? {
        [length, ref rest @ ..] if length < 0x80 => (usize::from(length), rest),
        [0x81, length, ref rest @ ..] => (usize::from(length), rest),
        [0x82, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    fn names(params: CertificateParams) -> Names {
        let key = KeyPair::generate().unwrap();
        Names::of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn hosts_uris_and_the_common_name_are_read() {
        let mut params = CertificateParams::new(["Shop.example".to_owned(), "*.shop.example".to_owned()]).unwrap();
        let uri = SanType::URI("spiffe://example.com/Orders".try_into().unwrap());
        params.subject_alt_names.extend([uri, SanType::IpAddress([127, 0, 0, 1].into())]);
        params.distinguished_name.push(DnType::OrganizationName, "x".repeat(300));
        params.distinguished_name.push(DnType::CommonName, "orders");
        let expected = Names {
            dns: vec!["shop.example".into(), "*.shop.example".into()],
            uris: vec!["spiffe://example.com/Orders".into()],
            common_name: Some("orders".into()),
        };
        assert_eq!(names(params), expected);
        assert_eq!(Names::of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), Names::default());
    }

    #[test]
    fn a_common_name_that_readers_would_differ_about_is_none() {
        let named = |values: &[DnValue]| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for value in values {
                params.distinguished_name.push(DnType::CommonName, value.clone());
            }
            names(params).common_name
        };
        assert_eq!(named(&[DnValue::PrintableString("a".try_into().unwrap())]).as_deref(), Some("a"));
        assert_eq!(named(&[DnValue::BmpString("a".try_into().unwrap())]), None);
        assert_eq!(named(&[]), None);
        let one = [0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, b'a'];
        assert_eq!(common_name(&one).as_deref(), Some("a"));
        assert_eq!(common_name(&[one, one].concat()), None, "two of them");
    }

    proptest! {
        #[test]
        fn no_subject_makes_it_panic(subject: Vec<u8>) {
            let _ = common_name(&subject);
            let _ = Names::of(&CertificateDer::from(subject));
        }
    }
}
