//! A collector of spans: takes OTLP over HTTP, and reads it as `opentelemetry/proto/trace/v1/trace.proto` says, with no code of Postern's.

use super::{Seen, Upstream};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

/// A collector on a real socket.
pub(crate) struct Collector {
    server: Upstream,
    spans: Arc<Mutex<Vec<TakenSpan>>>,
}

/// A span, and the `service.name` of who sent it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TakenSpan {
    pub(crate) service: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    /// Empty for a root.
    pub(crate) parent: String,
    pub(crate) name: String,
    /// 2 is a server's, 3 a client's.
    pub(crate) kind: u64,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// 2 is an error.
    pub(crate) status: u64,
}

impl Collector {
    /// One that takes everything.
    pub(crate) fn start() -> Self {
        Self::answering(&[])
    }

    /// One that answers so first, and then takes everything.
    pub(crate) fn answering(statuses: &[u16]) -> Self {
        let spans = Arc::<Mutex<Vec<TakenSpan>>>::default();
        let (taken, statuses) = (Arc::clone(&spans), Arc::new(Mutex::new(VecDeque::from(statuses.to_vec()))));
        let server = Upstream::serving(move |mut peer| {
            while let Some(request) = peer.read() {
                let status = statuses.lock().unwrap().pop_front().unwrap_or(200);
                if status == 200 {
                    taken.lock().unwrap().extend(read_request(&request.body));
                }
                peer.send(format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n"));
            }
        });
        Self { server, spans }
    }

    /// The line of `[log]` that has spans sent here.
    pub(crate) fn traces(&self, more: &str) -> String {
        format!("access = 'off'\ntraces = {{ to = 'http://{}/v1/traces', {more} }}", self.server.addr())
    }

    /// What was taken so far.
    pub(crate) fn spans(&self) -> Vec<TakenSpan> {
        self.spans.lock().unwrap().clone()
    }

    /// How many requests came, taken or not.
    pub(crate) fn requests(&self) -> usize {
        self.server.requests()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        self.server.last()
    }
}

impl TakenSpan {
    /// An attribute, or nothing.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(self) -> u64 {
        let Self::Number(number) = self else { panic!("no number") };
        number
    }

    fn bytes(self) -> &'a [u8] {
        let Self::Bytes(bytes) = self else { panic!("no bytes") };
        bytes
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(self) -> String {
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a varint ends");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint has ten bytes at most")
}

/// The fields of a message with their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                Field::Bytes(take(&mut bytes, length))
            }
            5 => Field::Number(u64::from(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap()))),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn all(message: &[u8], number: u64) -> Vec<Field<'_>> {
    fields(message).into_iter().filter(|(field, _)| *field == number).map(|(_, field)| field).collect()
}

/// The spans of an `ExportTraceServiceRequest`.
fn read_request(body: &[u8]) -> Vec<TakenSpan> {
    let mut spans = Vec::new();
    for of_resource in all(body, 1) {
        let resource = all(of_resource.bytes(), 1)[0];
        let about: BTreeMap<_, _> = all(resource.bytes(), 1).into_iter().map(attribute).collect();
        assert!(about.contains_key("service.version") && about["service.instance.id"].len() == 16, "{about:?}");
        for of_scope in all(of_resource.bytes(), 2) {
            assert_eq!(all(all(of_scope.bytes(), 1)[0].bytes(), 1)[0].text(), "postern");
            for span in all(of_scope.bytes(), 2) {
                spans.push(TakenSpan { service: about["service.name"].clone(), ..read_span(span.bytes()) });
            }
        }
    }
    spans
}

fn read_span(message: &[u8]) -> TakenSpan {
    let mut span = TakenSpan::default();
    for (number, field) in fields(message) {
        match number {
            1 => span.trace_id = field.hex(),
            2 => span.span_id = field.hex(),
            4 => span.parent = field.hex(),
            5 => span.name = field.text(),
            6 => span.kind = field.number(),
            7 => span.start_ns = field.number(),
            8 => span.end_ns = field.number(),
            9 => span.attributes.extend([attribute(field)]),
            15 => span.status = all(field.bytes(), 3)[0].number(),
            16 => assert_eq!(field.number() & 0x101, 0x101, "sampled, and it is said whether the parent is remote"),
            other => panic!("field {other} of a span"),
        }
    }
    assert!(span.trace_id.len() == 32 && span.span_id.len() == 16 && span.end_ns >= span.start_ns, "{span:?}");
    span
}

/// A `KeyValue`, its number or text as text.
fn attribute(field: Field<'_>) -> (String, String) {
    let key = all(field.bytes(), 1)[0].text();
    let value = all(field.bytes(), 2)[0];
    let (kind, value) = fields(value.bytes())[0];
    (key, if kind == 3 { value.number().to_string() } else { value.text() })
}
