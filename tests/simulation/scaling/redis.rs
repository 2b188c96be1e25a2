//! A Redis behind a socket that counts what it is asked and knows just enough to be asked on; and replicas that share through it.

use super::Counted;
use super::gateway::paused;
use postern::base::budget::Pace;
use postern::base::clock::Clock;
use postern::base::ledger::{Ledger, Name};
use postern::base::rate_table::RateTable;
use postern::config::{self, RedisPlace};
use postern::rates::Rates;
use postern::redis::{Access, Redis, Shelf};
use postern::replica::{Replica, SHELF};
use postern::users::Users;
use std::future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// When tests begin, in seconds since 1970.
const EPOCH: u64 = 1_795_000_000;

/// While nothing was counted yet.
const BEFORE_S: u64 = 2;

/// Replicas, and of how many users they count requests in each exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) replicas: usize,
    pub(crate) keys: usize,
    pub(crate) seconds: u64,
}

/// What Redis was asked, by kind.
pub(crate) fn play(load: &Load) -> Vec<(&'static str, u64)> {
    paused(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, counted) = (listener.local_addr().unwrap(), Arc::<Counted>::default());
        tokio::task::spawn_local(serve(listener, Arc::clone(&counted)));
        let replicas: Vec<_> = (0..load.replicas).map(|_| start(address, load.keys)).collect();
        tokio::time::sleep(Duration::from_secs(BEFORE_S)).await;
        assert!(replicas.iter().all(|replica| replica.is_loaded()));
        counted.take();
        tokio::time::sleep(Duration::from_secs(load.seconds)).await;
        counted.take()
    })
}

/// As the application puts it together.
fn start(address: SocketAddr, keys: usize) -> Arc<Replica> {
    let place = RedisPlace::Network { host: address.ip().to_string(), port: address.port(), is_tls: false };
    let (username, password, ca, prefix) = (None, None, None, "postern".to_owned());
    let redis = Redis::new(Access::new(&config::Redis { place, database: 0, username, password, ca, prefix }).unwrap());
    let clock = Clock::of_runtime(EPOCH);
    let users = Users::in_memory(clock.clone());
    let replica = Replica::new(Shelf::new(Arc::clone(&redis), SHELF), users, clock.clone()).unwrap();
    tokio::spawn(Arc::clone(&replica).run());
    let ledger = Arc::new(Ledger::new(Arc::new(RateTable::new(10_000)), 100_000));
    let ledgers: Arc<[_]> = Arc::new([Arc::clone(&ledger)]);
    tokio::spawn(Arc::new(Rates::new(redis, clock.clone())).run(move || Arc::clone(&ledgers)));
    tokio::spawn(ask(ledger, keys, clock));
    replica
}

/// So many users ask all the time.
async fn ask(ledger: Arc<Ledger>, keys: usize, clock: Clock) {
    if keys == 0 {
        return future::pending().await;
    }
    loop {
        for key in 0..keys as u64 {
            let mut name: Name = [0; 32];
            name[..8].copy_from_slice(&key.to_be_bytes());
            // The ledger's parts are chosen by the upper half.
            ledger.note(key << 32 | key, Pace::new(100, Duration::from_secs(1)), clock.now(), || name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(listener: TcpListener, counted: Arc<Counted>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::task::spawn_local(answer_all(stream, Arc::clone(&counted)));
    }
}

async fn answer_all(stream: TcpStream, counted: Arc<Counted>) {
    let mut stream = BufReader::new(stream);
    while let Some(words) = command(&mut stream).await {
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let (kind, reply) = reply(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        counted.count(kind);
        stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
    }
}

/// The words of a command; `None` at the end.
async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<Vec<u8>>> {
    let count = length(stream, '*').await?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let mut word = vec![0; length(stream, '$').await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

async fn length(stream: &mut BufReader<TcpStream>, sign: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.strip_prefix(sign)?.trim_end().parse().ok()
}

/// Of which kind a command is, and the answer of a Redis in which nothing stands and nothing is changed.
fn reply(words: &[&str]) -> (&'static str, String) {
    match words {
        ["HSCAN", ..] => ("all", "*2\r\n$1\r\n0\r\n*0\r\n".to_owned()),
        ["EVALSHA" | "EVAL", _, _, "{postern}:users", _, arguments @ ..] => {
            let is_first = arguments.len() < 4;
            let reply = "*3\r\n:0\r\n$3\r\n1-0\r\n$1\r\nm\r\n";
            let nothing = "*6\r\n:1\r\n$3\r\n1-0\r\n$1\r\nm\r\n:0\r\n*0\r\n:0\r\n";
            ("look", if is_first { reply.to_owned() } else { nothing.to_owned() })
        }
        ["EVALSHA" | "EVAL", _, "1", "{postern}:limits", drawn] if drawn.len() == 64 => {
            ("draw", format!("${}\r\n{drawn}\r\n", drawn.len()))
        }
        ["EVALSHA" | "EVAL", _, keys, "{postern}:limits", ..] => {
            let told = keys.parse::<usize>().unwrap() - 1;
            ("tell", format!("*{told}\r\n{}", ":0\r\n".repeat(told)))
        }
        other => panic!("{other:?} is not asked"),
    }
}
