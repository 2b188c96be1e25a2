//! Which requests are sampled, and what `traceparent` says of that (W3C Trace Context §3.2).

use http::HeaderValue;

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The bit of the flags that has everybody on the way record their part.
const SAMPLED: u8 = 1;

/// A `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// `trace-id`.
    pub trace_id: [u8; 16],
    /// `parent-id`: the span that the request was sent by.
    pub span_id: [u8; 8],
    /// `trace-flags`.
    pub flags: u8,
}

impl TraceParent {
    /// Reads one of version 00 in lower case; `None` for anything else.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        if bytes.len() != LENGTH || !bytes.starts_with(b"00-") {
            return None;
        }
        let [flags] = unhex(&bytes[53..])?;
        Some(Self { trace_id: unhex(&bytes[3..35])?, span_id: unhex(&bytes[36..52])?, flags })
    }

    /// Whether its sender records its part.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// What a request is sent on with that is sampled.
    pub fn of_child(&self, span_id: [u8; 8]) -> HeaderValue {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = format!("00-{}-{}-{:02x}", hex(&self.trace_id), hex(&span_id), self.flags | SAMPLED);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The part of new traces that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Of what the last eight bytes of a trace's id can be, so many are sampled.
    below: u128,
}

impl Share {
    /// So many of a million.
    pub fn of_a_million(parts: u32) -> Self {
        Self { below: (u128::from(parts) << 64) / 1_000_000 }
    }

    /// Whether a new trace of this id is sampled: the same everywhere where the share is the same.
    pub fn takes(self, trace_id: &[u8; 16]) -> bool {
        // They are random, at least in ids that Postern makes.
        let random = u128::from_be_bytes(*trace_id) & u128::from(u64::MAX);
        random < self.below
    }
}

/// An id that no other span has.
pub fn new_span_id() -> [u8; 8] {
    let mut id = [0; 8];
    // Without random bytes there would be no TLS either.
    let _ = aws_lc_rs::rand::fill(&mut id);
    // One of zeros is invalid.
    id[7] |= u8::from(id == [0; 8]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_and_written() {
        let parent = TraceParent::parse(&HeaderValue::from_static(TEXT)).unwrap();
        assert!(parent.is_sampled());
        assert_eq!((parent.trace_id[0], parent.trace_id[15], parent.span_id[1]), (0x4b, 0x36, 0xf0));
        assert_eq!(parent.of_child(parent.span_id), TEXT);
        let unsampled = TraceParent::parse(&HeaderValue::from_str(&TEXT.replace("-01", "-00")).unwrap()).unwrap();
        assert!(!unsampled.is_sampled());
        assert!(unsampled.of_child([1; 8]).to_str().unwrap().ends_with("-0101010101010101-01"));
        for text in ["", "00-x", &TEXT[..54], &TEXT.replace("4bf9", "zbf9"), &TEXT.replace("00-4b", "01-4b")] {
            assert_eq!(TraceParent::parse(&HeaderValue::from_str(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn as_many_traces_are_sampled_as_the_share_says() {
        let ids = || {
            (0..20_000_u64).map(|_| {
                let random = new_span_id();
                let mut id = [0xff; 16];
                id[8..].copy_from_slice(&random);
                id
            })
        };
        let sampled = |parts| ids().filter(|id| Share::of_a_million(parts).takes(id)).count();
        assert_eq!((sampled(0), sampled(1_000_000)), (0, 20_000));
        // The mean is 2,000, and its standard deviation 42.
        assert!((1_700..2_300).contains(&sampled(100_000)));
        assert!(Share::of_a_million(1_000_000).takes(&[0xff; 16]) && !Share::of_a_million(999_999).takes(&[0xff; 16]));
    }
}
