//! What connectors show to be let in: never printed, and read again where a file holds it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hidden(pub String);

/// A password or a token, or the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    Given(Hidden),
    File(PathBuf),
}

impl Credential {
    pub fn given(text: impl Into<String>) -> Credential {
        Credential::Given(Hidden(text.into()))
    }

    pub fn file(&self) -> Option<&Path> {
        match self {
            Credential::Given(_) => None,
            Credential::File(path) => Some(path),
        }
    }

    /// As it is now, of a file without its last line break. Blocks on the disk. The error is a
    /// sentence about `what` it is, a `password` or a `token`, without the secret.
    pub fn current(&self, what: &str) -> Result<Hidden, String> {
        let path = match self {
            Credential::Given(hidden) => return Ok(hidden.clone()),
            Credential::File(path) => path,
        };
        let told = |why: String| format!("the {what} file {} {why}", path.display());
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| told(format!("cannot be read: {error}")))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        match text.strip_suffix('\r').unwrap_or(text) {
            "" => Err(told(format!("is empty: write the {what} into it"))),
            secret => Ok(Hidden(secret.to_owned())),
        }
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Hidden(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_now_and_nothing_is_printed() {
        let dir = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let credential = Credential::File(dir.join("password"));
        let error = credential.current("password").unwrap_err();
        assert!(error.contains("password file") && error.contains("cannot be read"), "{error}");
        for (text, secret) in [("one\n", "one"), ("two\r\n", "two"), ("a b\n\n", "a b\n")] {
            std::fs::write(dir.join("password"), text).unwrap();
            assert_eq!(credential.current("password").unwrap().0, secret);
        }
        std::fs::write(dir.join("password"), "\n").unwrap();
        let error = credential.current("password").unwrap_err();
        assert!(error.ends_with("is empty: write the password into it"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(format!("{:?}", Credential::given("canary")), "Given(***)");
    }
}
