//! A real Redis: how it is reached, and what stands on a shelf of it.

pub(crate) mod server;

use super::shelf::LOG;
use super::*;
use crate::base::secret::Secret;
use server::{RedisServer, free_port};

/// What [`docs/redis.md`] has an administrator allow.
pub(crate) const RIGHTS: &str = "resetkeys ~{postern}:* resetchannels -@all +evalsha +eval +hget +hset +hdel +hlen +hmget \
                                 +hscan +xadd +xrange +xrevrange +get +set +time";

pub(crate) fn config(server: &RedisServer) -> config::Redis {
    config::Redis {
        place: RedisPlace::Socket(server.socket()),
        database: 0,
        username: None,
        password: None,
        ca: None,
        prefix: "postern".into(),
    }
}

pub(crate) fn shelf(config: &config::Redis) -> Shelf {
    Shelf::new(Redis::new(Access::new(config).unwrap()), "users")
}

fn swap(key: &str, found: Option<&str>, put: Option<&str>) -> Swap {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Swap { key: key.into(), found: found.map(bytes), put: put.map(bytes) }
}

/// All of them, since nobody came first.
async fn made(shelf: &Shelf, swaps: &[Swap]) {
    assert!(shelf.put(swaps).await.unwrap().stale.is_empty());
}

async fn end(shelf: &Shelf) -> Position {
    match shelf.look(None, &[]).await.unwrap() {
        Look::Anew(position) => position,
        Look::Since { .. } => panic!("since nothing"),
    }
}

type Changed = Vec<(String, Option<Vec<u8>>)>;

/// What was changed since, and how many there are.
async fn since(shelf: &Shelf, position: &Position) -> Option<(Changed, usize)> {
    match shelf.look(Some(position), &[]).await.unwrap() {
        Look::Since { changed, count, .. } => Some((changed, count)),
        Look::Anew(_) => None,
    }
}

#[tokio::test]
async fn a_swap_is_made_where_nobody_came_first_and_others_are_told_what_stands_there() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (shelf(&config(&server)), shelf(&config(&server)));
    let start = end(&b).await;
    made(&a, &[swap("k", None, Some("1")), swap("ü\0/", None, Some("2"))]).await;
    let stale = b.put(&[swap("k", None, Some("3")), swap("ü\0/", Some("2"), Some("4"))]).await.unwrap().stale;
    assert_eq!(stale, [(0, Some(b"1".to_vec()))]);
    let (changed, count) = since(&b, &start).await.unwrap();
    let both = vec![("k".to_owned(), Some(b"1".to_vec())), ("ü\0/".to_owned(), Some(b"4".to_vec()))];
    assert_eq!((changed, count), (both.clone(), 2));
    assert_eq!(b.all().await.unwrap(), both.iter().map(|(key, value)| (key.clone(), value.clone().unwrap())).collect());
    let keys = ["k", "none", "ü\0/"].map(str::to_owned);
    assert_eq!(b.get(&keys).await.unwrap(), [Some(b"1".to_vec()), None, Some(b"4".to_vec())]);
    let middle = end(&b).await;
    made(&a, &[swap("k", Some("1"), None)]).await;
    assert_eq!(since(&b, &middle).await.unwrap(), (vec![("k".to_owned(), None)], 1));
    assert_eq!(b.put(&[swap("k", Some("1"), Some("5"))]).await.unwrap().stale, [(0, None)]);
    // What nobody changed since is told as nothing.
    let last = end(&b).await;
    assert_eq!(since(&b, &last).await.unwrap(), (vec![], 1));
}

#[tokio::test]
async fn a_reader_that_was_away_for_long_hears_all_or_that_it_cannot() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let shelf = shelf(&config(&server));
    let start = end(&shelf).await;
    let put = async |from: usize, to: usize| {
        for page in (from..to).collect::<Vec<_>>().chunks(500) {
            let swaps: Vec<_> = page.iter().map(|key| swap(&key.to_string(), None, Some("x"))).collect();
            made(&shelf, &swaps).await;
        }
    };
    put(0, 2_500).await;
    let (mut position, mut told, mut pages) = (start.clone(), 0, 0);
    loop {
        let Look::Since { position: next, changed, count, has_more } = shelf.look(Some(&position), &[]).await.unwrap()
        else {
            panic!("it stands in the log");
        };
        assert_eq!(count, 2_500);
        (position, told, pages) = (next, told + changed.len(), pages + 1);
        if !has_more {
            break;
        }
    }
    assert_eq!((told, pages), (2_500, 3));
    assert_eq!(shelf.all().await.unwrap().len(), 2_500);
    put(2_500, LOG + 2_500).await;
    assert_eq!(since(&shelf, &start).await, None);
}

#[tokio::test]
async fn a_redis_that_lost_something_is_another_history() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let shelf = shelf(&config(&server));
    made(&shelf, &[swap("a", None, Some("1"))]).await;
    let kept = end(&shelf).await;
    server.command(&["SAVE"]);
    let written = shelf.put(&[swap("b", None, Some("1"))]).await.unwrap().last.unwrap();
    let lost = end(&shelf).await;
    assert_eq!(written, lost);
    assert!(matches!(shelf.look(Some(&kept), &[written]).await.unwrap(), Look::Since { .. }));
    server.kill();
    server.run();
    assert!(shelf.look(Some(&lost), &[]).await.is_err(), "the connection is lost, and it is said");
    // Somebody else writes before this reader looks.
    made(&shelf, &[swap("c", None, Some("1"))]).await;
    assert_eq!(since(&shelf, &lost).await, None);
    assert_eq!(since(&shelf, &kept).await.unwrap(), (vec![("c".to_owned(), Some(b"1".to_vec()))], 2));
    // What it saw is there, and what it wrote is not.
    assert!(matches!(shelf.look(Some(&kept), &[lost]).await.unwrap(), Look::Anew(_)));
    let end_now = end(&shelf).await;
    server.command(&["FLUSHALL"]);
    assert_eq!(since(&shelf, &end_now).await, None);
    let anew = end(&shelf).await;
    assert_eq!(since(&shelf, &anew).await.unwrap(), (vec![], 0));
    // By its time alone this entry could be one of before.
    let same_id = Position { id: anew.id.clone(), mark: end_now.mark };
    assert_eq!(since(&shelf, &same_id).await, None);
}

#[tokio::test]
async fn what_is_not_ours_is_said() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let shelf = shelf(&config(&server));
    server.command(&["SET", "{postern}:users", "x"]);
    assert!(matches!(shelf.all().await, Err(RedisError::Refused { .. })));
    assert!(matches!(shelf.put(&[swap("k", None, Some("1"))]).await, Err(RedisError::Refused { .. })));
}

#[tokio::test]
async fn a_user_with_the_rights_of_the_manual_is_let_in_by_the_password_alone() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    assert!(page.contains(RIGHTS), "docs/redis.md has other rights");
    let Some(server) = RedisServer::start(&[]) else { return };
    let rights: Vec<_> = RIGHTS.split(' ').filter(|word| !word.is_empty()).collect();
    let set = [&["ACL", "SETUSER", "postern", "on", ">hunter2"][..], &rights].concat();
    assert_eq!(server.command(&set), "+OK\r\n");
    assert_eq!(server.command(&["ACL", "SETUSER", "default", "off"]), "+OK\r\n");
    let of = |password: Option<&str>| config::Redis {
        username: password.map(|_| "postern".into()),
        password: password.map(Secret::new),
        ..config(&server)
    };
    for wrong in [None, Some("hunter3")] {
        let error = shelf(&of(wrong)).all().await.unwrap_err();
        assert!(matches!(error, RedisError::Refused { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    }
    let right = shelf(&of(Some("hunter2")));
    let start = end(&right).await;
    made(&right, &[swap("k", None, Some("1"))]).await;
    assert_eq!(right.get(&["k".into()]).await.unwrap(), [Some(b"1".to_vec())]);
    made(&right, &[swap("k", Some("1"), None)]).await;
    assert_eq!(since(&right, &start).await.unwrap(), (vec![("k".to_owned(), None)], 0));
    assert_eq!(right.all().await.unwrap().len(), 0);
    // What is not Postern's is out of reach.
    let other = shelf(&config::Redis { prefix: "other".into(), ..of(Some("hunter2")) });
    assert!(matches!(other.all().await, Err(RedisError::Refused { .. })));
}

#[tokio::test]
async fn tls_is_with_the_authority_that_is_named_and_with_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["server", "other"] {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path(&format!("{name}.pem")), pair.cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), pair.signing_key.serialize_pem()).unwrap();
    }
    let (port, text) = (free_port(), |name: &str| path(name).display().to_string());
    let (certificate, key, number) = (text("server.pem"), text("server.key"), port.to_string());
    let tls = ["--tls-port", &number, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let Some(server) = RedisServer::start(&[&tls[..], &["--tls-auth-clients", "no", "--bind", "127.0.0.1"]].concat())
    else {
        return;
    };
    let with = |is_tls, ca: &str| config::Redis {
        place: RedisPlace::Network { host: "127.0.0.1".into(), port, is_tls },
        ca: Some(path(ca)),
        ..config(&server)
    };
    let redis = Redis::new(Access::new(&with(true, "server.pem")).unwrap());
    let shelf = Shelf::new(Arc::clone(&redis), "users");
    made(&shelf, &[swap("k", None, Some("1"))]).await;
    // A reload with another authority takes effect at once.
    redis.reach(Access::new(&with(true, "other.pem")).unwrap());
    assert!(matches!(shelf.all().await, Err(RedisError::Connect { .. })));
    redis.reach(Access::new(&with(true, "server.pem")).unwrap());
    assert_eq!(shelf.all().await.unwrap().len(), 1);
    redis.reach(Access::new(&with(false, "server.pem")).unwrap());
    assert!(shelf.all().await.is_err());
    assert!(Access::new(&with(true, "none.pem")).is_err());
}

#[tokio::test]
async fn who_asks_a_redis_that_is_away_is_told_and_the_next_finds_it_again() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let redis = Redis::new(Access::new(&config(&server)).unwrap());
    let ask = async || redis.ask(redis::cmd("PING").arg("x")).await;
    assert_eq!(ask().await.unwrap(), Value::BulkString(b"x".to_vec()));
    server.kill();
    assert!(ask().await.is_err());
    assert!(matches!(ask().await, Err(RedisError::Connect { .. })));
    server.run();
    assert_eq!(ask().await.unwrap(), Value::BulkString(b"x".to_vec()));
    // One that stands still is given up, and asked anew over a connection that it never took.
    server.signal("-STOP");
    assert!(matches!(ask().await, Err(RedisError::TimedOut { .. })));
    server.signal("-CONT");
    assert_eq!(ask().await.unwrap(), Value::BulkString(b"x".to_vec()));
}
