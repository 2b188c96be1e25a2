//! A replica: the real code on a simulated way to the cluster and to Keycloak, started, killed, paused.

use super::keycloak::{Follower, Realm};
use super::scenario::config;
use super::wire::Line;
use super::world::{EPOCH, ISSUER, Role, Shared};
use postern::base::clock::Clock;
use postern::delivery::{self, Delivery, Fence, InCluster, Leads, Parts, Settings};
use postern::identity::{self, Links, News};
use postern::kubernetes::lease::{Elector, Terms};
use postern::kubernetes::state::State;
use postern::telemetry::audit_log::Audit;
use postern::token_service::TokenService;
use postern::users::Users;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What all replicas have in common.
pub(crate) struct Common {
    pub(crate) folder: PathBuf,
    /// The signing keys are one Secret's.
    pub(crate) tokens: Arc<TokenService>,
    /// Of how many Secrets what is known of users is.
    pub(crate) parts: u16,
}

pub(crate) struct Replica {
    pub(crate) line: Arc<Line>,
    pub(crate) users: Arc<Users>,
    path: PathBuf,
    position: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a killed replica leaves: its own store, and how far it had read what Keycloak tells.
pub(crate) struct Remains {
    path: PathBuf,
    position: usize,
}

impl Replica {
    /// Starts on what another left, or on nothing.
    pub(crate) fn start(world: &Shared, slot: usize, remains: Option<Remains>, common: &Common) -> Self {
        let (role, unix_s) = {
            let guard = world.lock().unwrap();
            let place = &guard.slots[slot];
            (place.role, (EPOCH + guard.now() / 1000).checked_add_signed(place.ahead_s).unwrap())
        };
        let clock = Clock::of_runtime(unix_s);
        let line = Line::new(world, slot, clock.clone());
        let fresh = || Remains { path: image(&common.folder, slot, line.number), position: 0 };
        let Remains { path, position } = remains.unwrap_or_else(fresh);
        let users = Users::open(&path, clock.clone(), Audit::off()).unwrap();
        let state = State::new(line.cluster(), postern::replica::STATE, common.parts).unwrap();
        let shared = postern::replica::Replica::new(state, Arc::clone(&users), clock.clone()).unwrap();
        let position = Arc::new(AtomicUsize::new(position));
        let (links, realm) = (Arc::new(Links::default()), Realm::new(&line));
        let mut tasks = vec![tokio::spawn(Arc::clone(&shared).run())];
        if role == Role::TokenService {
            let identity = format!("postern-{slot}-{}", line.number);
            let name = "postern-token-service";
            let (elector, leadership) =
                Elector::new(line.cluster(), name, &identity, Terms::default(), clock.clone()).unwrap();
            line.leadership.set(leadership.clone()).unwrap();
            tasks.push(tokio::spawn(elector.run(std::future::pending())));
            let (fence, present) = (Some(fence(&shared)), Arc::default());
            let beside = InCluster { cluster: line.cluster(), leads: Leads::Elected(leadership), fence, present };
            let parts = parts(&line, &users, &links, realm.clone(), common);
            let delivery = Delivery::in_cluster(settings(), parts, beside).unwrap();
            tasks.push(tokio::spawn(delivery.run()));
            tasks.push(tokio::spawn(hear_sign_ins(Arc::clone(&shared), Arc::clone(&links))));
        }
        let (follower, ticker) = (Arc::clone(&users), Arc::clone(&users));
        let follower = Follower { realm, users: follower, links, shared, position: Arc::clone(&position) };
        tasks.push(tokio::spawn(follower.run()));
        tasks.push(tokio::spawn(tick(ticker)));
        let mut guard = world.lock().unwrap();
        guard.slots[slot].line = Some(Arc::clone(&line));
        let number = line.number;
        guard.log(|| format!("replica {slot}.{number} starts"));
        drop(guard);
        Self { line, users, path, position, tasks }
    }

    /// As `kill -9`: nothing more is sent.
    pub(crate) fn kill(self, common: &Common) -> Remains {
        self.line.is_dead.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        // The file is held until its last user is gone.
        let path = image(&common.folder, self.line.slot, self.line.number + 1);
        std::fs::copy(&self.path, &path).unwrap();
        self.line.world.lock().unwrap().slots[self.line.slot].line = None;
        Remains { path, position: self.position.load(Ordering::Relaxed) }
    }
}

fn settings() -> Settings {
    let config = config();
    Settings::new(config.delivery.as_ref().unwrap(), &config.issuers[0])
}

/// All that is known against users is read before one of them is let in.
fn fence(shared: &Arc<postern::replica::Replica>) -> Fence {
    let shared = Arc::clone(shared);
    Box::new(move |users| {
        let shared = Arc::clone(&shared);
        Box::pin(async move { shared.refresh(&users).await.map_err(|error| error.to_string()) })
    })
}

fn parts(line: &Arc<Line>, users: &Arc<Users>, links: &Arc<Links>, roster: Realm, common: &Common) -> Parts<Realm> {
    let (clock, tokens) = (line.clock.clone(), Arc::clone(&common.tokens));
    let shared = identity::Shared {
        users: Arc::clone(users),
        links: Arc::clone(links),
        clock: clock.clone(),
        control: Handle::current(),
    };
    Parts {
        roster,
        link: links.of(ISSUER, 10_000),
        token_service: Arc::new(move || Arc::clone(&tokens)),
        shared,
        sink: delivery::secrets(line.cluster()),
        counts: Arc::clone(&line.counts),
    }
}

/// Sign-ins that gateways saw.
async fn hear_sign_ins(shared: Arc<postern::replica::Replica>, links: Arc<Links>) {
    let mut sign_ins = shared.sign_ins();
    while let Some(user) = sign_ins.recv().await {
        links.bulletin().tell(|| Some(News::SignedIn(user)));
    }
}

fn image(folder: &Path, slot: usize, number: u32) -> PathBuf {
    folder.join(format!("{slot}.{number}.redb"))
}

/// As the application does.
async fn tick(users: Arc<Users>) {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        users.tick().unwrap();
    }
}
