//! What replicas ask an API server: the replicas of the other simulation, while nothing goes wrong.

use crate::process::folder;
use crate::replicas::replica::{Common, Replica};
use crate::replicas::scenario::config;
use crate::replicas::wire::Line;
use crate::replicas::world::{EPOCH, ISSUER, Role, Shared, Slot, World};
use postern::base::clock::Clock;
use postern::kubernetes::state::State;
use postern::replica::{PARTS, STATE};
use postern::token_service::TokenService;
use postern::users::{UserId, Users};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// So many replicas, and users who all signed in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) services: usize,
    pub(crate) gateways: usize,
    pub(crate) users: u64,
    /// For so long nothing is counted: then everybody's token has been refilled once, each in their turn.
    pub(crate) before: u64,
    /// So many of them are disabled, one each fifteen seconds.
    pub(crate) blocks: u64,
    pub(crate) seconds: u64,
}

/// Between two blocks all is done that follows from one.
const BLOCK_EVERY_S: u64 = 15;

/// What stands in for the watch over users asks for its own things.
const STANDS_IN: &str = "watch";

/// Before a token is filled, what is known of its user by all replicas is read: so many Secrets, on average of all users.
fn fenced_parts(world: &Shared) -> f64 {
    let line = Line::new(world, 0, Clock::of_runtime(EPOCH));
    let state = State::new(line.cluster(), STATE, PARTS).unwrap();
    let people = world.lock().unwrap().people.keys().cloned().collect::<Vec<_>>();
    let parts = people.iter().map(|id| {
        let keys = Users::shared_keys(&UserId::new(ISSUER, id.as_str()).unwrap());
        keys.iter().map(|key| state.part_of(key).unwrap()).collect::<BTreeSet<_>>().len()
    });
    parts.sum::<usize>() as f64 / people.len() as f64
}

/// What the API server was asked, and Keycloak by who leads; by kind; and [`fenced_parts`].
pub(crate) fn play(cast: &Cast) -> (Vec<(&'static str, u64)>, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let folder = folder();
    runtime.block_on(async {
        let mut world = World::new(1, Some(cast.users), false);
        let slot = |role| Slot::new(role, 0);
        world.slots = (0..cast.services).map(|_| slot(Role::TokenService)).collect();
        world.slots.extend((0..cast.gateways).map(|_| slot(Role::Gateway)));
        let world = Arc::new(Mutex::new(world));
        let tokens = TokenService::ephemeral(config().token_service, Clock::of_runtime(EPOCH)).unwrap();
        let common = Common { folder: folder.path().to_owned(), tokens: Arc::new(tokens), parts: PARTS };
        let fenced_parts = fenced_parts(&world);
        let count = cast.services + cast.gateways;
        let replicas: Vec<_> = (0..count).map(|slot| Replica::start(&world, slot, None, &common)).collect();
        let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        pause(10).await;
        let everybody: Vec<_> = world.lock().unwrap().people.keys().cloned().collect();
        everybody.iter().for_each(|id| world.lock().unwrap().sign_in(id));
        pause(cast.before).await;
        world.lock().unwrap().asked.take();
        for id in everybody.iter().take(usize::try_from(cast.blocks).unwrap()) {
            world.lock().unwrap().set_enabled(id, false);
            pause(BLOCK_EVERY_S).await;
        }
        pause(cast.seconds - BLOCK_EVERY_S * cast.blocks).await;
        let mut counted = world.lock().unwrap().asked.take();
        counted.retain(|(kind, _)| *kind != STANDS_IN);
        replicas.into_iter().for_each(|replica| drop(replica.kill(&common)));
        assert_eq!(world.lock().unwrap().failure, None);
        (counted, fenced_parts)
    })
}
