//! What has to be added to a pod so that it gets the token: a pod in, a JSON Patch (RFC 6902) out. Nothing is changed or taken away.

use super::pod::{ANNOTATION, Container, FILE, FOLDER, KEY, Object, Place, Pod, SECRET, Spec};
use serde::Serialize;
use serde_json::{Value, json};

/// The volume that Postern adds.
pub const VOLUME: &str = "postern-auth-token";

/// One addition (RFC 6902 §4.1).
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Addition {
    op: &'static str,
    path: String,
    value: Value,
}

/// Why a pod cannot have the token where it belongs. Whoever makes the pod reads this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Conflict {
    #[error(
        "the volume `{VOLUME}` is not the one that the annotation `{ANNOTATION}` adds (Secret `{SECRET}`, item `{KEY}` as \
         `{FILE}`): give it another name"
    )]
    Volume,
    #[error(
        "the container `{container}` mounts the volume `{volume}` at `{FOLDER}`, where the annotation `{ANNOTATION}` puts the \
         token: mount it elsewhere, or remove the annotation"
    )]
    Mount { container: String, volume: String },
    #[error(
        "the container `{container}` mounts a part of the volume `{volume}` (`subPath`) at `{FOLDER}`: it would never be \
         refreshed; remove the mount, and Postern adds one of the whole volume"
    )]
    Part { container: String, volume: String },
    #[error("the container `{container}` mounts the volume `{volume}` over `{FOLDER}/{FILE}`, the file of the token")]
    Hidden { container: String, volume: String },
}

/// What is to be added to a pod that is being created; nothing, if it has all. `None`: it does not ask for the token.
pub(super) fn for_new_pod(pod: &Pod) -> Result<Option<Vec<Addition>>, Conflict> {
    if !pod.asks_for_token() {
        return Ok(None);
    }
    let spec = &pod.spec;
    let lists = [("initContainers", &spec.init_containers), ("containers", &spec.containers)];
    let mut lacking = Vec::new();
    for (list, containers) in lists {
        for (index, Object(container)) in containers.iter().flatten().enumerate() {
            if !has_token(container, spec)? {
                lacking.push((list, index, container));
            }
        }
    }
    if lacking.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut additions = Vec::new();
    let volume = match spec.token_volume() {
        Some(volume) => volume,
        None if spec.volumes().any(|volume| volume.name == VOLUME) => return Err(Conflict::Volume),
        None => {
            additions.push(append(&["spec", "volumes"], spec.volumes.is_some(), volume()));
            VOLUME
        }
    };
    additions.extend(lacking.into_iter().map(|(list, index, container)| mount(list, index, container, volume)));
    Ok(Some(additions))
}

/// What becomes of a request to add ephemeral containers.
#[derive(Debug, PartialEq)]
pub(super) enum Ephemeral {
    /// The pod does not ask for the token.
    Untouched,
    /// It does, but was made without the volume, and cannot get one any more.
    NoVolume,
    /// What is to be added; nothing, if they have all.
    Add(Vec<Addition>),
}

/// What is to be added to the ephemeral containers of `pod` that `stored` has not.
///
/// Of such a request the API server keeps the ephemeral containers only, and refuses it if one that is there already is changed
/// (`ValidatePodEphemeralContainersUpdate`). So annotation and volumes are those of the pod as it is stored.
pub(super) fn for_ephemeral_containers(pod: &Pod, stored: &Pod) -> Result<Ephemeral, Conflict> {
    if !stored.asks_for_token() {
        return Ok(Ephemeral::Untouched);
    }
    let Some(volume) = stored.spec.token_volume() else { return Ok(Ephemeral::NoVolume) };
    let known: Vec<_> = stored.spec.ephemeral_containers.iter().flatten().map(|known| known.0.name.as_str()).collect();
    let mut additions = Vec::new();
    for (index, Object(container)) in pod.spec.ephemeral_containers.iter().flatten().enumerate() {
        if !known.contains(&container.name.as_str()) && !has_token(container, &stored.spec)? {
            additions.push(mount("ephemeralContainers", index, container, volume));
        }
    }
    Ok(Ephemeral::Add(additions))
}

/// Whether a container mounts the token where it belongs.
fn has_token(container: &Container, spec: &Spec) -> Result<bool, Conflict> {
    let mut has_token = false;
    for Object(mount) in container.volume_mounts.iter().flatten() {
        let names = || (shown(&container.name), shown(&mount.name));
        let brings_token = || spec.volumes().any(|volume| volume.name == mount.name && volume.brings_token());
        match mount.place() {
            Place::Elsewhere => {}
            Place::File => {
                let (container, volume) = names();
                return Err(Conflict::Hidden { container, volume });
            }
            Place::Folder if !brings_token() => {
                let (container, volume) = names();
                return Err(Conflict::Mount { container, volume });
            }
            Place::Folder if mount.is_of_a_part() => {
                let (container, volume) = names();
                return Err(Conflict::Part { container, volume });
            }
            Place::Folder => has_token = true,
        }
    }
    Ok(has_token)
}

/// `optional`: a pod must not wait for ever for a Secret that nobody makes, and a removed Secret must leave the running pods.
fn volume() -> Value {
    let secret = json!({ "secretName": SECRET, "items": [{ "key": KEY, "path": FILE }], "optional": true });
    json!({ "name": VOLUME, "secret": secret })
}

fn mount(list: &str, index: usize, container: &Container, volume: &str) -> Addition {
    let path = ["spec", list, &index.to_string(), "volumeMounts"];
    let value = json!({ "name": volume, "mountPath": FOLDER, "readOnly": true });
    append(&path, container.volume_mounts.is_some(), value)
}

/// Adds to the end of a list, which may not be there yet.
fn append(list: &[&str], is_there: bool, value: Value) -> Addition {
    let path = pointer(list);
    match is_there {
        true => Addition { op: "add", path: path + "/-", value },
        false => Addition { op: "add", path, value: Value::Array(vec![value]) },
    }
}

/// A JSON Pointer (RFC 6901 §3).
fn pointer(names: &[&str]) -> String {
    names.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

/// A name for a message; those that the API server lets pass are no longer.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(63).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_a_pointer() {
        assert_eq!(pointer(&["spec", "a/b", "m~n", "~1"]), "/spec/a~1b/m~0n/~01");
        let value = json!({ "a/b": { "m~n": 7 } });
        assert_eq!(value.pointer(&pointer(&["a/b", "m~n"])), Some(&json!(7)));
    }

    #[test]
    fn a_message_is_short_enough_for_the_api_server_whatever_the_names() {
        let long = "x".repeat(500);
        let conflict = Conflict::Mount { container: shown(&long), volume: shown(&long) };
        assert!(conflict.to_string().len() < 512);
    }
}
