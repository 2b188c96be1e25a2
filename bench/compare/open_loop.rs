//! An open loop over HTTP/1.1: requests fall due at a fixed rate, whether or not those before them were answered.
//!
//! `open_loop PORT PATH TOKENS CONNECTIONS RATE SECONDS` sends each due request with the next token of a file. Its time counts from
//! the moment it was due, not from when its connection was free: a proxy that stalls is charged for all who would have come
//! meanwhile. What a proxy has no room for at all is given up a second after SECONDS. The outcome is one line of JSON, times in
//! milliseconds.
//!
//! Built by `bench/run compare` with `rustc` alone, so it uses nothing but the standard library: a connection is a thread.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// After this an answer is given up, and with it the connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// So late, requests are still sent when no more fall due.
const GRACE: Duration = Duration::from_secs(1);

struct Plan {
    port: u16,
    /// In the order in which they are sent, from the first again after the last.
    requests: Vec<Vec<u8>>,
    connections: usize,
    rate: f64,
    seconds: f64,
}

#[derive(Default)]
struct Outcome {
    /// Of each request that was answered.
    microseconds: Vec<u64>,
    statuses: BTreeMap<u16, u64>,
    /// Requests whose connection ended or stayed silent.
    broken: u64,
}

fn main() {
    let plan = Plan::from_arguments().unwrap_or_else(|| {
        eprintln!("open_loop PORT PATH TOKENS CONNECTIONS RATE SECONDS");
        std::process::exit(2);
    });
    // A sleep may else end 50 microseconds late, which would be laid at the proxy's door. Threads inherit it.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let begun = Instant::now() + Duration::from_millis(100);
    let outcome = std::thread::scope(|scope| {
        let plan = &plan;
        let threads: Vec<_> =
            (0..plan.connections).map(|number| scope.spawn(move || plan.run(number, begun))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a connection's thread")).reduce(Outcome::and)
    });
    outcome.unwrap_or_default().print(begun.elapsed());
}

impl Plan {
    fn from_arguments() -> Option<Self> {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        let [port, path, tokens, connections, rate, seconds] = arguments.as_slice() else { return None };
        let request = |token: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n")
                .into_bytes()
        };
        Some(Self {
            port: port.parse().ok()?,
            requests: std::fs::read_to_string(tokens).ok()?.lines().map(request).collect(),
            connections: connections.parse().ok()?,
            rate: rate.parse().ok()?,
            seconds: seconds.parse().ok()?,
        })
    }

    /// Sends what falls to one connection: every `connections`-th request.
    fn run(&self, number: usize, begun: Instant) -> Outcome {
        let (mut outcome, mut connection) = (Outcome::default(), None);
        for place in (number..).step_by(self.connections) {
            let after = place as f64 / self.rate;
            if after >= self.seconds || begun.elapsed() > Duration::from_secs_f64(self.seconds) + GRACE {
                break;
            }
            let due = begun + Duration::from_secs_f64(after);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            match self.ask(&mut connection, &self.requests[place % self.requests.len()]) {
                Ok(status) => {
                    outcome.microseconds.push(due.elapsed().as_micros() as u64);
                    *outcome.statuses.entry(status).or_default() += 1;
                }
                Err(_) => {
                    connection = None;
                    outcome.broken += 1;
                }
            }
        }
        outcome
    }

    /// The status of the answer, read to its end. Leaves no connection where the proxy closes it.
    fn ask(&self, connection: &mut Option<TcpStream>, request: &[u8]) -> Result<u16> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(self.connect()?),
        };
        stream.write_all(request)?;
        let mut answer = Vec::with_capacity(2048);
        let mut part = [0; 8192];
        let (head, whole) = loop {
            match stream.read(&mut part)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => answer.extend_from_slice(&part[..length]),
            }
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = Head::read(&answer[..end]).ok_or(Error::from(ErrorKind::InvalidData))?;
                let whole = end + 4 + head.length;
                break (head, whole);
            }
        };
        let missing = whole.saturating_sub(answer.len()) as u64;
        if std::io::copy(&mut (&*stream).take(missing), &mut std::io::sink())? < missing {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if head.closes {
            *connection = None;
        }
        Ok(head.status)
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// What the head of an answer says.
struct Head {
    status: u16,
    /// Of the body.
    length: usize,
    closes: bool,
}

impl Head {
    fn read(head: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Self {
            status: head.split(' ').nth(1)?.parse().ok()?,
            length: field("content-length:")?.parse().ok()?,
            closes: field("connection:") == Some("close"),
        })
    }
}

impl Outcome {
    fn and(mut self, other: Self) -> Self {
        self.microseconds.extend(other.microseconds);
        self.broken += other.broken;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self
    }

    fn print(mut self, took: Duration) {
        self.microseconds.sort_unstable();
        let at = |part: f64| {
            let last = self.microseconds.len().saturating_sub(1);
            self.microseconds.get((last as f64 * part) as usize).map_or(0.0, |found| *found as f64 / 1000.0)
        };
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("\"{status}\": {count}")).collect();
        println!(
            "{{\"requests\": {}, \"seconds\": {:.3}, \"p50\": {}, \"p99\": {}, \"statuses\": {{{}}}, \"broken\": {}}}",
            self.microseconds.len(),
            took.as_secs_f64(),
            at(0.5),
            at(0.99),
            statuses.join(", "),
            self.broken
        );
    }
}
