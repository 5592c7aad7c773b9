//! TLS from PEM files that change while they are used.
//!
//! [`TlsOptions`] reads them, and says of one that cannot be used which it is and what it should be.
//! [`Watched`] keeps what was made of files, and makes it anew when they change. All of it blocks on
//! disk. Whoever talks TLS takes of this what fits; with whom is for them to know.

mod files;
mod watched;

pub use files::{Own, TlsOptions, builder, provider};
pub use watched::Watched;
