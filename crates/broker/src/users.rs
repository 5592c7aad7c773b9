//! The clients that may connect, and how each shows that it is who it says: SCRAM's keys, of which
//! no password can be made.

use crate::error::{Error, Result};
use ring::digest::{self, Algorithm};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const ITERATIONS: u32 = 4_096;
const SALT_BYTES: usize = 16;

/// Users by name. Cheap to clone.
#[derive(Clone)]
pub struct Users(Arc<Known>);

struct Known {
    keys: HashMap<String, [Keys; 2]>,
    /// What the salts of those that are not there are made of: the same each time, as real ones are.
    secret: Vec<u8>,
}

/// What SCRAM keeps of a password, for one of its hashes.
#[derive(Clone)]
pub struct Keys {
    pub hash: Hash,
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub stored: Vec<u8>,
    pub server: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Users").field(&self.0.keys.len()).finish()
    }
}

impl Users {
    /// Reads a file of `name:password` lines; empty ones and those that begin with `#` are skipped.
    pub fn load(path: &Path) -> Result<Users> {
        let wrong = |what: String| Error::File { path: path.to_owned(), what };
        let about = std::fs::metadata(path);
        let about = about.map_err(|error| Error::io("cannot read the users in", path, error))?;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(wrong(
                "it holds passwords and others may read it: `chmod 600` it first".to_owned(),
            ));
        }
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Error::io("cannot read the users in", path, error))?;
        let mut users = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    users.push((name.to_owned(), password.to_owned()));
                }
                _ => {
                    return Err(wrong(format!(
                        "line {} is not `name:password`: write one user a line",
                        number + 1
                    )));
                }
            }
        }
        if users.is_empty() {
            return Err(wrong("there is no user in it: nobody could connect".to_owned()));
        }
        Ok(Users::new(users))
    }

    pub fn new(users: impl IntoIterator<Item = (String, String)>) -> Users {
        let users = users.into_iter().map(|(name, password)| {
            let keys = [Hash::Sha256, Hash::Sha512].map(|hash| Keys::new(hash, &password));
            (name, keys)
        });
        Users(Arc::new(Known { keys: users.collect(), secret: random(32) }))
    }

    /// The keys of a user; those of one that is not there look the same and fit no password.
    pub fn keys(&self, name: &str, hash: Hash) -> Keys {
        let known = self.0.keys.get(name);
        let found = known.and_then(|keys| keys.iter().find(|keys| keys.hash == hash));
        found.cloned().unwrap_or_else(|| {
            let mut salt = hash.hmac(&self.0.secret, name.as_bytes());
            salt.truncate(SALT_BYTES);
            let (stored, server) = (random(hash.algorithm().output_len()), Vec::new());
            Keys { hash, salt, iterations: ITERATIONS, stored, server }
        })
    }

    /// Takes milliseconds, which is what keeps passwords from being guessed.
    pub fn check(&self, name: &str, password: &str) -> bool {
        let keys = self.keys(name, Hash::Sha256);
        let salted = keys.hash.salted(password, &keys.salt, keys.iterations);
        let client = keys.hash.hmac(&salted, b"Client Key");
        self.0.keys.contains_key(name) && same(&keys.hash.digest(&client), &keys.stored)
    }
}

impl Keys {
    fn new(hash: Hash, password: &str) -> Keys {
        let salt = random(SALT_BYTES);
        let salted = hash.salted(password, &salt, ITERATIONS);
        let stored = hash.digest(&hash.hmac(&salted, b"Client Key"));
        let server = hash.hmac(&salted, b"Server Key");
        Keys { hash, salt, iterations: ITERATIONS, stored, server }
    }
}

impl Hash {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        digest::digest(self.algorithm(), bytes).as_ref().to_vec()
    }

    pub fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), bytes).as_ref().to_vec()
    }

    pub fn salted(self, password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => ring::pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => ring::pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let mut salted = vec![0; self.algorithm().output_len()];
        ring::pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        salted
    }
}

pub fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Compares without telling by the time it takes where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_not_there_looks_like_one_that_is() {
        let users = Users::new([("ann".to_owned(), "pencil".to_owned())]);
        for name in ["ann", "bob"] {
            let (first, again) = (users.keys(name, Hash::Sha256), users.keys(name, Hash::Sha256));
            assert_eq!((first.salt.len(), first.iterations), (SALT_BYTES, ITERATIONS));
            assert_eq!(first.salt, again.salt, "{name} has the same salt each time");
        }
        assert!(users.check("ann", "pencil") && !users.check("bob", "pencil"));
    }
}
