//! A form that is taken means to others what it means to us, and holds nothing twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::endpoints::form::Form;

fuzz_target!(|data: &[u8]| {
    let Ok(form) = Form::parse(data) else { return };
    let theirs: Vec<_> = url::form_urlencoded::parse(data).into_owned().collect();
    assert_eq!(form.parameters(), theirs);
    for (at, (name, _)) in theirs.iter().enumerate() {
        assert!(theirs[at + 1..].iter().all(|(other, _)| other != name));
    }
});
