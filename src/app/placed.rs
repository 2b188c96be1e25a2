//! Users' tokens in a cluster: which replica fills Secrets, what a gateway learns of namespaces, and who was seen to sign in.

use super::StartError;
use super::cluster::Joined;
use crate::base::clock::Clock;
use crate::config::Role;
use crate::delivery::{Directory, Fence, InCluster, Leads};
use crate::identity::{Bulletin, Links, News, Shared};
use crate::kubernetes::lease::{Elector, Terms};
use crate::replica::Replica;
use crate::users::UserId;
use aws_lc_rs::rand;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The Lease of the replica that fills.
const LEASE: &str = "postern-token-service";

/// For so long a sign-in that was told stands where all replicas see it.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// What one of several replicas needs. Stands for the Lease from now on.
pub(super) fn beside(joined: &Joined, replica: &Arc<Replica>, shared: &Shared) -> Result<InCluster, StartError> {
    let (cluster, clock) = (joined.cluster.clone(), shared.clock.clone());
    let (elector, leadership) = Elector::new(cluster.clone(), LEASE, &identity(&clock), Terms::default(), clock)?;
    shared.control.spawn(elector.run(std::future::pending()));
    let replica = Arc::clone(replica);
    let fence: Fence = Box::new(move |users: Vec<UserId>| {
        let replica = Arc::clone(&replica);
        Box::pin(async move { replica.refresh(&users).await.map_err(|error| error.to_string()) })
    });
    Ok(InCluster { cluster, leads: Leads::Elected(leadership), fence: Some(fence) })
}

/// A pod's name, and something drawn: a restarted container does not take itself for its predecessor.
fn identity(clock: &Clock) -> String {
    let mut drawn = [0; 8];
    if rand::fill(&mut drawn).is_err() {
        drawn = clock.now().unix_ms.to_be_bytes();
    }
    let name = std::env::var("HOSTNAME").unwrap_or_else(|_| "postern".to_owned());
    format!("{name}_{:016x}", u64::from_be_bytes(drawn))
}

/// Tells the delivery of sign-ins that gateways have seen.
pub(super) async fn hear_sign_ins(replica: Arc<Replica>, shared: Shared) {
    let mut sign_ins = replica.sign_ins();
    while let Some(user) = sign_ins.recv().await {
        let told = user.clone();
        shared.links.bulletin().tell(|| Some(News::SignedIn(told)));
        let replica = Arc::clone(&replica);
        tokio::spawn(async move {
            tokio::time::sleep(TOLD_FOR).await;
            replica.forget_sign_in(&user);
        });
    }
}

/// A gateway's part: follows whose which namespace is, and notes who signs in for the first time.
pub(super) fn follow(joined: &Joined, replica: &Arc<Replica>, shared: &Shared) -> Result<(), StartError> {
    if joined.role != Role::Gateway {
        return Ok(());
    }
    let directory = Arc::<Directory>::default();
    let (follower, cluster, links) = (Arc::clone(&directory), joined.cluster.clone(), Arc::clone(&shared.links));
    shared.control.spawn(async move {
        let bulletin: &Bulletin = links.bulletin();
        if let Err(error) = follower.follow(cluster, bulletin).await {
            tracing::error!(error = &error as &dyn std::error::Error, "users' namespaces are not followed");
        }
    });
    if let Some(news) = shared.links.bulletin().listen() {
        shared.control.spawn(note_sign_ins(news, directory, Arc::clone(replica), Arc::clone(&shared.links)));
    }
    Ok(())
}

async fn note_sign_ins(
    mut news: mpsc::UnboundedReceiver<News>,
    directory: Arc<Directory>,
    replica: Arc<Replica>,
    links: Arc<Links>,
) {
    while let Some(news) = news.recv().await {
        match news {
            News::SignedIn(user) if !directory.record(&user).is_some_and(|record| record.has_signed_in) => {
                replica.note_sign_in(&user);
            }
            News::Swept { issuer, began_ms } => links.bulletin().hear(&issuer, began_ms),
            _ => {}
        }
    }
}
