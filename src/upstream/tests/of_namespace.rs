//! Hosts that follow the user.

use super::{Fake, at, on_worker, request};
use crate::config;
use crate::upstream::{Pools, Upstream};
use http::{HeaderMap, Method};
use std::sync::Arc;

fn following(fake: &Fake, change: impl FnOnce(&mut config::Upstream)) -> Arc<Upstream> {
    fake.upstream_with(|config| {
        config.targets = vec![at("notebook.{namespace}.svc", fake.port)];
        change(config);
    })
}

#[tokio::test]
async fn each_namespace_has_a_host_of_its_own_and_keeps_it() {
    on_worker(async || {
        let fake = Fake::canned("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let (pools, base) = (Pools::new(), following(&fake, |_| {}));
        let of = |namespace: &str| pools.of_namespace(&base, namespace).unwrap();
        let [a, b] = ["team-a", "team-b"].map(|namespace| of(namespace).unwrap());
        assert_eq!(b.config.targets, [at("notebook.team-b.svc", fake.port)]);
        assert_eq!(a.host, format!("notebook.team-a.svc:{}", fake.port));
        assert!(Arc::ptr_eq(&a, &of("team-a").unwrap()) && !a.follows_user && base.follows_user);
        for odd in ["", "Team", "a.b", "a/b", "a:1", "-a", "{namespace}", &"a".repeat(64)] {
            assert!(of(odd).is_none(), "{odd}");
        }
    })
    .await;
}

#[tokio::test]
async fn connections_to_the_least_recently_used_are_let_go() {
    on_worker(async || {
        let fake = Fake::canned("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        // `localhost` resolves everywhere, and stands for one namespace.
        let (pools, base) =
            (Pools::new(), fake.upstream_with(|config| config.targets = vec![at("{namespace}", fake.port)]));
        let used = pools.of_namespace(&base, "localhost").unwrap().unwrap();
        let call = async || {
            let mut fields = HeaderMap::new();
            drop(request(Method::GET, "/").send(&pools, &used, &mut fields).await.unwrap());
        };
        call().await;
        assert_eq!((pools.idle_connections(), fake.connections()), (1, 1));
        for number in 0..300 {
            drop(pools.of_namespace(&base, &format!("ns-{number}")).unwrap());
            // In use all the time.
            assert!(Arc::ptr_eq(&used, &pools.of_namespace(&base, "localhost").unwrap().unwrap()));
        }
        assert_eq!(pools.idle_connections(), 1);
        for number in 0..256 {
            drop(pools.of_namespace(&base, &format!("other-{number}")).unwrap());
        }
        assert_eq!(pools.idle_connections(), 0);
        // Whoever holds it goes on with it.
        call().await;
    })
    .await;
}

#[tokio::test]
async fn the_name_that_tls_verifies_follows() {
    on_worker(async || {
        let fake = Fake::canned("").await;
        let shown = |name: Option<&str>| {
            let base = following(&fake, |config| {
                config.is_tls = true;
                config.tls.server_name = name.map(str::to_owned);
            });
            let own = Pools::new().of_namespace(&base, "team-a").unwrap().unwrap();
            format!("{:?}", own.endpoints.current()[0].server_name)
        };
        assert!(shown(None).contains("notebook.team-a.svc"), "{}", shown(None));
        let fixed = shown(Some("notebooks.example"));
        assert!(fixed.contains("notebooks.example") && !fixed.contains("team-a"), "{fixed}");
    })
    .await;
}
