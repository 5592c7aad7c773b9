//! Proving who we are: PLAIN, SCRAM (RFC 5802, with SHA-256 and SHA-512) and OAUTHBEARER.
//!
//! A conversation does no I/O: it says what to send next.

use super::options::{Mechanism, SaslOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_core::{Error, Hidden, Result, redact};
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

/// A broker that asks for more rounds than this wants our time, not a proof.
const ROUNDS_MAX: u32 = 1_000_000;

/// What stands before the token in the message that has it.
const TOKEN_BEFORE: &str = "n,,\x01auth=Bearer ";

/// One authentication.
pub(super) enum Conversation {
    /// One message says all.
    Once(Vec<u8>),
    /// The same for a token; what is wrong with it comes as an answer.
    Token(Vec<u8>),
    Sent,
    Scram(Box<Scram>),
    Done,
}

pub(super) struct Scram {
    algorithm: Hash,
    password: String,
    first_bare: String,
    nonce: String,
    /// What the server must prove in the end.
    signature: Option<Vec<u8>>,
    begun: bool,
}

#[derive(Clone, Copy)]
struct Hash {
    pbkdf2: pbkdf2::Algorithm,
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
}

impl Conversation {
    pub fn new(options: &SaslOptions, secret: &Hidden) -> Result<Self> {
        let (user, secret) = (&options.username, &secret.0);
        Ok(match options.mechanism {
            Mechanism::Plain => Self::Once(format!("\0{user}\0{secret}").into_bytes()),
            Mechanism::OAuthBearer => {
                let token = secret.trim();
                // Anything else would say more than the token.
                if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(Error::stop("authentication", "the token is empty, or no token"));
                }
                Self::Token(format!("{TOKEN_BEFORE}{token}\x01\x01").into_bytes())
            }
            mechanism => {
                let mut random = [0u8; 24];
                ring::rand::SystemRandom::new()
                    .fill(&mut random)
                    .map_err(|_| Error::stop("authentication", "the system has no random bytes"))?;
                Self::Scram(Box::new(Scram::new(mechanism, user, secret, STANDARD.encode(random))))
            }
        })
    }

    /// What to send after this answer (empty at the start). `None` when both sides are satisfied.
    pub fn next(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Once(message) => {
                let message = std::mem::take(message);
                *self = Self::Done;
                Ok(Some(message))
            }
            Self::Token(message) => {
                let message = std::mem::take(message);
                *self = Self::Sent;
                Ok(Some(message))
            }
            Self::Sent if answer.is_empty() => {
                *self = Self::Done;
                Ok(None)
            }
            Self::Sent => {
                let said = String::from_utf8_lossy(answer);
                let told = format!("the broker did not take the token: it says {said}");
                Err(Error::stop("authentication", told))
            }
            Self::Scram(scram) => scram.next(answer),
            Self::Done => Ok(None),
        }
    }
}

impl Scram {
    fn new(mechanism: Mechanism, user: &str, password: &str, nonce: String) -> Self {
        let algorithm = match mechanism {
            Mechanism::ScramSha512 => Hash {
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
                hmac: hmac::HMAC_SHA512,
                digest: &digest::SHA512,
            },
            _ => Hash {
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
                hmac: hmac::HMAC_SHA256,
                digest: &digest::SHA256,
            },
        };
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self {
            algorithm,
            password: password.to_owned(),
            first_bare: format!("n={user},r={nonce}"),
            nonce,
            signature: None,
            begun: false,
        }
    }

    fn next(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.begun {
            self.begun = true;
            return Ok(Some(format!("n,,{}", self.first_bare).into_bytes()));
        }
        let answer = std::str::from_utf8(answer).map_err(|_| refused("its answer is no text"))?;
        match self.signature.take() {
            None => self.prove(answer).map(Some),
            Some(expected) => {
                let given = attribute(answer, "v").and_then(|text| STANDARD.decode(text).ok());
                match given {
                    Some(given) if given == expected => Ok(None),
                    _ => Err(refused("it cannot prove that it knows the password")),
                }
            }
        }
    }

    fn prove(&mut self, server_first: &str) -> Result<Vec<u8>> {
        let nonce = attribute(server_first, "r").filter(|nonce| nonce.starts_with(&self.nonce));
        let nonce = nonce.ok_or_else(|| refused("its nonce is not ours"))?;
        let salt = attribute(server_first, "s").and_then(|text| STANDARD.decode(text).ok());
        let salt = salt.ok_or_else(|| refused("its salt cannot be read"))?;
        let rounds = attribute(server_first, "i").and_then(|text| text.parse::<u32>().ok());
        let rounds = rounds.filter(|rounds| *rounds <= ROUNDS_MAX).and_then(NonZeroU32::new);
        let rounds = rounds.ok_or_else(|| refused("its number of rounds makes no sense"))?;

        let Hash { pbkdf2, hmac, digest } = self.algorithm;
        let mut salted = vec![0u8; digest.output_len()];
        ring::pbkdf2::derive(pbkdf2, rounds, &salt, self.password.as_bytes(), &mut salted);
        let sign =
            |key: &[u8], text: &[u8]| ring::hmac::sign(&ring::hmac::Key::new(hmac, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = ring::digest::digest(digest, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let text = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = sign(stored_key.as_ref(), text.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = sign(&salted, b"Server Key");
        self.signature = Some(sign(server_key.as_ref(), text.as_bytes()).as_ref().to_vec());
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn refused(why: &str) -> Error {
    Error::stop("authentication", format!("the broker was not believed: {why}"))
}

/// What is shown now: a file may have been changed since the last login.
pub(super) fn secret(options: &SaslOptions) -> Result<Hidden> {
    let what = match options.mechanism {
        Mechanism::OAuthBearer => "token",
        _ => "password",
    };
    options.secret.current(what).map_err(|why| Error::stop("authentication", why))
}

/// A sentence with what a broker said to the last message of ours, which it may repeat.
pub(super) fn refusal(
    options: &SaslOptions,
    secret: &Hidden,
    address: &str,
    sent: &[u8],
    said: &str,
) -> String {
    let sent = String::from_utf8_lossy(sent);
    let token = sent.strip_prefix(TOKEN_BEFORE).and_then(|sent| sent.split('\x01').next());
    let said = redact(said, token.into_iter().chain([secret.0.trim()]));
    match options.mechanism {
        Mechanism::OAuthBearer => format!("{address} did not take the token: {said}"),
        _ => format!("{address} did not let `{}` in: {said}", options.username),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::Credential;

    #[test]
    fn a_refusal_does_not_repeat_what_was_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "canary-of-the-file\n").unwrap();
        for mechanism in [Mechanism::Plain, Mechanism::OAuthBearer] {
            for held in
                [Credential::given("canary-given"), Credential::File(file.path().to_owned())]
            {
                let options = SaslOptions { mechanism, username: "ann".into(), secret: held };
                let secret = secret(&options).unwrap();
                let sent =
                    Conversation::new(&options, &secret).unwrap().next(b"").unwrap().unwrap();
                let said = format!("nobody is {}", String::from_utf8_lossy(&sent));
                let told = refusal(&options, &secret, "broker:1", &sent, &said);
                assert!(told.contains("***") && !told.contains("canary"), "{told}");
            }
        }
    }

    /// The example of RFC 7677, section 3.
    #[test]
    fn scram_says_what_the_rfc_says() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let mut scram = Scram::new(Mechanism::ScramSha256, "user", "pencil", nonce);
        let first = scram.next(b"").unwrap().unwrap();
        assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = scram.next(server.as_bytes()).unwrap().unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(last).unwrap(), expected);
        let verdict = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(scram.next(verdict).unwrap(), None);
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let begin = || {
            let mut scram = Scram::new(Mechanism::ScramSha512, "a=b,c", "p", "abc".into());
            assert_eq!(scram.next(b"").unwrap().unwrap(), b"n,,n=a=3Db=2Cc,r=abc");
            scram
        };
        for server in
            ["r=xyz,s=YQ==,i=4096", "r=abcd,s=?,i=4096", "r=abcd,s=YQ==,i=0", "r=abcd", ""]
        {
            assert!(begin().next(server.as_bytes()).is_err(), "{server}");
        }
        let mut scram = begin();
        scram.next(b"r=abcd,s=YQ==,i=1").unwrap();
        assert!(scram.next(b"v=YQ==").is_err());
    }

    fn token(token: &str) -> Result<Conversation> {
        let options = SaslOptions {
            mechanism: Mechanism::OAuthBearer,
            username: String::new(),
            secret: Credential::given(token),
        };
        Conversation::new(&options, &secret(&options)?)
    }

    #[test]
    fn a_token_is_sent_whole_and_its_refusal_is_told() {
        let mut talk = token(" abc.def. \n").unwrap();
        let message = talk.next(b"").unwrap().unwrap();
        assert_eq!(message, b"n,,\x01auth=Bearer abc.def.\x01\x01");
        assert_eq!(talk.next(b"").unwrap(), None);
        let mut talk = token("abc").unwrap();
        talk.next(b"").unwrap();
        let error = talk.next(br#"{"status":"invalid_token"}"#).unwrap_err().to_string();
        assert!(error.contains("did not take the token") && error.contains("invalid_token"));
        for wrong in ["", "\n", "a\x01host=b", "two words"] {
            assert!(token(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn plain_is_one_message() {
        let options = SaslOptions {
            mechanism: Mechanism::Plain,
            username: "u".into(),
            secret: Credential::given("p"),
        };
        let mut talk = Conversation::new(&options, &Hidden("p".into())).unwrap();
        assert_eq!(talk.next(b"").unwrap().unwrap(), b"\0u\0p");
        assert_eq!(talk.next(b"").unwrap(), None);
    }
}
