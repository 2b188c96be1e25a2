//! Whatever a pod holds: asked for, each container gets exactly one mount and nothing else changes; not asked for, nothing does.

use super::support::{answer, apply, creation, token_mounts};
use crate::webhook::{ANNOTATION, Outcome};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// What stands in a pod and is none of our business.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z/~]{1,6}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An object with further members under names that Kubernetes does not have.
fn with_more(object: Value) -> impl Strategy<Value = Value> {
    prop::collection::vec(("x[a-z/~]{0,5}", anything()), 0..3).prop_map(move |more| {
        let mut members = object.as_object().cloned().unwrap_or_default();
        members.extend(more);
        Value::Object(members)
    })
}

fn mount() -> impl Strategy<Value = Value> {
    let paths = ["/data", "/etc/secrets", "/etc/secrets/ezua/more", "/etc/secrets/ezuax", "/var/run/x", ""];
    (select(vec!["a", "b", "c"]), select(paths.to_vec()))
        .prop_flat_map(|(name, path)| with_more(json!({ "name": name, "mountPath": path })))
}

/// A list under a name: absent, null, or there.
fn list(
    name: &'static str,
    of: impl Strategy<Value = Value> + 'static,
) -> impl Strategy<Value = Option<(&'static str, Value)>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some((name, Value::Null))),
        6 => prop::collection::vec(of, 0..4).prop_map(move |members| Some((name, Value::from(members)))),
    ]
}

fn container() -> impl Strategy<Value = Value> {
    ("[a-z]{1,8}", list("volumeMounts", mount())).prop_flat_map(|(name, mounts)| {
        let mut container = Map::from_iter([("name".to_owned(), name.into())]);
        container.extend(mounts.map(|(name, mounts)| (name.to_owned(), mounts)));
        with_more(Value::Object(container))
    })
}

fn volume() -> impl Strategy<Value = Value> {
    let sources = vec![
        json!({ "emptyDir": {} }),
        json!({ "secret": { "secretName": "other" } }),
        json!({ "secret": null }),
        json!({ "projected": { "sources": [] } }),
        // The token by hand, under another name.
        json!({ "secret": { "secretName": "access-token", "items": [{ "key": "AUTH_TOKEN", "path": ".auth_token" }] } }),
    ];
    (select(vec!["a", "b", "c"]), select(sources)).prop_flat_map(|(name, mut volume)| {
        volume["name"] = name.into();
        with_more(volume)
    })
}

fn pod(annotations: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let containers = (list("initContainers", container()), list("containers", container()));
    (annotations, list("volumes", volume()), containers, anything()).prop_map(
        |(annotations, volumes, (init, main), status)| {
            let lists = [volumes, init, main].into_iter().flatten();
            let spec: Map<_, _> = lists.map(|(name, list)| (name.to_owned(), list)).collect();
            json!({ "kind": "Pod", "metadata": { "annotations": annotations }, "spec": spec, "status": status })
        },
    )
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array()).flatten()
}

/// Takes away what the webhook adds; an empty list is as none.
fn without_token(mut pod: Value) -> Value {
    let clean = |list: &mut Value, is_ours: &dyn Fn(&Value) -> bool| {
        if let Some(members) = list.as_array_mut() {
            members.retain(|member| !is_ours(member));
        }
        if list.as_array().is_some_and(Vec::is_empty) {
            *list = Value::Null;
        }
    };
    let spec = &mut pod["spec"];
    clean(&mut spec["volumes"], &|volume| volume["name"] == "postern-auth-token");
    for name in ["initContainers", "containers"] {
        for container in spec[name].as_array_mut().into_iter().flatten() {
            clean(&mut container["volumeMounts"], &|mount| mount["mountPath"] == "/etc/secrets/ezua");
        }
    }
    pod
}

fn not_asked_for() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({ "hpe-ezua/add-auth-tokens": "true", "add-auth-token": "true" })),
        select(vec!["false", "True", "", " true", "1"]).prop_map(|value| json!({ ANNOTATION: value })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_container_of_a_pod_that_asks_gets_exactly_one_mount(pod in pod(Just(json!({ ANNOTATION: "true" })))) {
        let first = answer(&creation(&pod));
        let mut patched = pod.clone();
        apply(&first.patch, &mut patched);
        for container in containers(&patched) {
            prop_assert_eq!(token_mounts(container), 1, "{}", container);
        }
        let has_containers = containers(&pod).next().is_some();
        prop_assert_eq!(first.outcome, if has_containers { Outcome::Patched } else { Outcome::Unchanged });
        // Nothing else changed, and asked again there is nothing left to do.
        prop_assert_eq!(without_token(patched.clone()), without_token(pod));
        let second = answer(&creation(&patched));
        prop_assert!(second.patch.is_empty() && second.outcome == Outcome::Unchanged);
    }

    #[test]
    fn a_pod_that_does_not_ask_is_not_touched(pod in pod(not_asked_for())) {
        let answered = answer(&creation(&pod));
        prop_assert!(answered.patch.is_empty() && answered.outcome == Outcome::Untouched);
    }

    #[test]
    fn a_mount_in_the_way_refuses_the_pod(
        pod in pod(Just(json!({ ANNOTATION: "true" }))),
        which in any::<prop::sample::Index>(),
        path in select(vec!["/etc/secrets/ezua", "/etc/secrets/ezua/", "/etc/secrets/ezua/.auth_token"]),
    ) {
        let mut pod = pod;
        let lists = ["initContainers", "containers"].into_iter();
        let lists: Vec<_> = lists.filter(|list| pod["spec"][list].as_array().is_some_and(|list| !list.is_empty())).collect();
        prop_assume!(!lists.is_empty());
        let list = pod["spec"][*which.get(&lists)].as_array_mut().unwrap();
        let container = which.index(list.len());
        list[container]["volumeMounts"] = json!([{ "name": "in-the-way", "mountPath": path }]);
        let answered = answer(&creation(&pod));
        prop_assert_eq!(answered.outcome, Outcome::Refused);
        prop_assert!(answered.patch.is_empty() && answered.review["response"]["allowed"] == false);
        prop_assert!(answered.review["response"]["status"]["message"].as_str().unwrap().contains("in-the-way"));
    }
}
