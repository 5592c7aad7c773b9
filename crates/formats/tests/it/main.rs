//! The formats from the outside: against vectors, an independent implementation, and nonsense.

mod encode;
mod evolve;
mod framing;
mod hostile;
mod oracle;
mod support;
mod texts;
mod vectors;
