//! The watches over issuers with the source `keycloak`: one each, begun anew when what it depends on changed.

use super::{Gateway, StartError};
use crate::base::clock::Clock;
use crate::config;
use crate::identity::{Shared, SignInQuestion, SignInReply, WatchEnd};
use crate::issuer::keycloak::Keycloak;
use crate::users::{IssuerClock, UserId};
use crate::watch::{Settings, SignIn, Watch};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Those that run, by the issuer's name.
#[derive(Default)]
pub(super) struct Watches(Mutex<BTreeMap<String, Running>>);

struct Running {
    config: Arc<config::Issuer>,
    watch: Arc<Watch<Keycloak>>,
    task: AbortHandle,
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.list().keys()).finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    fn list(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each, with the name of its issuer.
    pub(super) fn each(&self) -> Vec<(String, Arc<Watch<Keycloak>>)> {
        self.list().iter().map(|(name, running)| (name.clone(), Arc::clone(&running.watch))).collect()
    }

    /// That over an issuer.
    pub(super) fn of(&self, issuer: &str) -> Option<Arc<Watch<Keycloak>>> {
        self.list().get(issuer).map(|running| Arc::clone(&running.watch))
    }

    /// No less than what the clock of an issuer shows, in milliseconds since 1970; ours for one that does not tell.
    pub(super) fn issuer_now_ms(&self, issuer: &str, clock: &Clock) -> u64 {
        let told = self.of(issuer).and_then(|watch| watch.directory().time());
        told.map_or_else(|| clock.now().unix_ms, |time| time.latest_ms)
    }
}

impl Gateway {
    /// Watches every issuer that is to be watched, and no other.
    ///
    /// # Errors
    /// An issuer cannot be asked; those that run go on.
    pub(super) fn run_watches(&self) -> Result<(), StartError> {
        let issuers: Vec<_> = {
            let pipeline = self.pipeline.load();
            pipeline.verifier().issuers().map(|issuer| Arc::clone(issuer.config())).collect()
        };
        let Shared { users, links, clock, control } = self.shared();
        let mut list = self.watches.list();
        // A file of authorities may have changed under an unchanged configuration.
        list.retain(|_, running| running.config.ca.is_none() && issuers.contains(&running.config));
        for issuer in issuers {
            if list.contains_key(&issuer.name) {
                continue;
            }
            let Some(status) = issuer.user_status.keycloak() else { continue };
            let Some(link) = links.get(&issuer.name) else { continue };
            let failed = |error| StartError::Issuer { name: issuer.name.clone(), source: Box::new(error) };
            let directory = Keycloak::new(&issuer, status, clock.clone()).map_err(failed)?;
            let WatchEnd { hints, ceiling, questions, rereads, bulletin } = link.watch_end();
            let settings = Settings::new(&issuer.name, status);
            let watch = Watch::new(settings, directory, Arc::clone(users), clock.clone(), ceiling, hints);
            watch.tell(bulletin);
            let task = control.spawn(run(Arc::clone(&watch), questions, rereads)).abort_handle();
            list.insert(issuer.name.clone(), Running { config: issuer, watch, task });
        }
        Ok(())
    }

    /// Puts `cluster.valid_until` of the configuration in force.
    ///
    /// # Errors
    /// It cannot be stored.
    pub(super) fn set_valid_until(&self, cluster: config::Cluster) -> Result<(), StartError> {
        let since = |at: std::time::SystemTime| at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let until_ms = cluster.valid_until.map(|at| u64::try_from(since(at).as_millis()).unwrap_or(u64::MAX));
        let names: Vec<_> = self.watches.list().keys().cloned().collect();
        let now = |issuer: &str| self.watches.issuer_now_ms(issuer, &self.shared().clock);
        let clocks: Vec<_> = names.iter().map(|issuer| IssuerClock { issuer, now_ms: now(issuer) }).collect();
        self.shared().users.set_valid_until(until_ms, &clocks)?;
        Ok(())
    }
}

/// Watches, and serves the verifier's end: for ever.
async fn run(
    watch: Arc<Watch<Keycloak>>,
    mut questions: mpsc::Receiver<SignInQuestion>,
    mut rereads: mpsc::Receiver<UserId>,
) {
    let answer = async {
        while let Some(question) = questions.recv().await {
            let watch = Arc::clone(&watch);
            tokio::spawn(async move {
                let reply = match watch.sign_in(&question.user, &question.session).await {
                    SignIn::Proven | SignIn::NotProven => SignInReply::Looked,
                    SignIn::Unknown => SignInReply::Unreachable,
                };
                // The request may have given up waiting.
                let _ = question.reply.send(reply);
            });
        }
    };
    let reread = async {
        while let Some(user) = rereads.recv().await {
            watch.reread(&user);
        }
    };
    tokio::join!(Arc::clone(&watch).run(), answer, reread);
}
