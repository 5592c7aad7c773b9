//! Rows to HTTP servers, and rows looked up there.
//!
//! ```text
//!  HttpSink    rows ─► bodies ─┐                              ┌─ 2xx: stored
//!  HttpLookup  keys ─► URLs  ──┴─► Client: pace, pool, TLS ───┼─ 408 429 5xx, no answer: again
//!                                                             ├─ 401 403 3xx …: again, and said so
//!                                                             ├─ 413: halves
//!                                                             └─ other 4xx: halves, down to the row
//! ```
//!
//! The client keeps connections open, follows no redirect and reads files with secrets anew.

mod answer;
mod auth;
mod client;
mod lookup;
mod pace;
mod request;
mod secrets;
mod sink;
mod units;

pub use auth::Auth;
pub use client::{Client, ClientOptions};
pub use hyper::Method;
pub use hyper::header::HeaderName;
pub use lookup::{Ask, HttpLookup, HttpLookupOptions, placeholders};
pub use millstream_tls::TlsOptions;
pub use request::{Headers, Site, headers};
pub use sink::{Body, HttpSinkOptions, HttpTarget, Target};
