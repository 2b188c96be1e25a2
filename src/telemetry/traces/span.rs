//! One span as OTLP has it (`opentelemetry/proto/trace/v1/trace.proto`), and what its sender says of itself.

use super::proto::{bytes, fixed32, fixed64, head, message, number};

/// What a span is about.
#[derive(Debug)]
pub struct Span<'a> {
    /// The trace that it is part of.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The span that caused it.
    pub parent: Option<Parent>,
    /// Whose side it tells of.
    pub side: Side,
    /// One of few texts.
    pub name: &'a str,
    /// In nanoseconds since 1970.
    pub start_ns: u64,
    /// Likewise.
    pub end_ns: u64,
    /// Attributes that are texts; those without a value are left out.
    pub texts: &'a [(&'static str, Option<&'a str>)],
    /// Attributes that are numbers.
    pub numbers: &'a [(&'static str, Option<u64>)],
    /// Whether it failed.
    pub is_error: bool,
}

/// The span that caused another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub span_id: [u8; 8],
    /// Whether it is another process's.
    pub is_remote: bool,
}

/// Whose side of a call a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Of who was called: `SPAN_KIND_SERVER`.
    Server = 2,
    /// Of who called: `SPAN_KIND_CLIENT`.
    Client = 3,
}

/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`.
const HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const IS_REMOTE: u32 = 0x200;

impl Span<'_> {
    /// Appends it, as a member of `ScopeSpans`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        message(out, 2, |out| {
            bytes(out, 1, &self.trace_id);
            bytes(out, 2, &self.span_id);
            if let Some(parent) = &self.parent {
                bytes(out, 4, &parent.span_id);
            }
            bytes(out, 5, self.name.as_bytes());
            number(out, 6, self.side as u64);
            fixed64(out, 7, self.start_ns);
            fixed64(out, 8, self.end_ns);
            for (key, value) in self.texts {
                value.iter().for_each(|value| text_attribute(out, 9, key, value));
            }
            for (key, value) in self.numbers {
                value.iter().for_each(|value| attribute(out, 9, key, |out| number(out, 3, *value)));
            }
            if self.is_error {
                message(out, 15, |out| number(out, 3, ERROR));
            }
            let is_remote = self.parent.is_some_and(|parent| parent.is_remote);
            // What is exported is sampled.
            fixed32(out, 16, 1 | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 });
        });
    }
}

fn attribute(out: &mut Vec<u8>, field: u32, key: &str, write_value: impl FnOnce(&mut Vec<u8>)) {
    message(out, field, |out| {
        bytes(out, 1, key.as_bytes());
        message(out, 2, write_value);
    });
}

fn text_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    attribute(out, field, key, |out| bytes(out, 1, value.as_bytes()));
}

/// Who exports: a `Resource` and an `InstrumentationScope`.
#[derive(Debug)]
pub(super) struct Origin {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Origin {
    /// `service` and `instance` are `service.name` and `service.instance.id`.
    pub(super) fn new(service: &str, instance: &str) -> Self {
        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        let version = env!("CARGO_PKG_VERSION");
        message(&mut resource, 1, |out| {
            let all = [("service.name", service), ("service.version", version), ("service.instance.id", instance)];
            all.into_iter().for_each(|(key, value)| text_attribute(out, 1, key, value));
        });
        message(&mut scope, 1, |out| {
            bytes(out, 1, b"postern");
            bytes(out, 2, version.as_bytes());
        });
        Self { resource, scope }
    }

    /// An `ExportTraceServiceRequest` with these spans, as [`Span::write`] leaves them.
    pub(super) fn request(&self, spans: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.resource.len() + self.scope.len() + spans.len() + 32);
        message(&mut request, 1, |out| {
            out.extend_from_slice(&self.resource);
            head(out, 2, self.scope.len() + spans.len());
            out.extend_from_slice(&self.scope);
            out.extend_from_slice(spans);
        });
        request
    }
}
