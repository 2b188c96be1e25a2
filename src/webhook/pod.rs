//! What is read of a pod: annotations, volumes, mounts. The rest is passed over, and stays as it is.
//!
//! The types are stricter than what serde derives: an array is no object here, and a member that stands twice is an error. What is
//! `null` is as if it were absent, as the API server has it.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

/// Whoever asks for the token says so by this annotation, with the value `true`.
pub const ANNOTATION: &str = "hpe-ezua/add-auth-token";

/// A pod that a kubelet shows for a manifest of its own; it may name no Secret.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The Secret in each user's namespace.
pub const SECRET: &str = "access-token";

/// Its member, and the file that it becomes.
pub(super) const KEY: &str = "AUTH_TOKEN";
pub(super) const FILE: &str = ".auth_token";

/// The folder of that file.
pub(super) const FOLDER: &str = "/etc/secrets/ezua";

#[derive(Debug, Default, Deserialize)]
pub(super) struct Pod {
    #[serde(default, deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) volumes: Option<Vec<Object<Volume>>>,
    pub(super) init_containers: Option<Vec<Object<Container>>>,
    pub(super) containers: Option<Vec<Object<Container>>>,
    pub(super) ephemeral_containers: Option<Vec<Object<Container>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    #[serde(default)]
    pub(super) name: String,
    secret: Option<Object<SecretVolume>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretVolume {
    secret_name: Option<String>,
    items: Option<Vec<Object<Item>>>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    key: String,
    #[serde(default)]
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(default)]
    pub(super) name: String,
    pub(super) volume_mounts: Option<Vec<Object<Mount>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) mount_path: String,
    sub_path: Option<String>,
    sub_path_expr: Option<String>,
}

/// Where a mount is, as seen from the token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the token belongs.
    Folder,
    /// At the file of the token, or beneath it.
    File,
    /// It does not concern the token.
    Elsewhere,
}

impl Pod {
    pub(super) fn asks_for_token(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations
            .is_some_and(|all| all.get(ANNOTATION).is_some_and(|value| value == "true") && !all.contains_key(MIRROR))
    }
}

impl Spec {
    /// The name of the first volume that brings the token.
    pub(super) fn token_volume(&self) -> Option<&str> {
        self.volumes().find(|volume| volume.brings_token()).map(|volume| volume.name.as_str())
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().flatten().map(|volume| &volume.0)
    }
}

impl Volume {
    /// Whether it puts the token where it belongs, whoever wrote it and whatever else it may hold.
    pub(super) fn brings_token(&self) -> bool {
        self.secret.as_ref().is_some_and(|Object(secret)| {
            let mut items = secret.items.iter().flatten();
            secret.secret_name.as_deref() == Some(SECRET)
                && items.any(|Object(item)| item.key == KEY && item.path == FILE)
        })
    }
}

impl Mount {
    /// Whether a part of the volume is mounted: such a mount is never refreshed.
    pub(super) fn is_of_a_part(&self) -> bool {
        [&self.sub_path, &self.sub_path_expr].into_iter().flatten().any(|path| !path.is_empty())
    }

    /// Paths are compared as the kubelet will resolve them; the API server compares their letters only.
    pub(super) fn place(&self) -> Place {
        let folder = FOLDER.split('/').skip(1);
        let mut parts = Vec::new();
        for part in self.mount_path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let mut parts = parts.into_iter();
        if !folder.into_iter().all(|wanted| parts.next() == Some(wanted)) {
            return Place::Elsewhere;
        }
        match parts.next() {
            None => Place::Folder,
            Some(FILE) => Place::File,
            Some(_) => Place::Elsewhere,
        }
    }
}

/// What must be written as an object.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_as_it_will_be_resolved() {
        let place = |path: &str| {
            let text = serde_json::json!({ "name": "v", "mountPath": path }).to_string();
            serde_json::from_str::<Mount>(&text).unwrap().place()
        };
        for path in [
            "/etc/secrets/ezua",
            "/etc/secrets/ezua/",
            "/etc//secrets/./ezua",
            "etc/secrets/ezua",
            "/etc/x/../secrets/ezua",
            "/../etc/secrets/ezua",
        ] {
            assert_eq!(place(path), Place::Folder, "{path}");
        }
        for path in ["/etc/secrets/ezua/.auth_token", "/etc/secrets/ezua/.auth_token/x"] {
            assert_eq!(place(path), Place::File, "{path}");
        }
        for path in [
            "",
            "/",
            "/etc/secrets",
            "/etc/secrets/ezuax",
            "/etc/secrets/ezua/other",
            "/x/etc/secrets/ezua",
            "/etc/secrets/ezua/..",
        ] {
            assert_eq!(place(path), Place::Elsewhere, "{path}");
        }
    }

    #[test]
    fn an_array_is_no_object_and_a_member_stands_once() {
        for text in ["[]", r#"{"spec":[[]]}"#, r#"{"spec":{"containers":[["a",[]]]}}"#, r#"{"spec":{},"spec":{}}"#] {
            assert!(serde_json::from_str::<Object<Pod>>(text).is_err(), "{text}");
        }
        for text in ["{}", r#"{"metadata":null,"spec":null}"#, r#"{"spec":{"containers":null},"status":[1]}"#] {
            assert!(serde_json::from_str::<Object<Pod>>(text).is_ok(), "{text}");
        }
    }
}
