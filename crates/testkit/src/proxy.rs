//! A TCP proxy on loopback with faults that a test turns on and off, each way by itself.
//!
//! ```text
//! client ──► Proxy::address ──► pump ToServer ──► upstream
//!                      ◄── pump ToClient ◄──
//! ```
//!
//! What is random comes from the seed, the number of the connection and the direction, so that a
//! client that does the same meets the same. Plain threads: blocking and async tests use it alike.

mod pump;

use parking_lot::{Condvar, Mutex};
use pump::Link;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

/// What happens to bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They pass.
    None,
    /// Each piece read waits so long, some milliseconds from `min` to `max`, before it goes on.
    Delay { ms_min: u64, ms_max: u64 },
    /// So many more bytes of each connection pass; then it is closed as by an orderly peer.
    CutAfter(u64),
    /// So many more bytes of each connection pass; then both ends see a reset.
    ResetAfter(u64),
    /// They are lost, and the connection stays open. It never recovers: its stream has a hole.
    BlackHole,
    /// The same after so many more bytes of each connection.
    BlackHoleAfter(u64),
    /// They wait until the fault is lifted, as behind a network that is gone for a while.
    Hold,
    /// One bit in about so many bytes is flipped.
    Corrupt { every: u64 },
    /// The same of bytes that are in the middle of text only: what is around records, and what is not
    /// covered by their checksums, passes.
    CorruptText { every: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// How many bytes went one way, and what was done to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    pub bytes: u64,
    pub bytes_swallowed: u64,
    pub bits_flipped: u64,
    pub delay_ms: u64,
}

/// Ends with its connections when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    seed: u64,
    faults: Mutex<Faults>,
    /// Wakes what a fault holds.
    changed: Condvar,
    live: Mutex<Vec<Weak<Link>>>,
    connections: AtomicU64,
    refusing: AtomicBool,
    closed: AtomicBool,
    passed: [Mutex<Passed>; 2],
}

#[derive(Clone, Copy)]
struct Faults {
    each: [Fault; 2],
    /// Counts the changes: "so many more bytes" starts again with each.
    version: u64,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1.
    pub fn start(upstream: SocketAddr, seed: u64) -> io::Result<Proxy> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), upstream, seed)
    }

    /// A proxy on this address, for servers that tell clients where to connect.
    pub fn listen(address: SocketAddr, upstream: SocketAddr, seed: u64) -> io::Result<Proxy> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            seed,
            faults: Mutex::new(Faults { each: [Fault::None; 2], version: 0 }),
            changed: Condvar::new(),
            live: Mutex::default(),
            connections: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            passed: Default::default(),
        });
        let accepting = shared.clone();
        thread::Builder::new().name("proxy".into()).spawn(move || accepting.accept(&listener))?;
        Ok(Proxy { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for the connections there are and those that come.
    pub fn set(&self, direction: Direction, fault: Fault) {
        self.change(|each| each[direction as usize] = fault);
    }

    pub fn set_both(&self, fault: Fault) {
        self.change(|each| *each = [fault; 2]);
    }

    /// Lets everything pass, new connections too.
    pub fn heal(&self) {
        self.refuse(false);
        self.set_both(Fault::None);
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Closes the connections that there are, in an orderly way.
    pub fn cut(&self) {
        self.end(Link::cut);
    }

    /// Resets the connections that there are.
    pub fn reset(&self) {
        self.end(Link::reset);
    }

    /// From now on nothing goes through the connections that there are, in either way, and nobody is
    /// told: the peer is gone without a word. New connections are as ever.
    pub fn vanish(&self) {
        self.end(Link::vanish);
    }

    /// How many connections were let through so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn passed(&self, direction: Direction) -> Passed {
        *self.shared.passed[direction as usize].lock()
    }

    fn change(&self, change: impl FnOnce(&mut [Fault; 2])) {
        let mut faults = self.shared.faults.lock();
        change(&mut faults.each);
        faults.version += 1;
        self.shared.changed.notify_all();
    }

    fn end(&self, how: impl Fn(&Link)) {
        for link in self.shared.live.lock().drain(..) {
            if let Some(link) = link.upgrade() {
                how(&link);
            }
        }
        // Those that a fault holds look again whether they still have a connection.
        let _faults = self.shared.faults.lock();
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            // Each connection connects on its own thread: one that waits holds up no other.
            let shared = self.clone();
            let started = thread::Builder::new().name("proxy".into()).spawn(move || {
                shared.open(client);
            });
            if started.is_err() {
                return;
            }
        }
    }

    fn open(self: Arc<Self>, client: TcpStream) {
        let refused = self.refusing.load(Ordering::SeqCst);
        let server = TcpStream::connect(self.upstream);
        let server = match (refused, server) {
            (false, Ok(server)) => server,
            _ => return pump::abandon(&client),
        };
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let Ok(link) = Link::new(client, server) else { return };
        let link = Arc::new(link);
        {
            let mut live = self.live.lock();
            live.retain(|other| other.strong_count() > 0);
            live.push(Arc::downgrade(&link));
        }
        if self.closed.load(Ordering::SeqCst) {
            link.cut();
        }
        let (shared, other) = (self.clone(), link.clone());
        let back = thread::Builder::new().name("proxy".into()).spawn(move || {
            pump::run(&shared, &other, Direction::ToClient, number);
        });
        if back.is_ok() {
            pump::run(&self, &link, Direction::ToServer, number);
        }
    }
}
