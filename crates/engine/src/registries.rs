//! Where the schemas of a source or sink are: the embedded registry, or one elsewhere.

use crate::connectors::credential;
use anyhow::anyhow;
use millstream_config::{Pipeline as PipelineFile, RegistrySpec};
use millstream_core::{RegisteredSchema, Result, SchemaKind, Schemas};
use millstream_registry::client::{Auth, Client, Options, TlsOptions};
use millstream_registry::{NewSchema, Registry};
use std::fmt;
use std::sync::Arc;

/// A handle; clones know the same schemas.
#[derive(Clone)]
pub enum SchemaRegistry {
    Embedded(Registry),
    Elsewhere {
        client: Client,
        /// Its addresses.
        place: Arc<str>,
        auto_register: bool,
    },
}

/// The registries that files name: those that say the same share what they have fetched.
#[derive(Default)]
pub struct Registries {
    elsewhere: Vec<(RegistrySpec, SchemaRegistry)>,
}

impl Registries {
    /// Connects to nothing.
    pub fn get(
        &mut self,
        spec: &RegistrySpec,
        file: &PipelineFile,
    ) -> anyhow::Result<SchemaRegistry> {
        let mut spec = spec.clone();
        if let Some(tls) = &mut spec.tls {
            for path in [&mut tls.ca, &mut tls.certificate, &mut tls.key].into_iter().flatten() {
                let resolved = file.resolve(&*path);
                *path = resolved;
            }
        }
        if let Some((_, known)) = self.elsewhere.iter().find(|(known, _)| *known == spec) {
            return Ok(known.clone());
        }
        let client = Client::new(options(&spec)).map_err(|error| anyhow!(error.chain()))?;
        let registry = SchemaRegistry::Elsewhere {
            client,
            place: spec.url.join(", ").into(),
            auto_register: spec.auto_register,
        };
        self.elsewhere.push((spec, registry.clone()));
        Ok(registry)
    }
}

fn options(spec: &RegistrySpec) -> Options {
    let tls = spec.tls.clone().unwrap_or_default();
    Options {
        urls: spec.url.clone(),
        auth: match (&spec.username, &spec.token) {
            (_, Some(token)) => Auth::Bearer { token: credential::of(token) },
            (Some(user), None) => Auth::Basic {
                user: user.clone(),
                password: credential::or_empty(spec.password.as_ref()),
            },
            (None, None) => Auth::None,
        },
        tls: TlsOptions { ca: tls.ca, certificate: tls.certificate, key: tls.key },
        auto_register: spec.auto_register,
        timeout: spec.timeout.0,
        ..Options::new("")
    }
}

impl SchemaRegistry {
    pub fn schemas(&self) -> Arc<dyn Schemas> {
        match self {
            SchemaRegistry::Embedded(registry) => Arc::new(registry.clone()),
            SchemaRegistry::Elsewhere { client, .. } => Arc::new(client.clone()),
        }
    }

    /// Its addresses, when it is not the embedded one.
    pub fn place(&self) -> Option<&str> {
        match self {
            SchemaRegistry::Embedded(_) => None,
            SchemaRegistry::Elsewhere { place, .. } => Some(place),
        }
    }

    /// In a sentence.
    pub fn called(&self) -> String {
        match self.place() {
            None => "the registry".to_owned(),
            Some(place) => format!("the schema registry at {place}"),
        }
    }

    /// Whether sinks may register schemas here.
    pub fn takes_schemas(&self) -> bool {
        match self {
            SchemaRegistry::Embedded(_) => true,
            SchemaRegistry::Elsewhere { auto_register, .. } => *auto_register,
        }
    }

    /// How somebody registers a schema here by hand.
    pub fn by_hand(&self, subject: &str) -> String {
        match self {
            SchemaRegistry::Embedded(_) => {
                format!("register it with `millstream schemas register {subject} FILE`")
            }
            SchemaRegistry::Elsewhere { .. } => format!(
                "register it there, as by `millstream schemas register {subject} FILE --file \
                 PIPELINE_FILE`"
            ),
        }
    }

    pub async fn latest(&self, subject: &str) -> Result<Option<Arc<RegisteredSchema>>> {
        self.schemas().latest(subject).await
    }

    pub async fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u32> {
        self.schemas().register(subject, kind, text).await
    }

    /// Whether the subject has this very schema. The embedded one is not asked: it takes schemas.
    pub async fn has(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<bool> {
        match self {
            SchemaRegistry::Embedded(_) => Ok(false),
            SchemaRegistry::Elsewhere { client, .. } => {
                Ok(client.id_of(subject, kind, text).await?.is_some())
            }
        }
    }

    /// Why a schema cannot become the next version of a subject; empty when it can.
    pub async fn incompatibilities(
        &self,
        subject: &str,
        kind: SchemaKind,
        text: &str,
    ) -> Result<Vec<String>> {
        match self {
            SchemaRegistry::Embedded(registry) => {
                Ok(registry.compatibility(subject, None, &NewSchema::of(kind, text), false)?)
            }
            SchemaRegistry::Elsewhere { client, .. } => {
                client.incompatibilities(subject, kind, text).await
            }
        }
    }
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place().unwrap_or("embedded"))
    }
}
