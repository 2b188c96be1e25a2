//! Nothing that an issuer tells in its feeds brings the gateway down; each row is an event or counted, and ids hold what ids may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::issuer::keycloak::{parse_admin_events, parse_user_events};

fuzz_target!(|data: &[u8]| {
    for parse in [parse_admin_events, parse_user_events] {
        let Ok(page) = parse(data) else { continue };
        assert_eq!(page.rows as u64, page.events.len() as u64 + page.malformed + page.unrelated);
        for event in &page.events {
            assert!(event.time_ms <= page.newest_ms && !event.id.is_empty());
        }
    }
});
