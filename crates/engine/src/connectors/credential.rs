//! From a secret of the options to what a connector shows.

use millstream_config::Secret;
use millstream_core::Credential;

/// A file is read again by whoever shows it: it may change.
pub fn of(secret: &Secret) -> Credential {
    match secret.file() {
        Some(file) => Credential::File(file.to_owned()),
        None => Credential::given(secret.reveal()),
    }
}

/// The same; none is an empty one.
pub fn or_empty(secret: Option<&Secret>) -> Credential {
    secret.map_or_else(|| Credential::given(""), of)
}
