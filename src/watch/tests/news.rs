//! What is told to whoever keeps users' tokens.

use super::fake::World;
use crate::identity::{Bulletin, News};
use crate::issuer::keycloak::{Feed, Meaning};
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn new_users_sign_ins_changes_and_sweeps_are_told() {
    let world = World::start().await;
    let bulletin = Arc::new(Bulletin::default());
    let mut news = bulletin.listen().unwrap();
    world.watch.tell(bulletin);
    let user = || "alice".to_owned();
    world.fake.tell(Feed::Admin, Meaning::Created { user: user() });
    world.fake.tell(Feed::Admin, Meaning::Changed { user: user() });
    world.fake.tell(Feed::Admin, Meaning::Enabled { user: user() });
    world.fake.tell(Feed::User, Meaning::SignedIn { user: user(), session: "s".into(), is_new: false });
    world.after(30_000).await;
    let mut told = [0; 5];
    while let Ok(news) = news.try_recv() {
        let (at, of) = match &news {
            News::Created(user) => (0, Some(user)),
            News::Changed(user) => (1, Some(user)),
            News::SignedIn(user) => (2, Some(user)),
            News::Swept { began_ms, .. } => (3 + usize::from(*began_ms == 0), None),
            News::Wanted { .. } => unreachable!("nobody asked"),
        };
        assert!(of.is_none_or(|user| **user.subject() == *"alice"));
        told[at] += 1;
    }
    assert_eq!(&told[..3], &[1, 2, 1]);
    assert!((1..=3).contains(&told[3]) && told[4] == 0, "{told:?}");
}
