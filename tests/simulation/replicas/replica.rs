//! A replica: the real code on a simulated way to the cluster and to Keycloak, started, killed, paused.

use super::keycloak::{Follower, Realm};
use super::toy;
use super::wire::Line;
use super::world::{EPOCH, Role, Shared};
use postern::base::clock::Clock;
use postern::identity::Links;
use postern::kubernetes::lease::{Elector, Terms};
use postern::kubernetes::state::State;
use postern::telemetry::audit_log::Audit;
use postern::token_service::TokenService;
use postern::users::Users;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinHandle;

/// Of how many Secrets the shared state is: fewer than in earnest, so that each is written by several.
const PARTS: u16 = 2;

/// What all replicas have in common.
pub(crate) struct Common {
    pub(crate) folder: PathBuf,
    /// The signing keys are one Secret's.
    pub(crate) tokens: Arc<TokenService>,
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
        let state = State::new(line.cluster(), postern::replica::STATE, PARTS).unwrap();
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
            let toy = toy::Toy::new(line.cluster(), &users, &links, leadership, realm.clone(), &common.tokens, &shared);
            tasks.push(tokio::spawn(toy.run()));
        }
        let (follower, ticker) = (Arc::clone(&users), Arc::clone(&users));
        let follower = Follower { realm, users: follower, links, position: Arc::clone(&position) };
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
