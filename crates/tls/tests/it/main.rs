//! Files that are read, refused, and replaced while they are used.

mod files;
mod watched;
