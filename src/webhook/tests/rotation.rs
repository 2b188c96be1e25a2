//! Years of certificates, by a clock that the test moves.

use crate::base::clock::Clock;
use crate::webhook::{CertificateError, Certificates, Material};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const START: u64 = 1_800_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn names() -> Vec<String> {
    vec!["postern-webhook.postern.svc".into(), "127.0.0.1".into()]
}

fn made(now: u64) -> Material {
    Material::default().maintained(&names(), now).unwrap().unwrap()
}

/// The file names, of authorities that can sign and of those that cannot, and of the serving certificate.
fn kinds(material: &Material) -> (usize, usize, usize) {
    let files = material.files();
    let count = |kind: &str, has_key: bool| {
        let is_so = |text: &str| text.contains("PRIVATE KEY") == has_key;
        files.iter().filter(|(name, text)| name.starts_with(kind) && is_so(text.expose())).count()
    };
    (count("authority", true), count("authority", false), count("serving", true))
}

#[test]
fn for_years_a_client_whose_bundle_is_a_day_old_takes_the_certificate() {
    let mut material = made(START);
    let mut yesterday = vec![material.clone(); 4];
    let (mut changes, mut both) = (0, 0);
    for quarter in 1..3 * 365 * 4 {
        let now = START + quarter * 6 * HOUR;
        if let Some(next) = material.maintained(&names(), now).unwrap() {
            material = next;
            changes += 1;
            assert_eq!(material.maintained(&names(), now).unwrap(), None, "done is done");
        }
        let (signing, retired, serving) = kinds(&material);
        assert!((1..=2).contains(&signing) && retired <= 1 && signing + retired <= 2 && serving == 1);
        both += u64::from(signing + retired == 2);
        assert!(material.accepts(&material, &names(), now), "after {quarter} quarters of a day");
        assert!(yesterday[0].accepts(&material, &names(), now), "after {quarter} quarters of a day");
        // Nor is a replica left behind that has not looked for a day.
        assert!(material.accepts(&yesterday[0], &names(), now), "after {quarter} quarters of a day");
        yesterday.rotate_left(1);
        yesterday[3] = material.clone();
    }
    // A serving certificate each 20 days, an authority each 305, its handing over and its end.
    assert!((55..75).contains(&changes), "{changes}");
    assert!((100 * 4..200 * 4).contains(&both), "old and new overlap for {both} quarters of a day");
}

#[test]
fn a_serving_certificate_is_replaced_at_two_thirds_of_its_life() {
    let material = made(START);
    assert_eq!(material.maintained(&names(), START + 20 * DAY - 1).unwrap(), None);
    let next = material.maintained(&names(), START + 20 * DAY).unwrap().unwrap();
    assert_eq!(next.ca_bundle(), material.ca_bundle());
    assert!(next.files().contains_key(&format!("serving-{}.pem", START + 20 * DAY)));
    assert!(
        material.accepts(&material, &names(), START + 30 * DAY)
            && !material.accepts(&material, &names(), START + 30 * DAY + 1)
    );
}

#[test]
fn the_key_of_an_authority_is_gone_when_its_successor_signs() {
    let mut material = made(START);
    let mut at = |day: u64| {
        if let Some(next) = material.maintained(&names(), START + day * DAY).unwrap() {
            material = next;
        }
        (kinds(&material), material.ca_bundle().matches("BEGIN CERTIFICATE").count())
    };
    assert_eq!(at(304), ((1, 0, 1), 1));
    assert_eq!(at(305), ((2, 0, 1), 2));
    assert_eq!(at(306), ((1, 1, 1), 2));
    assert_eq!(at(364), ((1, 1, 1), 2));
    assert_eq!(at(365), ((1, 0, 1), 1));
}

#[test]
fn another_name_gets_another_certificate_of_the_same_authority() {
    let material = made(START);
    let more = vec!["postern-webhook.postern.svc".to_owned(), "other.postern.svc".to_owned()];
    assert!(!material.accepts(&material, &more, START));
    let next = material.maintained(&more, START).unwrap().unwrap();
    assert!(material.accepts(&next, &more, START));
    let error = material.maintained(&["no name".to_owned()], START).unwrap_err();
    assert!(matches!(error, CertificateError::Name(_)), "{error}");
}

#[test]
fn a_process_that_was_off_for_long_makes_what_it_needs() {
    for days in [31, 306, 350, 364, 365, 366, 800] {
        let material = made(START);
        let now = START + days * DAY;
        let next = material.maintained(&names(), now).unwrap().unwrap();
        assert!(next.accepts(&next, &names(), now), "{days}");
        // It need not be replaced at once, nor a minute later.
        assert_eq!(next.maintained(&names(), now + 60).unwrap(), None, "{days}");
        let after = next.maintained(&names(), now + DAY).unwrap().unwrap_or_else(|| next.clone());
        assert!(next.accepts(&after, &names(), now + DAY), "{days}");
    }
}

#[test]
fn what_was_made_under_a_clock_that_was_wrong_is_made_again() {
    let ahead = made(START + 500 * DAY);
    let right = ahead.maintained(&names(), START).unwrap().unwrap();
    assert!(right.accepts(&right, &names(), START));
    // A clock that is corrected by minutes changes nothing.
    let material = made(START);
    assert_eq!(material.maintained(&names(), START - 30 * 60).unwrap(), None);
    assert!(material.accepts(&material, &names(), START - 30 * 60));
}

#[test]
fn the_texts_that_are_kept_are_read_back() {
    let material = made(START).maintained(&names(), START + 306 * DAY).unwrap().unwrap();
    let files = material.files();
    let texts = files.iter().map(|(name, text)| (name.as_str(), text.expose()));
    assert_eq!(Material::parse(texts.clone()).unwrap(), material);
    let noise = [("README", "x"), ("serving-x.pem", ""), ("other-1.pem", ""), ("authority-1.new", "")];
    assert_eq!(Material::parse(texts.chain(noise)).unwrap(), material);
    for text in ["", "no PEM", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"]
    {
        let error = Material::parse([("authority-1.pem", text)]).unwrap_err();
        assert!(error.to_string().contains("`authority-1.pem`"), "{error}");
    }
    assert!(!material.ca_bundle().contains("PRIVATE"));
    assert!(!format!("{material:?}").contains("PRIVATE"));
}

#[test]
fn a_key_before_its_certificate_is_no_part_of_the_bundle() {
    let files = made(START).files();
    let (name, text) = files.iter().next().unwrap();
    let at = text.expose().find("-----BEGIN PRIVATE KEY").unwrap();
    let turned = format!("{}{}", &text.expose()[at..], &text.expose()[..at]);
    let material = Material::parse([(name.as_str(), turned.as_str())]).unwrap();
    assert!(!material.ca_bundle().contains("PRIVATE"));
}

#[test]
fn a_folder_is_kept_over_restarts_and_for_its_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("a/webhook");
    let open = || Certificates::open(folder.clone(), names(), Clock::manual(START)).unwrap();
    let bundle = open().ca_bundle();
    assert_eq!(open().ca_bundle(), bundle);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn replicas_of_one_folder_come_to_agree() {
    let home = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let open = || Certificates::open(home.path().to_owned(), names(), clock.clone()).unwrap();
    let (one, other) = (open(), open());
    clock.advance(Duration::from_secs(305 * DAY));
    assert!(one.maintain().unwrap() && !one.maintain().unwrap());
    assert!(other.maintain().unwrap() && !other.maintain().unwrap());
    assert_eq!(one.ca_bundle(), other.ca_bundle());
    assert_eq!(one.ca_bundle().matches("BEGIN").count(), 2);
    let files = || fs::read_dir(home.path()).unwrap().count();
    assert_eq!(files(), 3);
    clock.advance(Duration::from_secs(61 * DAY));
    assert!(other.maintain().unwrap() && one.maintain().unwrap());
    assert_eq!((files(), one.ca_bundle().matches("BEGIN").count()), (2, 1));
}

#[test]
fn a_file_that_was_spoilt_is_named_and_what_is_in_force_stays() {
    let home = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let certificates = Certificates::open(home.path().to_owned(), names(), clock.clone()).unwrap();
    let bundle = certificates.ca_bundle();
    let path = home.path().join(format!("authority-{START}.pem"));
    fs::write(&path, "spoilt").unwrap();
    let error = certificates.maintain().unwrap_err();
    assert!(error.to_string().contains(&format!("authority-{START}.pem")), "{error}");
    assert_eq!(certificates.ca_bundle(), bundle);
    fs::remove_file(&path).unwrap();
    assert!(certificates.maintain().unwrap());
    assert_ne!(certificates.ca_bundle(), bundle);
}
