//! The parts of a request: the server, the path, the headers.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};
use millstream_core::Hidden;
use std::fmt;
use url::Url;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Site {
    pub(crate) is_https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the `Host` header names it.
    pub(crate) authority: String,
}

pub(crate) struct Request<'a> {
    pub method: &'a Method,
    pub site: &'a Site,
    /// The path, with the query.
    pub target: &'a str,
    pub headers: &'a Headers,
    pub more: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// Headers whose values may be secrets.
#[derive(Clone, Default)]
pub struct Headers(pub(crate) Vec<(HeaderName, HeaderValue)>);

/// Headers that the client sets.
const OWN: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// The error is a sentence for the user, without the value.
pub fn headers<'a>(given: impl Iterator<Item = (&'a str, &'a Hidden)>) -> Result<Headers, String> {
    let mut headers = Vec::new();
    for (name, value) in given {
        let wrong = |_| format!("`{name}` is not the name of a header");
        let named = HeaderName::from_bytes(name.as_bytes()).map_err(wrong)?;
        if OWN.contains(&named) {
            return Err(format!("the header `{name}` is made by Millstream"));
        }
        let value = HeaderValue::from_str(&value.0);
        let mut value = value
            .map_err(|_| format!("the value of `{name}` has characters that no header may have"))?;
        value.set_sensitive(true);
        headers.push((named, value));
    }
    Ok(Headers(headers))
}

impl Headers {
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Site {
    /// The server of an address, and its path with the query. The error is a sentence that does not
    /// repeat the address: it may have a secret in it.
    pub fn of(address: &str) -> Result<(Site, String), String> {
        let url = Url::parse(address)
            .map_err(|why| format!("the address is not one ({why}): write `https://HOST/PATH`"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("the address begins with neither `http://` nor `https://`".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address has a user in it: write `username` and `password`".to_owned());
        }
        let host = url.host_str().ok_or("the address has no host")?;
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let site = Site {
            is_https: url.scheme() == "https",
            // IPv6 addresses have brackets in an address, and none elsewhere.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            authority: url.authority().to_owned(),
        };
        Ok((site, target))
    }

    /// For people: what a query says may be secret.
    pub(crate) fn shown(&self, target: &str) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        let path = target.split('?').next().unwrap_or_default();
        format!("{scheme}://{}{path}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_shown_without_its_query() {
        let (site, target) = Site::of("https://[::1]:8443/a/b?key=canary").unwrap();
        assert_eq!(
            (site.host.as_str(), site.port, target.as_str()),
            ("::1", 8443, "/a/b?key=canary")
        );
        assert_eq!(site.shown(&target), "https://[::1]:8443/a/b");
        for wrong in ["canary", "ftp://canary/", "http://me:canary@host/"] {
            let told = Site::of(wrong).unwrap_err();
            assert!(!told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn headers_are_checked_and_never_shown() {
        let secret = Hidden("canary".into());
        let made = headers([("X-Key", &secret)].into_iter()).unwrap();
        assert!(!format!("{made:?} {secret:?}").contains("canary"));
        let broken = Hidden("canary\n".into());
        for (name, value) in [("X-Key", &broken), ("X Key", &secret), ("Host", &secret)] {
            let told = headers([(name, value)].into_iter()).unwrap_err();
            assert!(!told.contains("canary"), "{told}");
        }
    }
}
