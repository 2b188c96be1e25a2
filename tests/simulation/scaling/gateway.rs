//! What a gateway asks Keycloak: the real watch, the real verifier and the real client over a socket, with requests that use tokens.

use super::keycloak::Keycloak;
use postern::base::clock::Clock;
use postern::base::tick;
use postern::config::{self, Config};
use postern::identity::{Links, LocalCache, Shared, Verifier, WatchEnd};
use postern::issuer::{Issuer, keycloak};
use postern::token_service::TokenService;
use postern::users::Users;
use postern::watch::{Settings, Watch};
use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::LocalSet;

/// When tests begin, in seconds since 1970.
const EPOCH: u64 = 1_795_000_000;

/// Each token is used this often by each replica that sees it: within twice the bound, so it stays in use.
const USED_EVERY: Duration = Duration::from_secs(7);

/// While a socket is waited for the paused clock goes on to its next timer, so there is always one that is near.
const STEP: Duration = Duration::from_millis(50);

/// A few gateways, and what is so at their Keycloak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) replicas: usize,
    /// In use.
    pub(crate) tokens: usize,
    /// By how many of the replicas each token is seen.
    pub(crate) seen_by: usize,
    pub(crate) disabled: usize,
    /// Events about a user who has one token in use.
    pub(crate) user_events: usize,
    /// Events that may concern everybody, seconds apart.
    pub(crate) events_for_many: usize,
    /// `max_calls_per_second`.
    pub(crate) ceiling: u32,
    /// Nothing is counted before first sights are over.
    pub(crate) before: u64,
    pub(crate) seconds: u64,
}

/// The settings of all cases: a bound of 30 seconds.
pub(crate) const BOUND_S: f64 = 30.0;

fn config(keycloak: &Keycloak, case: &Case) -> Config {
    let text = format!(
        "version = 1
dev = true
[token_service]
issuer = 'https://postern.example'
[issuer.main]
url = '{}'
audience = 'gateway'
user_status = {{ keycloak = {{ client_id = 'gateway', client_secret = 'x', bound = '30s', max_calls_per_second = {} }} }}
[upstream.orders]
to = 'http://127.0.0.1:2'
[[route]]
path = '/**'
upstream = 'orders'
",
        keycloak.url(),
        case.ceiling
    );
    config::parse(&text, Path::new("postern.toml")).unwrap()
}

/// Runs on a thread whose clock moves only when everybody waits.
pub(crate) fn paused<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(async {
            loop {
                tokio::time::sleep(STEP).await;
            }
        });
        run.await
    })
}

/// What Keycloak was asked, by kind; and how many requests got no answer about their user.
pub(crate) fn play(case: &Case) -> (Vec<(&'static str, u64)>, u64) {
    paused(async {
        let clock = Clock::of_runtime(EPOCH);
        let keycloak = Keycloak::start(clock.clone(), case.disabled).await;
        let refused = Rc::<Cell<u64>>::default();
        tokio::task::spawn_local(tick::run());
        for replica in 0..case.replicas {
            let verifier = start(&keycloak, case, &clock);
            let is_seen =
                |token: &usize| (replica + case.replicas - token % case.replicas) % case.replicas < case.seen_by;
            for token in (0..case.tokens).filter(is_seen) {
                let (verifier, clock, refused) = (Arc::clone(&verifier), clock.clone(), Rc::clone(&refused));
                let text = keycloak.token(&user(token), &format!("token-{token}"));
                tokio::task::spawn_local(use_token(verifier, text, clock, refused));
            }
        }
        tokio::time::sleep(Duration::from_secs(case.before)).await;
        keycloak.counted.take();
        refused.set(0);
        happen(&keycloak, case).await;
        tokio::time::sleep(Duration::from_secs(case.seconds) - EVENTS_S * 2).await;
        (keycloak.counted.take(), refused.get())
    })
}

/// For so long something happens, in each half.
const EVENTS_S: Duration = Duration::from_secs(20);

async fn happen(keycloak: &Keycloak, case: &Case) {
    for number in 0..case.user_events {
        keycloak.happen("USER", &format!("users/{}", user(number % case.tokens)));
    }
    tokio::time::sleep(EVENTS_S).await;
    for _ in 0..case.events_for_many {
        keycloak.happen("CLIENT", "clients/one");
        tokio::time::sleep(EVENTS_S / u32::try_from(case.events_for_many).unwrap()).await;
    }
    if case.events_for_many == 0 {
        tokio::time::sleep(EVENTS_S).await;
    }
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// As the application puts it together.
fn start(keycloak: &Keycloak, case: &Case, clock: &Clock) -> Arc<Verifier> {
    let config = config(keycloak, case);
    let issuer = Arc::clone(&config.issuers[0]);
    let status = issuer.user_status.keycloak().unwrap();
    let (users, links) = (Users::in_memory(clock.clone()), Arc::<Links>::default());
    let shared = Shared {
        users: Arc::clone(&users),
        links: Arc::clone(&links),
        clock: clock.clone(),
        control: Handle::current(),
    };
    let asked = Arc::new(Issuer::new(Arc::clone(&issuer), clock.clone()).unwrap());
    tokio::spawn(Arc::clone(&asked).run());
    let own = TokenService::ephemeral(config.token_service.clone(), clock.clone()).unwrap();
    let verifier = Arc::new(Verifier::new(vec![asked], Vec::new(), &own, shared, 100_000).unwrap());
    for task in verifier.tasks() {
        tokio::spawn(task);
    }
    let WatchEnd { hints, ceiling, .. } = links.get(&issuer.name).unwrap().watch_end();
    let directory = keycloak::Keycloak::new(&issuer, status, clock.clone()).unwrap();
    let settings = Settings::new(&issuer.name, status);
    tokio::spawn(Watch::new(settings, directory, users, clock.clone(), ceiling, hints).run());
    verifier
}

/// A caller who comes again and again.
async fn use_token(verifier: Arc<Verifier>, token: String, clock: Clock, refused: Rc<Cell<u64>>) {
    let local = LocalCache::default();
    loop {
        let verified = verifier.verify(&local, token.as_bytes(), clock.now()).await;
        let is_in = match &verified {
            Ok(verified) => verifier.confirm(verified, clock.now()).await.is_ok(),
            Err(_) => false,
        };
        refused.set(refused.get() + u64::from(!is_in));
        tokio::time::sleep(if is_in { USED_EVERY } else { Duration::from_secs(1) }).await;
    }
}
