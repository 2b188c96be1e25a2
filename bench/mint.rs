//! How many tokens a core mints: each claims of its own, an ES256 signature, and the header that an upstream is given.
//!
//! `bench/run mint` builds and runs it. What is counted is the CPU time of this thread, so that others on the machine do not matter.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A bench that cannot run says so and ends.

mod grant;

use grant::{grant, template};
use postern::base::clock::Clock;
use postern::config;
use postern::token_service::{CredentialCache, TokenService};
use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

/// What is promised, in tokens a second of CPU time.
const LEAST: f64 = 30_000.0;

const ROUNDS: usize = 9;
const TOKENS: usize = 10_000;

const CONFIG: &str = "version = 1
dev = true
[token_service]
issuer = 'https://postern.example.com'
[issuer.main]
url = 'http://127.0.0.1:1/realms/demo'
audience = 'gateway'
user_status = 'none'
[upstream.orders]
to = 'http://127.0.0.1:2'
[[route]]
path = '/**'
upstream = 'orders'
";

/// CPU time of this thread, in seconds.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: u64 = text.split(' ').next().unwrap().parse().unwrap();
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

fn main() -> ExitCode {
    let clock = Clock::system();
    let config = config::parse(CONFIG, Path::new("postern.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let service = TokenService::ephemeral(config.token_service, clock.clone()).unwrap();
    let template = template();
    let (roles, groups) = (["reader", "writer"].map(str::to_owned), ["/teams/team-a"].map(str::to_owned));
    let subjects: Vec<_> = (0..TOKENS).map(|n| format!("3f1d2c4b-0000-4000-8000-{n:012}")).collect();
    let mint = |subject: &str| {
        let grant = grant(&template, subject, &roles, &groups);
        service.credential(&CredentialCache::default(), &grant, clock.now()).unwrap()
    };
    // None may be found instead of made.
    let distinct: HashSet<_> = subjects.iter().take(100).map(|subject| mint(subject).header().clone()).collect();
    let mut rates: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let before = cpu_seconds();
            for subject in &subjects {
                std::hint::black_box(mint(subject));
            }
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let tokens = TOKENS as f64;
            tokens / (cpu_seconds() - before)
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let (least, median, most) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
    println!(
        "ES256 tokens minted in a second of one core: median {median:.0}, of {ROUNDS} rounds {least:.0} to {most:.0}"
    );
    // Nobody knows how fast a core CI has.
    let least = if std::env::var_os("CI").is_some() { LEAST / 2.0 } else { LEAST };
    let (is_fast, are_distinct) = (median >= least, distinct.len() == 100);
    for (holds, what) in [
        (are_distinct, "each token is one of its own".to_owned()),
        (is_fast, format!("at least {least:.0} a second, by the median")),
    ] {
        println!("{} {what}", if holds { "ok    " } else { "FAILED" });
    }
    let failed = usize::from(!is_fast) + usize::from(!are_distinct);
    println!("{} passed, {failed} failed, 0 skipped", 2 - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
