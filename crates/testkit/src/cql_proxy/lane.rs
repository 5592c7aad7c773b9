//! One way out of the proxy: whole frames, those that wait in between the others when they are due.

use parking_lot::{Condvar, Mutex};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Frames that are due within so long go together: a wake for each would take the machine from those
/// whom the proxy stands between.
const TOGETHER: Duration = Duration::from_millis(1);

pub(super) struct Lane(Arc<Inner>);

struct Inner {
    /// Locked for the whole of a frame.
    out: Mutex<TcpStream>,
    /// Ends it without waiting for who is writing.
    ending: TcpStream,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// Equal times go in the order in which they came.
    frames: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
    over: bool,
}

impl Lane {
    pub fn new(out: &TcpStream) -> io::Result<Lane> {
        out.set_nodelay(true)?;
        let inner = Arc::new(Inner {
            out: Mutex::new(out.try_clone()?),
            ending: out.try_clone()?,
            held: Mutex::default(),
            changed: Condvar::new(),
        });
        let releasing = inner.clone();
        thread::Builder::new().name("cql-proxy".into()).spawn(move || releasing.release())?;
        Ok(Lane(inner))
    }

    pub fn now(&self, frames: &[u8]) -> io::Result<()> {
        self.0.out.lock().write_all(frames)
    }

    pub fn later(&self, wait: Duration, frame: Vec<u8>) {
        let mut held = self.0.held.lock();
        held.count += 1;
        let due = Instant::now() + wait;
        let is_first = held.frames.peek().is_none_or(|Reverse((first, ..))| due < *first);
        let entry = (due, held.count, frame);
        held.frames.push(Reverse(entry));
        // Else it is looked at when the one before it is due.
        if is_first {
            self.0.changed.notify_one();
        }
    }

    /// Closes it; what waits is lost.
    pub fn end(&self) {
        self.0.held.lock().over = true;
        self.0.changed.notify_one();
        let _ = self.0.ending.shutdown(Shutdown::Both);
    }
}

impl Inner {
    fn release(&self) {
        let mut held = self.held.lock();
        while !held.over {
            match held.frames.peek() {
                None => self.changed.wait(&mut held),
                Some(Reverse((due, ..))) if *due > Instant::now() => {
                    let due = *due + TOGETHER;
                    self.changed.wait_until(&mut held, due);
                }
                Some(_) => {
                    let mut due = Vec::new();
                    while let Some(next) = held.frames.peek_mut()
                        && next.0.0 <= Instant::now()
                    {
                        let Reverse((.., frame)) = PeekMut::pop(next);
                        due.extend_from_slice(&frame);
                    }
                    drop(held);
                    // Whoever reads sees by itself that this end is gone.
                    let _ = self.out.lock().write_all(&due);
                    held = self.held.lock();
                }
            }
        }
    }
}
