//! Rows to and from HTTP servers.
