//! Who we are to a server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    #[default]
    None,
    Basic {
        user: String,
        password: Hidden,
    },
    Bearer(Hidden),
    /// A file with the token, read again when it changes.
    BearerFile(PathBuf),
}

/// The value of the `Authorization` header now.
pub(crate) struct Authorization {
    auth: Auth,
    token: Mutex<Option<(Option<SystemTime>, HeaderValue)>>,
}

impl Authorization {
    pub fn new(auth: Auth) -> Self {
        Self { auth, token: Mutex::default() }
    }

    /// The error is a sentence without the secret.
    pub fn now(&self) -> Result<Option<HeaderValue>, String> {
        match &self.auth {
            Auth::None => Ok(None),
            Auth::Basic { user, password } => {
                value(&format!("Basic {}", BASE64.encode(format!("{user}:{}", password.0))))
            }
            Auth::Bearer(token) => value(&format!("Bearer {}", token.0)),
            Auth::BearerFile(path) => {
                let named = |error| format!("the token's file {}: {error}", path.display());
                let written = std::fs::metadata(path).map_err(named)?.modified().ok();
                let mut known = self.token.lock();
                if let Some((when, value)) = &*known
                    && *when == written
                    && when.is_some()
                {
                    return Ok(Some(value.clone()));
                }
                let token = std::fs::read_to_string(path).map_err(named)?;
                let value = value(&format!("Bearer {}", token.trim()))?;
                *known = value.clone().map(|value| (written, value));
                Ok(value)
            }
        }
    }

    /// What was read is not believed any more: a file may change twice within a tick of its clock.
    pub fn forget(&self) {
        *self.token.lock() = None;
    }
}

fn value(text: &str) -> Result<Option<HeaderValue>, String> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| "the secret has characters that no header may have")?;
    value.set_sensitive(true);
    Ok(Some(value))
}
