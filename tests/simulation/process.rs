//! A Postern: the real loops over the real store. It can be killed at any moment, and begins again from what the file then held.

use crate::directory::SimDirectory;
use crate::world::{EPOCH, REALMS, Shared};
use postern::base::clock::Clock;
use postern::identity::ceiling::Ceiling;
use postern::telemetry::audit_log::Audit;
use postern::users::{Cause, Decision, Judgement, Kind, Target, TokenClaims, Users};
use postern::watch::{Settings, Watch};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

/// Where stores are made: in memory if that is to be had.
const FAST: &str = "/dev/shm";

pub(crate) struct Process {
    pub(crate) number: u32,
    pub(crate) users: Arc<Users>,
    pub(crate) watches: [Arc<Watch<SimDirectory>>; 2],
    pub(crate) clock: Clock,
    tasks: Vec<JoinHandle<()>>,
    path: PathBuf,
    /// Where the photographer puts what the file held.
    camera: Arc<Camera>,
}

/// What a killed process leaves.
pub(crate) struct Remains {
    path: PathBuf,
    known: String,
}

/// Kills a process in the middle of a change: when a decision was stored and told, and nothing that follows it was done.
struct Camera {
    store: PathBuf,
    image: PathBuf,
    users: Arc<Users>,
    taken: Mutex<Option<Remains>>,
    notify: Arc<Notify>,
    world: Shared,
}

pub(crate) fn folder() -> tempfile::TempDir {
    let fast = Path::new(FAST);
    if fast.is_dir() { tempfile::tempdir_in(fast).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl Remains {
    /// No process was there before.
    pub(crate) fn none(folder: &Path) -> Self {
        Self { path: folder.join("0.redb"), known: String::new() }
    }

    fn of(store: &Path, image: &Path, users: &Users) -> Self {
        std::fs::copy(store, image).unwrap();
        Self { path: image.to_owned(), known: known(users) }
    }
}

/// All that is to outlive the process, as text.
fn known(users: &Users) -> String {
    let mut list = users.list();
    list.sort_by(|one, other| one.user.cmp(&other.user));
    format!("{list:?} {:?}", users.cluster().closed)
}

impl Process {
    /// Starts on what another left.
    pub(crate) fn start(world: &Shared, remains: Remains, settings: &Settings, notify: &Arc<Notify>) -> Arc<Self> {
        let (number, unix_s) = {
            let mut world = world.lock().unwrap();
            let number = u32::try_from(world.counts.crashes).unwrap() + 1;
            // Nobody says that our own clock is right.
            let skew = world.luck.between(0, 40);
            (number, EPOCH + world.now() / 1000 + skew)
        };
        let clock = Clock::of_runtime(unix_s);
        let users = Users::open(&remains.path, clock.clone(), Audit::off()).unwrap();
        let (before, after) = (remains.known, known(&users));
        if !before.is_empty() && before != after {
            world.lock().unwrap().fail(format!("was forgotten:\n{before}\n{after}"));
        }
        let watches = [0, 1].map(|realm| {
            let directory = SimDirectory {
                world: Arc::clone(world),
                realm,
                process: number,
                clock: clock.clone(),
                renewed_ms: tokio::sync::Mutex::default(),
                offset: Mutex::default(),
            };
            let settings = Settings { issuer: REALMS[realm].into(), ..settings.clone() };
            // Nobody reads the hints: identity does, and is not here.
            let (ceiling, hints) = (Arc::new(Ceiling::new(100)), broadcast::Sender::new(1));
            Watch::new(settings, directory, Arc::clone(&users), clock.clone(), ceiling, hints)
        });
        let image = remains.path.with_file_name(format!("{number}.redb"));
        let camera = Arc::new(Camera {
            store: remains.path.clone(),
            image,
            users: Arc::clone(&users),
            taken: Mutex::default(),
            notify: Arc::clone(notify),
            world: Arc::clone(world),
        });
        let mut tasks: Vec<_> = watches.iter().map(|watch| tokio::spawn(Arc::clone(watch).run())).collect();
        tasks.push(tokio::spawn(tick(Arc::clone(&users))));
        tasks.push(tokio::spawn(listen(Arc::clone(world), number, users.subscribe())));
        Arc::new(Self { number, users, watches, clock, tasks, path: remains.path, camera })
    }

    /// Kills it: at this moment, or, if the photographer was there, at theirs.
    pub(crate) fn kill(&self) -> Remains {
        for task in &self.tasks {
            task.abort();
        }
        let taken = self.camera.taken.lock().unwrap().take();
        taken.unwrap_or_else(|| Remains::of(&self.path, &self.camera.image, &self.users))
    }

    /// Has it killed as soon as it has decided something. What is given back is to be held until then.
    pub(crate) fn kill_at_next_decision(&self) -> impl Send + 'static {
        let mut decisions = self.users.subscribe();
        let mut wait: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let _ = decisions.recv().await;
        });
        let waker = Waker::from(Arc::clone(&self.camera));
        assert_eq!(wait.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        wait
    }

    /// What the data plane does with a token, but for introspection: judge, look for a sign-in, judge again. `None`: not known.
    pub(crate) async fn ask(&self, realm: usize, claims: &TokenClaims<'_>) -> Option<Judgement> {
        let judge = || self.users.judge(claims, self.clock.now());
        let first = judge();
        let Some(session) = claims.session.filter(|_| first == Judgement::NeedsSignInProof) else { return Some(first) };
        let user = postern::users::UserId::new(claims.issuer, claims.subject).unwrap();
        match self.watches[realm].sign_in(&user, session).await {
            postern::watch::SignIn::Unknown => match judge() {
                Judgement::NeedsSignInProof => None,
                judgement => Some(judgement),
            },
            _ => Some(judge()),
        }
    }
}

impl Wake for Camera {
    fn wake(self: Arc<Self>) {
        let mut taken = self.taken.lock().unwrap();
        if taken.is_none() {
            *taken = Some(Remains::of(&self.store, &self.image, &self.users));
            self.world.lock().unwrap().process = None;
            self.notify.notify_one();
        }
    }
}

/// As the application does.
async fn tick(users: Arc<Users>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        users.tick().unwrap();
    }
}

async fn listen(world: Shared, number: u32, mut decisions: broadcast::Receiver<Arc<Decision>>) {
    while let Ok(decision) = decisions.recv().await {
        let mut world = world.lock().unwrap();
        if world.process.as_ref().is_some_and(|process| process.number == number) {
            world.counts.decisions += 1;
            let Decision { kind, target, cause, issuer_time_ms, delay_ms, .. } = &*decision;
            world.log(|| format!("  decided: {kind:?} {target:?} {cause:?} {issuer_time_ms:?} after {delay_ms:?}"));
            if let (Kind::Block, Target::User(user), None, true) =
                (kind, target, &decision.act, *cause != Cause::NotBefore)
            {
                let realm = REALMS.iter().position(|name| **name == **user.issuer()).unwrap();
                world.heard_block(realm, user.subject(), issuer_time_ms.unwrap_or(0));
            }
        }
    }
}
