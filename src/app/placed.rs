//! Users' tokens in a cluster: which replica fills Secrets, what a gateway learns of namespaces, and who was seen to sign in.

use super::cluster::Joined;
use super::workers::until_drain;
use super::{Phase, StartError};
use crate::base::clock::Clock;
use crate::config::Role;
use crate::config::{NamespaceToken, WhenUnknown};
use crate::delivery::desk::{Desk, Terms};
use crate::delivery::record::Issue;
use crate::delivery::{Directory, Fence, InCluster, Leads};
use crate::identity::{Bulletin, News, Shared};
use crate::kubernetes::lease::{self, Elector};
use crate::pipeline::Pipeline;
use crate::replica::Replica;
use crate::users::UserId;
use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The Lease of the replica that fills.
const LEASE: &str = "postern-token-service";

/// For so long a sign-in that was told stands where all replicas see it.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// What one of several replicas needs. Stands for the Lease until the gateway is to end, and gives it back then.
pub(super) fn beside(
    joined: &Joined,
    shared: &Shared,
    mut phase: watch::Receiver<Phase>,
) -> Result<(InCluster, JoinHandle<()>), StartError> {
    let (cluster, clock) = (joined.cluster.clone(), shared.clock.clone());
    let (elector, leadership) =
        Elector::new(cluster.clone(), LEASE, &identity(&clock), lease::Terms::default(), clock)?;
    let stop = async move {
        until_drain(&mut phase).await;
    };
    let election = shared.control.spawn(elector.run(stop));
    let replica = Arc::clone(&joined.replica);
    let fence: Fence = Box::new(move |users: Vec<UserId>| {
        let replica = Arc::clone(&replica);
        Box::pin(async move { replica.refresh(&users).await.map_err(|error| error.to_string()) })
    });
    let present = Arc::clone(&joined.present);
    Ok((InCluster { cluster, leads: Leads::Elected(leadership), fence: Some(fence), present }, election))
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

/// A gateway's part: follows whose which namespace is, notes who signs in for the first time, and makes users' tokens when asked for
/// them.
pub(super) fn follow(joined: &Joined, shared: &Shared, pipeline: &Arc<ArcSwap<Pipeline>>) {
    if joined.role != Role::Gateway {
        return;
    }
    let directory = Arc::<Directory>::default();
    let (follower, cluster, links) = (Arc::clone(&directory), joined.cluster.clone(), Arc::clone(&shared.links));
    shared.control.spawn(async move {
        let bulletin: &Bulletin = links.bulletin();
        if let Err(error) = follower.follow(cluster, bulletin).await {
            tracing::error!(error = &error as &dyn std::error::Error, "users' namespaces are not followed");
        }
    });
    let Some(news) = shared.links.bulletin().listen() else { return };
    let desk = desk(directory, shared, pipeline);
    shared.control.spawn(take_news(news, desk, Arc::clone(&joined.replica)));
}

/// Makes tokens as the configuration in force says, for users of every issuer that tells about its users.
fn desk(directory: Arc<Directory>, shared: &Shared, pipeline: &Arc<ArcSwap<Pipeline>>) -> Desk {
    let (of_terms, of_service) = (Arc::clone(pipeline), Arc::clone(pipeline));
    Desk {
        directory,
        terms: Box::new(move |issuer| terms(&of_terms.load(), issuer)),
        token_service: Box::new(move || Arc::clone(of_service.load().token_service())),
        users: Arc::clone(&shared.users),
        bulletin: Arc::clone(shared.links.bulletin()),
        clock: shared.clock.clone(),
    }
}

fn terms(pipeline: &Pipeline, name: &str) -> Option<Terms> {
    let issuer = pipeline.verifier().issuers().find(|issuer| issuer.config().name == name)?.config();
    let status = issuer.user_status.keycloak().and_then(|_| issuer.user_status.introspection())?;
    let all = || vec!["*".to_owned()];
    let template = NamespaceToken {
        audience: pipeline.token_service().config().audience.clone(),
        roles: all(),
        groups: all(),
        ..NamespaceToken::default()
    };
    Some(Terms {
        issue: Issue { template: Arc::new(template), original_issuer: issuer.url.clone() },
        silence: match status.when_unknown {
            WhenUnknown::Deny => status.bound,
            WhenUnknown::AllowFor(allow_for) => allow_for,
        },
    })
}

async fn take_news(mut news: mpsc::UnboundedReceiver<News>, desk: Desk, replica: Arc<Replica>) {
    while let Some(news) = news.recv().await {
        if let Some(News::SignedIn(user)) = desk.take(news)
            && !desk.directory.record(&user).is_some_and(|record| record.has_signed_in)
        {
            replica.note_sign_in(&user);
        }
    }
}
