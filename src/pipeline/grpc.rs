//! What is particular to gRPC (its protocol over HTTP/2): refusals in its own shape, and the deadline that a call brings along.

use super::record::Record;
use super::{Stage, Stripped};
use crate::base::tick::Deadline;
use crate::telemetry::reason::Reason;
use crate::upstream::{Body, CallDeadline, Cut, is_grpc, tell_grpc};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a call may take.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The most that a deadline can say: eight digits.
const MOST: u128 = 99_999_999;

/// The units of a deadline, the finest first, and their nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// A call that says how long it may take.
#[derive(Debug)]
pub(super) struct Call {
    deadline: Deadline,
    /// Ends its request.
    pub(super) cut: Rc<Cut>,
}

impl Call {
    /// The call of a `POST` over HTTP/2, if it is one that says how long it may take. What is left of that is what its upstream is
    /// told: `elapsed_us` have passed since the request came.
    ///
    /// # Errors
    /// Nothing is left, or what is said is no time.
    pub(super) fn begin(
        stripped: &mut Stripped,
        elapsed_us: impl FnOnce() -> u64,
    ) -> Result<Option<Box<Self>>, Reason> {
        let fields = &mut stripped.fields;
        if !fields.iter().any(|(name, value)| *name == CONTENT_TYPE && is_grpc(value)) {
            return Ok(None);
        }
        let mut said = fields.iter_mut().filter(|(name, _)| *name == GRPC_TIMEOUT).map(|(_, value)| value);
        let Some(value) = said.next() else { return Ok(None) };
        if said.next().is_some() {
            return Err(Reason::MalformedRequest);
        }
        let timeout = parse(value.as_bytes()).ok_or(Reason::MalformedRequest)?;
        let left = timeout.saturating_sub(Duration::from_micros(elapsed_us()));
        *value = text(left).ok_or(Reason::UpstreamTimeout)?;
        Ok(Some(Box::new(Self { deadline: Deadline::after(left), cut: Rc::default() })))
    }

    /// Ready when its time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll(cx)
    }

    /// The same, for the rest of its answer; `cut` ends what is still sent.
    pub(super) fn rest(self, cut: Rc<Cut>) -> CallDeadline {
        CallDeadline { at: self.deadline, cut }
    }
}

/// A positive number of at most eight digits, and a unit. Zero, which some clients send, is a time that is over.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, nanos) = UNITS.iter().find(|(known, _)| known == unit)?;
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Duration::from_nanos_u128(u128::from(number) * nanos))
}

/// A time in the finest unit that has room for it, never more than it is. None of no time.
fn text(time: Duration) -> Option<HeaderValue> {
    let nanos = time.as_nanos();
    let (unit, size) = UNITS.iter().find(|(_, size)| nanos / size <= MOST)?;
    let number = nanos / size;
    if number == 0 {
        return None;
    }
    HeaderValue::try_from(format!("{number}{}", char::from(*unit))).ok()
}

/// Whether a request that is refused is a call, and so is to be answered as one. Its fields are where they were when it was refused.
pub(super) fn is_call(record: &Record) -> bool {
    let is_it = |value: &HeaderValue| is_grpc(value);
    let fields = &record.stripped.fields;
    record.request.version == Version::HTTP_2
        && (fields.iter().any(|(name, value)| *name == CONTENT_TYPE && is_it(value))
            || (record.context.stage == Stage::Strip && record.request.headers.get(CONTENT_TYPE).is_some_and(is_it)))
}

/// A refusal as a call is answered: a head that is all of it. What `refusal` says in HTTP's terms stays where it says more.
pub(super) fn refused(reason: Reason, refusal: Response<Body>) -> Response<Body> {
    let mut response = refusal.map(|_| Body::Empty);
    *response.status_mut() = StatusCode::OK;
    let fields: &mut HeaderMap = response.headers_mut();
    fields.remove(ALLOW);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    tell_grpc(fields, reason);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(name: HeaderName, value: &str) -> (HeaderName, HeaderValue) {
        (name, HeaderValue::from_str(value).unwrap())
    }

    /// What the upstream of a call is told that says these, after `elapsed_us`.
    fn told(content_type: &str, said: &[&str], elapsed_us: u64) -> Result<Option<String>, Reason> {
        let mut stripped = Stripped { fields: vec![field(CONTENT_TYPE, content_type)], ..Stripped::default() };
        stripped.fields.extend(said.iter().map(|said| field(GRPC_TIMEOUT, said)));
        let call = Call::begin(&mut stripped, || elapsed_us)?;
        let value = stripped.fields.iter().find(|(name, _)| *name == GRPC_TIMEOUT);
        Ok(call.and(value).map(|(_, value)| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn what_is_left_of_a_deadline_is_told_in_the_finest_unit() {
        let left = |said: &str, elapsed_us| told("application/grpc", &[said], elapsed_us).unwrap().unwrap();
        assert_eq!(left("1S", 0), "1000000u");
        assert_eq!(left("15S", 1_000), "14999000u");
        assert_eq!([left("100m", 1), left("100m", 0)], ["99999000n", "100000u"]);
        assert_eq!(left("50u", 0), "50000n");
        assert_eq!(left("99999999H", 1), "99999998H");
        assert_eq!(left("2H", 0), "7200000m");
        assert_eq!(left("007S", 0), "7000000u");
    }

    #[test]
    fn a_deadline_that_has_passed_is_no_malformed_one() {
        for (said, elapsed_us) in [("0S", 0), ("00000000n", 0), ("10m", 10_000), ("10m", 20_000)] {
            assert_eq!(told("application/grpc", &[said], elapsed_us), Err(Reason::UpstreamTimeout), "{said}");
        }
        for said in ["", "S", "1", "1s", "1 S", "+1S", "-1S", "1.5S", "123456789n", "1SS", " 1S", "0x1S"] {
            assert_eq!(told("application/grpc", &[said], 0), Err(Reason::MalformedRequest), "{said}");
        }
        assert_eq!(told("application/grpc", &["1S", "1S"], 0), Err(Reason::MalformedRequest));
    }

    #[test]
    fn what_is_no_call_may_say_what_it_likes() {
        assert_eq!(told("application/json", &["soon"], 0), Ok(None));
        assert_eq!(told("application/grpc+proto", &[], 0), Ok(None));
    }

    proptest! {
        #[test]
        fn a_deadline_never_grows_on_its_way(number in 1..=99_999_999_u32, unit in 0..6_usize, elapsed_us in 0..1_u64 << 40) {
            let said = format!("{number}{}", char::from(UNITS[unit].0));
            let whole = parse(said.as_bytes()).unwrap();
            let left = whole.saturating_sub(Duration::from_micros(elapsed_us));
            match told("application/grpc", &[&said], elapsed_us) {
                Err(reason) => prop_assert!(reason == Reason::UpstreamTimeout && left.is_zero()),
                Ok(told) => {
                    let told = parse(told.unwrap().as_bytes()).unwrap();
                    // A hundred-thousandth at most is lost by rounding, or what the next coarser unit is.
                    prop_assert!(told <= left && left - told <= left / 1_000, "{told:?} of {left:?}");
                }
            }
        }
    }
}
