//! One JSON line a request. No tokens, no query: both hold secrets too often.
//!
//! A worker fills a buffer of its own and hands it, full or twice a second, to a thread that writes; a request never waits for
//! a disk. Lines that the writer cannot keep up with are dropped and counted.

use super::reason::Reason;
use crate::config;
use prometheus_client::metrics::counter::Counter;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// A buffer of this size goes to the writer without waiting for the next flush.
const FULL: usize = 128 * 1024;

/// Buffers that may wait for the writer.
const QUEUE: usize = 64;

/// What a line says.
#[derive(Debug)]
#[allow(missing_docs)] // The fields are the line's members.
pub struct Line<'a> {
    pub unix_ms: u64,
    pub request_id: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub status: u16,
    pub reason: Option<Reason>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub issuer: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub duration_us: u64,
    /// Until the head of the upstream's answer.
    pub upstream_us: Option<u64>,
    pub bytes_sent: u64,
    /// False if the answer was cut off.
    pub complete: bool,
    /// Why Postern cut it off.
    pub ended: Option<Reason>,
}

/// Where the lines of one worker go.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<SyncSender<Message>>,
    dropped: Counter,
    buffer: RefCell<String>,
}

enum Message {
    Lines(String),
    Reopen,
}

/// The thread that writes. It ends when the last [`AccessLog`] and the writer itself are gone.
#[derive(Debug)]
pub struct Writer {
    messages: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the place and starts the thread; with [`config::LogPlace::Off`] neither.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(place: &config::LogPlace) -> io::Result<Self> {
        let (file, path) = match place {
            config::LogPlace::Off => return Ok(Self { messages: None, thread: None }),
            config::LogPlace::Stdout => (None, None),
            config::LogPlace::File(path) => (Some(open(path)?), Some(path.clone())),
        };
        let (messages, inbox) = sync_channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&inbox, file, path))?;
        Ok(Self { messages: Some(messages), thread: Some(thread) })
    }

    /// A log for one worker; lines that cannot be written are counted in `dropped`.
    pub fn log(&self, dropped: Counter) -> AccessLog {
        AccessLog { writer: self.messages.clone(), dropped, buffer: RefCell::default() }
    }

    /// Opens the file again, after it was moved away.
    pub fn reopen(&self) {
        if let Some(messages) = &self.messages {
            // A full queue means that the disk is slow; the next signal tries again.
            let _ = messages.try_send(Message::Reopen);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn open(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn write_all(inbox: &Receiver<Message>, mut file: Option<File>, path: Option<PathBuf>) {
    for message in inbox {
        let outcome = match message {
            Message::Lines(lines) => match &mut file {
                Some(file) => file.write_all(lines.as_bytes()),
                None => io::stdout().write_all(lines.as_bytes()),
            },
            Message::Reopen => match path.as_ref().map(open) {
                Some(Ok(opened)) => {
                    file = Some(opened);
                    Ok(())
                }
                Some(Err(error)) => Err(error),
                None => Ok(()),
            },
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "access log cannot be written");
        }
    }
}

impl AccessLog {
    /// Whether lines go anywhere.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Adds a line.
    pub fn add(&self, line: &Line<'_>) {
        if !self.is_on() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        line.write(&mut buffer);
        if buffer.len() >= FULL {
            self.send(&mut buffer);
        }
    }

    /// Hands over what there is. Called twice a second, and at the end.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.send(&mut buffer);
        }
    }

    fn send(&self, buffer: &mut String) {
        let lines = std::mem::replace(buffer, String::with_capacity(FULL + 1024));
        let Some(writer) = &self.writer else { return };
        if let Err(TrySendError::Full(Message::Lines(lines)) | TrySendError::Disconnected(Message::Lines(lines))) =
            writer.try_send(Message::Lines(lines))
        {
            self.dropped.inc_by(u64::try_from(lines.lines().count()).unwrap_or(0));
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Line<'_> {
    fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        write_time(out, self.unix_ms);
        out.push_str("\",\"request_id\":");
        write_text(out, self.request_id);
        out.push_str(",\"client\":\"");
        write_address(out, self.client);
        out.push_str("\",\"method\":");
        write_text(out, self.method);
        out.push_str(",\"host\":");
        write_text(out, self.host);
        out.push_str(",\"path\":");
        write_text(out, self.path);
        write_number(out, ",\"status\":", self.status);
        let optional = [
            (",\"reason\":", self.reason.map(Reason::code)),
            (",\"route\":", self.route),
            (",\"upstream\":", self.upstream),
            (",\"issuer\":", self.issuer),
            (",\"subject\":", self.subject),
            (",\"namespace\":", self.namespace),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                out.push_str(name);
                write_text(out, value);
            }
        }
        write_number(out, ",\"duration_us\":", self.duration_us);
        if let Some(us) = self.upstream_us {
            write_number(out, ",\"upstream_us\":", us);
        }
        write_number(out, ",\"bytes_sent\":", self.bytes_sent);
        if !self.complete {
            out.push_str(",\"complete\":false");
        }
        if let Some(reason) = self.ended {
            out.push_str(",\"ended\":");
            write_text(out, reason.code());
        }
        out.push_str("}\n");
    }
}

thread_local! {
    /// The second that was formatted last, and its text up to the dot.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

pub(super) fn write_time(out: &mut String, unix_ms: u64) {
    let second = unix_ms / 1000;
    SECOND.with_borrow_mut(|(last, text)| {
        if *last != second {
            *last = second;
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            *text = humantime::format_rfc3339_seconds(at).to_string();
            text.pop(); // Z
        }
        out.push_str(text);
    });
    // All three digits: a thousand and the rest, without its first.
    out.push('.');
    out.push_str(&itoa::Buffer::new().format(1000 + unix_ms % 1000)[1..]);
    out.push('Z');
}

fn write_number(out: &mut String, name: &str, number: impl itoa::Integer) {
    out.push_str(name);
    out.push_str(itoa::Buffer::new().format(number));
}

fn write_address(out: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a string does not fail.
        let _ = write!(out, "{address}");
        return;
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        write_number(out, if place == 0 { "" } else { "." }, octet);
    }
}

/// A JSON string (RFC 8259 §7).
pub(super) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    // Nearly all text is plain, and that is told faster without an early end: many bytes at once.
    if text.bytes().fold(false, |found, byte| found | is_escaped(byte)) {
        write_escaped(out, text);
    } else {
        out.push_str(text);
    }
    out.push('"');
}

fn write_escaped(out: &mut String, mut rest: &str) {
    while let Some(at) = rest.bytes().position(is_escaped) {
        out.push_str(&rest[..at]);
        let _ = match rest.as_bytes()[at] {
            b'"' => write!(out, "\\\""),
            b'\\' => write!(out, "\\\\"),
            control => write!(out, "\\u{control:04x}"),
        };
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> Line<'static> {
        Line {
            unix_ms: 1_800_000_000_007,
            request_id: "r-1",
            client: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host: "api.example",
            path: "/orders",
            status: 403,
            reason: Some(Reason::RoleMissing),
            route: Some("orders"),
            upstream: None,
            issuer: Some("main"),
            subject: Some("al\"ice\n\u{7f}Ж"),
            namespace: None,
            duration_us: 120,
            upstream_us: None,
            bytes_sent: 10,
            complete: true,
            ended: None,
        }
    }

    #[test]
    fn a_line_is_json_whatever_the_subject_is() {
        let mut out = String::new();
        line().write(&mut out);
        assert_eq!(out.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["time"], "2027-01-15T08:00:00.007Z");
        assert_eq!((&value["subject"], &value["reason"]), (&"al\"ice\n\u{7f}Ж".into(), &"role_missing".into()));
        assert!(value.get("upstream").is_none());
        assert_eq!((&value["client"], &value["status"]), (&"127.0.0.1".into(), &403.into()));
    }

    #[test]
    fn times_have_all_their_digits() {
        let times = [(7, "00:00:00.007Z"), (70, "00:00:00.070Z"), (59_999, "00:00:59.999Z"), (60_000, "00:01:00.000Z")];
        for (ms, text) in times {
            let mut out = String::new();
            write_time(&mut out, ms);
            assert_eq!(out, format!("1970-01-01T{text}"));
        }
    }

    #[test]
    fn lines_reach_the_file_and_go_on_after_it_was_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(&config::LogPlace::File(path.clone())).unwrap();
        let log = writer.log(Counter::default());
        log.add(&line());
        log.flush();
        std::fs::rename(&path, folder.path().join("old.log")).unwrap();
        writer.reopen();
        log.add(&line());
        drop(log);
        drop(writer);
        for name in ["old.log", "access.log"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), 1, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_address_is_written_as_it_writes_itself(address in any::<IpAddr>()) {
            let mut out = String::new();
            write_address(&mut out, address);
            prop_assert_eq!(out, address.to_string());
        }

        #[test]
        fn any_text_is_escaped(text in any::<String>()) {
            let mut out = String::new();
            write_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
            prop_assert!(!out.contains('\n'));
        }
    }
}
