//! The address that Sentry gives a project, with its key: `https://KEY@HOST/PROJECT`.

use std::fmt;
use url::Url;

/// Where events go, and by which right. Its `Debug` and `Display` show no key.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    pub(crate) endpoint: Url,
    key: String,
    /// Only old projects have one.
    secret: Option<String>,
}

/// Nothing of the text is repeated: it has a key in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no DSN of Sentry: {0}; write `https://KEY@HOST/PROJECT`, as the project's settings show it"
)]
pub struct DsnError(&'static str);

impl std::str::FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        let url = Url::parse(text.trim()).map_err(|_| DsnError("it is no address"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(DsnError("it begins neither with `https://` nor with `http://`"));
        }
        if url.host().is_none() {
            return Err(DsnError("it has no host"));
        }
        let is_plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let key = url.username().to_owned();
        let secret = url.password().map(str::to_owned);
        if !is_plain(&key) || secret.as_deref().is_some_and(|secret| !is_plain(secret)) {
            return Err(DsnError("it has no key before the `@`, or one with strange characters"));
        }
        let path = url.path().trim_end_matches('/');
        let (prefix, project) = path.rsplit_once('/').unwrap_or(("", path));
        if !is_plain(project) {
            return Err(DsnError("it has no project at its end"));
        }
        let mut endpoint = url.clone();
        endpoint.set_path(&format!("{prefix}/api/{project}/envelope/"));
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        // Neither fails: the address has a host.
        let _ = (endpoint.set_username(""), endpoint.set_password(None));
        Ok(Dsn { endpoint, key, secret })
    }
}

impl Dsn {
    /// `HOST:PORT`, for sentences.
    pub fn place(&self) -> &str {
        self.endpoint.authority()
    }

    /// The value of `X-Sentry-Auth`.
    pub(crate) fn authorization(&self) -> String {
        let mut text = format!(
            "Sentry sentry_version=7, sentry_client=millstream/{}, sentry_key={}",
            env!("CARGO_PKG_VERSION"),
            self.key
        );
        if let Some(secret) = &self.secret {
            text.push_str(", sentry_secret=");
            text.push_str(secret);
        }
        text
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({})", self.place())
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_beside_the_project() {
        for (dsn, endpoint) in [
            ("https://k3y@o1.ingest.sentry.io/42", "https://o1.ingest.sentry.io/api/42/envelope/"),
            ("http://k3y@127.0.0.1:9000/7/", "http://127.0.0.1:9000/api/7/envelope/"),
            ("https://k3y:s3cret@host/of/us/7", "https://host/of/us/api/7/envelope/"),
            (" https://k3y@[::1]:8443/7?x=y#z ", "https://[::1]:8443/api/7/envelope/"),
        ] {
            let dsn: Dsn = dsn.parse().unwrap();
            assert_eq!(dsn.endpoint.as_str(), endpoint);
            assert!(dsn.authorization().contains("sentry_key=k3y"));
            assert_eq!(dsn.authorization().contains("s3cret"), dsn.secret.is_some());
            let shown = format!("{dsn} {dsn:?}");
            assert!(!shown.contains("k3y") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_dsn_is_refused_without_being_repeated() {
        for text in [
            "",
            "k3y",
            "ftp://k3y@host/1",
            "https://host/1",
            "https://k3y@host",
            "https://k3y@host/",
            "https://k3y%0d%0aX@host/1",
            "https://k3y@host/1%0d%0a",
            "https://k3y@/1",
        ] {
            let error = text.parse::<Dsn>().unwrap_err().to_string();
            assert!(!error.contains("k3y"), "{error}");
        }
    }
}
