//! The signing keys that all replicas share, in the Secret `postern-signing-keys`: the token service makes and rotates them, the
//! gateway follows.

use super::shared_secret::{Kept, SharedSecret};
use super::{Gateway, StartError};
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config::{self, Role, SigningAlgorithm, SigningKeys};
use crate::kubernetes::own_secret::OwnSecret;
use crate::pipeline::Pipeline;
use crate::token_service::{KeptKeys, KeyError, SharedKeys, TokenService};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The name of the Secret.
pub(super) const SECRET: &str = "postern-signing-keys";

/// How keys are made, and what becomes of them.
pub(super) struct Keys {
    /// `None` while they are files.
    pub(super) settings: Box<dyn Fn() -> Option<(SigningAlgorithm, Duration)> + Send + Sync>,
    pub(super) clock: Clock,
    pub(super) adopt: Box<dyn Fn(&KeptKeys) + Send + Sync>,
    pub(super) count_failure: Box<dyn Fn() + Send + Sync>,
}

impl Kept for Keys {
    type Content = KeptKeys;
    type Error = KeyError;

    fn read(texts: &BTreeMap<String, Secret>) -> Result<Option<KeptKeys>, KeyError> {
        let keys = KeptKeys::parse(texts.iter().map(|(name, text)| (name.as_str(), text.expose())));
        keys.map(|keys| Some(keys).filter(|keys| !keys.is_empty()))
    }

    fn texts(content: &KeptKeys) -> BTreeMap<String, Secret> {
        content.files()
    }

    fn due(&self, found: Option<&KeptKeys>) -> Result<Option<KeptKeys>, KeyError> {
        let Some((algorithm, every)) = (self.settings)() else { return Ok(None) };
        found.unwrap_or(&KeptKeys::default()).maintained(algorithm, every, self.clock.now().unix_seconds())
    }

    fn adopt(&self, content: &KeptKeys) {
        (self.adopt)(content);
    }

    fn count_failure(&self) {
        (self.count_failure)();
    }
}

/// The token service of a configuration. Where keys are in the Secret it has none until they are shared with it.
pub(super) fn start(
    config: &config::TokenService,
    clock: &Clock,
) -> Result<(Arc<TokenService>, Arc<SharedKeys>), StartError> {
    let shared = Arc::<SharedKeys>::default();
    let service = TokenService::start_shared(config.clone(), clock.clone(), &shared)?;
    Ok((Arc::new(service), shared))
}

/// How a configuration wants keys to be made, if they are in the Secret.
fn settings(config: &config::TokenService) -> Option<(SigningAlgorithm, Duration)> {
    match config.signing_keys {
        SigningKeys::Secret { rotate_every } => Some((config.algorithm, rotate_every)),
        SigningKeys::Directory { .. } | SigningKeys::Files(_) => None,
    }
}

impl Gateway {
    /// Has new keys put in force, and has them looked after by the token service, where they are in the Secret. Also after a reload,
    /// which may have put them there.
    pub(super) fn follow_signing_keys(&self) -> Result<(), StartError> {
        let Some(joined) = &self.joined else { return Ok(()) };
        // They may have changed while a new configuration was made.
        put_in_force(&self.pipeline.load());
        let is_in_secret = settings(self.pipeline.load().token_service().config()).is_some();
        if !is_in_secret || joined.follows_keys.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let (pipeline, configured) = (Arc::clone(&self.pipeline), Arc::clone(&self.pipeline));
        let (shared, metrics) = (Arc::clone(&self.signing_keys), Arc::clone(&self.metrics));
        let keys = Keys {
            settings: Box::new(move || settings(configured.load().token_service().config())),
            clock: self.shared().clock.clone(),
            adopt: Box::new(move |keys| {
                shared.put(keys.clone());
                put_in_force(&pipeline.load());
            }),
            count_failure: Box::new(move || {
                metrics.key_maintenance_failures.inc();
            }),
        };
        let secret = OwnSecret::new(joined.cluster.clone(), SECRET)?;
        let follower = SharedSecret::new(secret, SECRET, Arc::new(keys), joined.role == Role::TokenService);
        self.shared().control.spawn(follower.run());
        Ok(())
    }
}

fn put_in_force(pipeline: &Pipeline) {
    if let Err(error) = pipeline.token_service().maintain() {
        tracing::error!(error = &error as &dyn std::error::Error, "signing keys cannot be maintained");
    }
    pipeline.verifier().refresh_own_keys(pipeline.token_service());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::tests::server::{ApiServer, Fault, eventually};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::Method;
    use serde_json::{Value, json};
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use tokio::task::JoinHandle;

    const DAY: u64 = 86_400;
    const EVERY: Duration = Duration::from_secs(30 * DAY);

    /// One process, as far as keys go; gone when dropped.
    struct Replica {
        in_force: Arc<Mutex<Option<KeptKeys>>>,
        failures: Arc<AtomicUsize>,
        task: JoinHandle<Result<(), crate::kubernetes::KubernetesError>>,
    }

    impl Drop for Replica {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Replica {
        async fn start(server: &ApiServer, clock: &Clock, is_writer: bool) -> Self {
            let (in_force, failures) = (Arc::<Mutex<Option<KeptKeys>>>::default(), Arc::<AtomicUsize>::default());
            let (adopted, failed) = (Arc::clone(&in_force), Arc::clone(&failures));
            let keys = Keys {
                settings: Box::new(|| Some((SigningAlgorithm::EdDsa, EVERY))),
                clock: clock.clone(),
                adopt: Box::new(move |keys| *adopted.lock().unwrap() = Some(keys.clone())),
                count_failure: Box::new(move || {
                    failed.fetch_add(1, Ordering::Relaxed);
                }),
            };
            let secret = OwnSecret::new(server.connect().await, SECRET).unwrap();
            let task = tokio::spawn(SharedSecret::new(secret, SECRET, Arc::new(keys), is_writer).run());
            Self { in_force, failures, task }
        }

        fn names(&self) -> Vec<String> {
            let in_force = self.in_force.lock().unwrap();
            in_force.iter().flat_map(|keys| keys.files().into_keys()).collect()
        }
    }

    fn secret(server: &ApiServer) -> Value {
        server.get("api/v1", "secrets", Some("postern"), SECRET).unwrap_or_default()
    }

    fn names(server: &ApiServer) -> Vec<String> {
        secret(server)["data"].as_object().into_iter().flat_map(|data| data.keys().cloned()).collect()
    }

    fn shared(server: &ApiServer) -> KeptKeys {
        let object = secret(server);
        let decode = |(name, text): (&String, &Value)| {
            (name.clone(), String::from_utf8(STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap())
        };
        let texts: Vec<_> = object["data"].as_object().into_iter().flatten().map(decode).collect();
        KeptKeys::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).unwrap()
    }

    /// Changes the Secret as somebody else does, which also makes every replica look.
    fn edit(server: &ApiServer, change: impl FnOnce(&mut Value)) {
        let mut object = secret(server);
        change(&mut object);
        server.put("api/v1", "secrets", Some("postern"), &object);
    }

    fn touch(server: &ApiServer, round: usize) {
        edit(server, |object| object["metadata"]["annotations"] = json!({ "round": round.to_string() }));
    }

    #[tokio::test]
    async fn replicas_that_start_at_once_have_the_same_key_and_the_gateway_writes_nothing() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let gateway = Replica::start(&server, &clock, false).await;
        eventually("it looked", || !server.requests(&Method::GET, "watch=true").is_empty()).await;
        assert!(server.requests(&Method::PATCH, "").is_empty() && gateway.names().is_empty());
        let (a, b) = tokio::join!(Replica::start(&server, &clock, true), Replica::start(&server, &clock, true));
        eventually("all have a key", || {
            [&a, &b, &gateway].iter().all(|replica| replica.names().len() == 1 && replica.names() == names(&server))
        })
        .await;
        assert_eq!(*a.in_force.lock().unwrap(), *b.in_force.lock().unwrap());
    }

    /// Two years in which two replicas look at the same time, and one of them is sometimes dead.
    #[tokio::test]
    async fn replicas_that_rotate_at_once_make_one_key_and_never_sign_with_one_that_is_not_shared() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let mut replicas = [Replica::start(&server, &clock, true).await, Replica::start(&server, &clock, true).await];
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..120 {
            if round % 10 == 9 {
                replicas[round % 2] = Replica::start(&server, &clock, true).await;
            }
            eventually("both follow", || {
                replicas.iter().all(|replica| !replica.names().is_empty() && replica.names() == names(&server))
            })
            .await;
            let now = clock.now().unix_seconds();
            let signers: Vec<_> = replicas
                .iter()
                .map(|replica| {
                    let keys = replica.in_force.lock().unwrap().clone().unwrap();
                    keys.files().into_keys().rfind(|name| name.trim_end_matches(".pem").parse::<i64>().unwrap() <= now)
                })
                .collect();
            assert!(signers[0].is_some() && signers[0] == signers[1], "round {round}: {signers:?}");
            assert!(names(&server).len() <= 2, "round {round}");
            seen.extend(names(&server));
            clock.advance(Duration::from_secs([3_000, 6 * DAY][round % 2]));
            touch(&server, round);
            let now = clock.now().unix_seconds();
            let is_due = || shared(&server).maintained(SigningAlgorithm::EdDsa, EVERY, now).unwrap().is_some();
            eventually("what is due is done", || !is_due()).await;
        }
        assert!((10..=13).contains(&seen.len()), "{} keys in a year", seen.len());
    }

    #[tokio::test]
    async fn a_secret_that_is_deleted_is_written_again_as_it_was() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let replica = Replica::start(&server, &clock, true).await;
        eventually("there is a key", || replica.names().len() == 1).await;
        let before = secret(&server)["data"].clone();
        server.remove("api/v1", "secrets", Some("postern"), SECRET);
        eventually("it is there again", || secret(&server)["data"] == before).await;
        edit(&server, |object| object["data"] = json!({}));
        eventually("also what was emptied", || secret(&server)["data"] == before).await;
    }

    #[tokio::test]
    async fn a_damaged_secret_leaves_the_old_keys_in_force_and_is_told_and_left_alone() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let replica = Replica::start(&server, &clock, true).await;
        eventually("there is a key", || replica.names().len() == 1).await;
        let (before, name) = (secret(&server)["data"].clone(), replica.names().remove(0));
        edit(&server, |object| object["data"][&name] = STANDARD.encode("no key").into());
        eventually("it is told", || replica.failures.load(Ordering::Relaxed) > 0).await;
        assert_eq!(secret(&server)["data"][&name], STANDARD.encode("no key"));
        assert_eq!(replica.names(), [name.as_str()]);
        server.remove("api/v1", "secrets", Some("postern"), SECRET);
        eventually("it is repaired", || secret(&server)["data"] == before).await;
    }

    #[tokio::test]
    async fn a_key_whose_write_failed_is_not_used_and_one_whose_answer_was_lost_is() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        server.fail(Some(Method::PATCH), "/secrets/", Fault::Status(500, None), usize::MAX);
        let replica = Replica::start(&server, &clock, true).await;
        eventually("it was tried", || replica.failures.load(Ordering::Relaxed) > 0).await;
        assert!(replica.names().is_empty());
        server.heal();
        drop(replica);
        let replica = Replica::start(&server, &clock, true).await;
        // The second write is the one that puts the key in.
        server.fail(Some(Method::PATCH), "fieldManager=postern", Fault::Lost, 2);
        eventually("the watch tells of it", || replica.names().len() == 1 && replica.names() == names(&server)).await;
    }
}
