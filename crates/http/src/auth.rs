//! Who we are to a server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::HeaderValue;
use millstream_core::Credential;
use parking_lot::Mutex;
use std::time::SystemTime;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    #[default]
    None,
    Basic {
        user: String,
        password: Credential,
    },
    Bearer(Credential),
}

/// The value of the `Authorization` header now.
pub(crate) struct Authorization {
    auth: Auth,
    /// When its file was written, and what it gave.
    known: Mutex<Option<(Option<SystemTime>, HeaderValue)>>,
}

impl Authorization {
    pub fn new(auth: Auth) -> Self {
        Self { auth, known: Mutex::default() }
    }

    /// The error is a sentence without the secret.
    pub fn now(&self) -> Result<Option<HeaderValue>, String> {
        let file = match &self.auth {
            Auth::None => return Ok(None),
            Auth::Basic { password: secret, .. } | Auth::Bearer(secret) => secret.file(),
        };
        // A file that cannot be looked at is told of where it is read.
        let written = file.and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
        let mut known = self.known.lock();
        if let Some((when, value)) = &*known
            && *when == written
            && (when.is_some() || file.is_none())
        {
            return Ok(Some(value.clone()));
        }
        let value = self.auth.value()?;
        *known = value.clone().map(|value| (written, value));
        Ok(value)
    }

    /// What was read is not believed any more: a file may change twice within a tick of its clock.
    pub fn forget(&self) {
        *self.known.lock() = None;
    }
}

impl Auth {
    fn value(&self) -> Result<Option<HeaderValue>, String> {
        let text = match self {
            Auth::None => return Ok(None),
            Auth::Basic { user, password } => {
                let password = password.current("password")?;
                format!("Basic {}", BASE64.encode(format!("{user}:{}", password.0)))
            }
            Auth::Bearer(token) => format!("Bearer {}", token.current("token")?.0.trim()),
        };
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| "the secret has characters that no header may have")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}
