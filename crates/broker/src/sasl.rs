//! How a client shows who it is: SASL PLAIN and SCRAM (RFC 5802) inside Kafka's requests.

use crate::broker::{Inner, blocking};
use crate::connection::Ends;
use crate::dispatch::{Answered, Pending};
use crate::users::{Hash, Keys, Users, random, same};
use crate::wire::{Refused, Request, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use std::sync::Arc;

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
/// The one sentence for everything that can be wrong, so that nobody learns which names there are.
const REFUSED: &str = "Authentication failed: the user or the password is wrong";

/// One connection's state.
pub struct Session {
    pub ends: Ends,
    step: Step,
}

enum Step {
    /// Anything may be asked.
    Open,
    /// Nothing was said yet.
    Closed,
    Plain,
    Scram(Hash),
    /// The challenge was sent.
    Challenged(Box<Challenge>),
}

struct Challenge {
    user: String,
    keys: Keys,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl Session {
    pub fn new(broker: &Inner, ends: Ends) -> Session {
        let step = if broker.options.users.is_some() { Step::Closed } else { Step::Open };
        Session { ends, step }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.step, Step::Open)
    }
}

pub fn handshake(
    broker: &Arc<Inner>,
    session: &mut Session,
    request: &Request,
) -> Result<Pending, Refused> {
    let decoded: SaslHandshakeRequest = request.decode()?;
    let response = SaslHandshakeResponse::default()
        .with_mechanisms(MECHANISMS.iter().map(|name| text(name)).collect());
    let step = match decoded.mechanism.as_str() {
        _ if broker.options.users.is_none() => Err(ResponseError::IllegalSaslState),
        // Tokens without the protocol's own frames, as clients of 2016 sent them.
        _ if request.version == 0 => Err(ResponseError::UnsupportedVersion),
        "PLAIN" => Ok(Step::Plain),
        "SCRAM-SHA-256" => Ok(Step::Scram(Hash::Sha256)),
        "SCRAM-SHA-512" => Ok(Step::Scram(Hash::Sha512)),
        _ => Err(ResponseError::UnsupportedSaslMechanism),
    };
    Ok(Pending::ready(match step {
        Ok(step) => {
            session.step = step;
            Answered::new(request, &response)
        }
        Err(error) => Answered::new(request, &response.with_error_code(error.code())),
    }))
}

pub async fn authenticate(
    broker: &Arc<Inner>,
    session: &mut Session,
    request: &Request,
) -> Result<Pending, Refused> {
    let decoded: SaslAuthenticateRequest = request.decode()?;
    let Some(users) = &broker.options.users else {
        let response = SaslAuthenticateResponse::default()
            .with_error_code(ResponseError::IllegalSaslState.code());
        return Ok(Pending::ready(Answered::new(request, &response)));
    };
    let step = std::mem::replace(&mut session.step, Step::Closed);
    let (answer, step) = match step {
        Step::Plain => {
            let _turn = broker.passwords.acquire().await;
            let (users, token) = (users.clone(), decoded.auth_bytes);
            (blocking(move || plain(&users, &token)).await, Step::Open)
        }
        Step::Scram(hash) => match challenge(users, hash, &decoded.auth_bytes) {
            Some(challenge) => {
                let first = challenge.server_first.clone();
                (Some(first), Step::Challenged(Box::new(challenge)))
            }
            None => (None, Step::Closed),
        },
        Step::Challenged(challenge) => (challenge.finish(&decoded.auth_bytes), Step::Open),
        Step::Open | Step::Closed => {
            let response = SaslAuthenticateResponse::default()
                .with_error_code(ResponseError::IllegalSaslState.code());
            return Ok(Pending::ready(Answered::new(request, &response)));
        }
    };
    let response = SaslAuthenticateResponse::default();
    match answer {
        Some(answer) => {
            session.step = step;
            let answer = Bytes::from(answer);
            Ok(Pending::ready(Answered::new(request, &response.with_auth_bytes(answer))))
        }
        None => {
            tracing::info!(peer = %session.ends.peer, "a Kafka client could not show who it is");
            let response = response
                .with_error_code(ResponseError::SaslAuthenticationFailed.code())
                .with_error_message(Some(text(REFUSED)));
            let answered = Answered::new(request, &response);
            // No second guess on this connection, and none of the next ones is quick.
            Ok(Pending::begun(async {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Some(Answered { last: true, ..answered })
            }))
        }
    }
}

/// `authorization NUL name NUL password`.
fn plain(users: &Users, token: &[u8]) -> Option<String> {
    let token = std::str::from_utf8(token).ok()?;
    let mut parts = token.split('\0');
    let (acting, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let right = parts.next().is_none()
        && (acting.is_empty() || acting == name)
        && users.check(name, password);
    right.then(String::new)
}

/// Answers `n,,n=NAME,r=NONCE`.
fn challenge(users: &Users, hash: Hash, token: &[u8]) -> Option<Challenge> {
    let token = std::str::from_utf8(token).ok()?;
    // Channel binding is not offered, and nobody acts for another.
    let bare = token.strip_prefix("n,,").or_else(|| token.strip_prefix("y,,"))?;
    let mut parts = bare.split(',');
    let user = parts.next()?.strip_prefix("n=")?.replace("=2C", ",").replace("=3D", "=");
    let client = parts.next()?.strip_prefix("r=")?;
    if client.is_empty() || client.len() > 256 {
        return None;
    }
    let keys = users.keys(&user, hash);
    let nonce = format!("{client}{}", STANDARD.encode(random(18)));
    let salt = STANDARD.encode(&keys.salt);
    let server_first = format!("r={nonce},s={salt},i={}", keys.iterations);
    let client_first_bare = bare.to_owned();
    Some(Challenge { user, keys, nonce, client_first_bare, server_first })
}

impl Challenge {
    /// Answers `c=biws,r=NONCE,p=PROOF`.
    fn finish(&self, token: &[u8]) -> Option<String> {
        let token = std::str::from_utf8(token).ok()?;
        let (without_proof, proof) = token.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let binding = parts.next()?.strip_prefix("c=")?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        if !matches!(binding, "biws" | "eSws") || nonce != self.nonce {
            return None;
        }
        let proof = STANDARD.decode(proof).ok()?;
        let Keys { hash, stored, server, .. } = &self.keys;
        let message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = hash.hmac(stored, message.as_bytes());
        if proof.len() != signature.len() {
            return None;
        }
        let client: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if !same(&hash.digest(&client), stored) {
            return None;
        }
        tracing::debug!(user = self.user, "a Kafka client showed who it is");
        Some(format!("v={}", STANDARD.encode(hash.hmac(server, message.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users::new([("ann".to_owned(), "pencil".to_owned())])
    }

    /// What a client does, by the RFC.
    fn proof(hash: Hash, password: &str, bare: &str, first: &str) -> String {
        let field = |name: &str| {
            let found = first.split(',').find_map(|part| part.strip_prefix(name));
            found.unwrap().to_owned()
        };
        let salt = STANDARD.decode(field("s=")).unwrap();
        let salted = hash.salted(password, &salt, field("i=").parse().unwrap());
        let client = hash.hmac(&salted, b"Client Key");
        let without = format!("c=biws,r={}", field("r="));
        let message = format!("{bare},{first},{without}");
        let signature = hash.hmac(&hash.digest(&client), message.as_bytes());
        let proof: Vec<u8> = client.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        format!("{without},p={}", STANDARD.encode(proof))
    }

    #[test]
    fn scram_lets_in_who_knows_the_password() {
        for hash in [Hash::Sha256, Hash::Sha512] {
            for (user, password, right) in
                [("ann", "pencil", true), ("ann", "pen", false), ("bob", "pencil", false)]
            {
                let bare = format!("n={user},r=abc");
                let challenge = challenge(&users(), hash, format!("n,,{bare}").as_bytes()).unwrap();
                let last = proof(hash, password, &bare, &challenge.server_first);
                assert_eq!(challenge.finish(last.as_bytes()).is_some(), right, "{user} {password}");
                let other = last.replacen("r=abc", "r=abd", 1);
                assert!(challenge.finish(other.as_bytes()).is_none());
            }
        }
    }

    #[test]
    fn plain_lets_in_who_knows_the_password() {
        for (token, right) in [
            ("\0ann\0pencil", true),
            ("ann\0ann\0pencil", true),
            ("bob\0ann\0pencil", false),
            ("\0ann\0pen", false),
            ("\0bob\0pencil", false),
            ("\0ann\0pencil\0", false),
            ("ann", false),
            ("", false),
        ] {
            assert_eq!(plain(&users(), token.as_bytes()).is_some(), right, "{token:?}");
        }
    }
}
