//! A proxy for CQL that makes some requests slow, or refuses them as a node in trouble does, and
//! leaves all others alone.
//!
//! ```text
//! driver ──► CqlProxy::address ──► frames: what does stream 7 ask? ──► node
//!                             ◄── the answer of stream 7, now or later ◄──
//! ```
//!
//! One connection carries many requests: a proxy of bytes could only slow down all of them. This one
//! reads the frames of protocol version 4. A driver takes the port of its first connection for all
//! nodes and their own addresses, so that proxies in front of several nodes listen on the nodes'
//! addresses and one port of their own; it then finds them without being told.
//!
//! What is random comes from the seed and the number of the connection. Plain threads.

mod frames;
mod lane;
mod spread;

pub use frames::Asked;
pub use spread::Spread;

use frames::{FrameError, HEADER_BYTES, Header, Names};
use lane::Lane;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

const PIECE_BYTES_MAX: usize = 64 << 10;

/// How some requests of a kind become slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hold {
    /// Which part of them, from 0 to 1.
    pub share: f64,
    pub way: Way,
    /// Each waits for a time between these.
    pub least: Duration,
    pub most: Duration,
}

/// What waits: the request on its way to the node, so that others overtake it, or the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Request,
    Answer,
    /// One or the other, drawn for each.
    Either,
}

/// How a node in trouble answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A replica could not write, as one whose disk is full.
    WriteFailed,
    /// Too much is asked at a time.
    Overloaded,
}

/// What was asked so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub requests: u64,
    pub held: u64,
    pub refused: u64,
    /// From when a request was passed on until its answer came, without what either was held.
    pub node: Spread,
}

/// Ends with its connections when it is dropped.
pub struct CqlProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    seed: u64,
    holds: Mutex<[Option<Hold>; Asked::COUNT]>,
    refusals: Mutex<[Option<Refusal>; Asked::COUNT]>,
    seen: Mutex<[Seen; Asked::COUNT]>,
    names: Mutex<Names>,
    live: Mutex<Vec<Weak<Link>>>,
    connections: AtomicU64,
    closed: AtomicBool,
}

/// A connection: what its streams wait for, and both ways out of it.
struct Link {
    waiting: Mutex<HashMap<i16, Waiting>>,
    to_node: Lane,
    to_driver: Lane,
}

/// A request that is not answered yet.
struct Waiting {
    asked: Asked,
    /// What it prepares.
    prepares: Option<Asked>,
    sent: Instant,
    hold_answer: Option<Duration>,
}

impl CqlProxy {
    /// A proxy on a free port of the node's own address.
    pub fn start(upstream: SocketAddr, seed: u64) -> io::Result<CqlProxy> {
        Self::listen(SocketAddr::new(upstream.ip(), 0), upstream, seed)
    }

    pub fn listen(address: SocketAddr, upstream: SocketAddr, seed: u64) -> io::Result<CqlProxy> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            seed,
            holds: Mutex::default(),
            refusals: Mutex::default(),
            seen: Mutex::default(),
            names: Mutex::default(),
            live: Mutex::default(),
            connections: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::Builder::new()
            .name("cql-proxy".into())
            .spawn(move || accepting.accept(&listener))?;
        Ok(CqlProxy { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for requests of this kind on all connections.
    pub fn hold(&self, asked: Asked, hold: Option<Hold>) {
        self.shared.holds.lock()[asked as usize] = hold;
    }

    /// From now on such requests do not come to the node: each is answered so.
    pub fn refuse(&self, asked: Asked, how: Option<Refusal>) {
        self.shared.refusals.lock()[asked as usize] = how;
    }

    /// Lets everything pass at once again.
    pub fn heal(&self) {
        *self.shared.refusals.lock() = Default::default();
        *self.shared.holds.lock() = Default::default();
    }

    pub fn seen(&self, asked: Asked) -> Seen {
        self.shared.seen.lock()[asked as usize].clone()
    }

    /// Counts from nothing again.
    pub fn forget(&self) {
        *self.shared.seen.lock() = Default::default();
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for CqlProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
        for link in self.shared.live.lock().drain(..) {
            if let Some(link) = link.upgrade() {
                link.end();
            }
        }
    }
}

impl Link {
    fn end(&self) {
        self.to_node.end();
        self.to_driver.end();
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for driver in listener.incoming() {
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            let Ok(driver) = driver else { continue };
            let shared = self.clone();
            let opening = thread::Builder::new().name("cql-proxy".into());
            if opening.spawn(move || shared.open(driver)).is_err() {
                return;
            }
        }
    }

    /// Both directions, until one of them ends.
    fn open(self: Arc<Self>, driver: TcpStream) {
        let Ok(node) = TcpStream::connect(self.upstream) else {
            let _ = driver.shutdown(Shutdown::Both);
            return;
        };
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let lanes = (Lane::new(&node), Lane::new(&driver));
        let (Ok(to_node), Ok(to_driver)) = lanes else { return };
        let link = Arc::new(Link { waiting: Mutex::default(), to_node, to_driver });
        {
            let mut live = self.live.lock();
            live.retain(|other| other.strong_count() > 0);
            live.push(Arc::downgrade(&link));
        }
        if self.closed.load(Ordering::SeqCst) {
            link.end();
        }
        let random = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9E37_79B9));
        let (shared, other) = (self.clone(), link.clone());
        let back = thread::Builder::new().name("cql-proxy".into()).spawn(move || {
            let _ = shared.answers(&other, node);
            other.end();
        });
        if back.is_ok() {
            // An error is a peer that went away, or one that speaks another protocol.
            let _ = self.requests(&link, driver, random);
        }
        link.end();
    }

    fn requests(&self, link: &Link, driver: TcpStream, mut random: StdRng) -> io::Result<()> {
        frames_of(
            driver,
            |header, frame| {
                header.is_request()?;
                let (asked, prepares) = self.names.lock().asked(header, &frame[HEADER_BYTES..]);
                if let Some(refusal) = self.refusals.lock()[asked as usize] {
                    let seen = &mut self.seen.lock()[asked as usize];
                    (seen.requests, seen.refused) = (seen.requests + 1, seen.refused + 1);
                    return Ok(Verdict::Answer(refusal.frame(header.stream)));
                }
                let hold = self.holds.lock()[asked as usize];
                let drawn = hold.and_then(|hold| hold.draw(&mut random));
                {
                    let seen = &mut self.seen.lock()[asked as usize];
                    seen.requests += 1;
                    seen.held += u64::from(drawn.is_some());
                }
                let (there, back) = match drawn {
                    Some((Way::Request, wait)) => (Some(wait), None),
                    Some((_, wait)) => (None, Some(wait)),
                    None => (None, None),
                };
                // Where it is held itself, its time begins when it goes on.
                let sent = Instant::now() + there.unwrap_or_default();
                let waiting = Waiting { asked, prepares, sent, hold_answer: back };
                link.waiting.lock().insert(header.stream, waiting);
                Ok(there.map_or(Verdict::Pass, Verdict::Later))
            },
            &link.to_node,
            &link.to_driver,
        )
    }

    fn answers(&self, link: &Link, node: TcpStream) -> io::Result<()> {
        frames_of(
            node,
            |header, frame| {
                // Events have streams below 0, and wait for nothing.
                let Some(waiting) = link.waiting.lock().remove(&header.stream) else {
                    return Ok(Verdict::Pass);
                };
                if let Some(prepares) = waiting.prepares {
                    self.names.lock().prepared(header, &frame[HEADER_BYTES..], prepares);
                }
                let node = Instant::now().saturating_duration_since(waiting.sent);
                self.seen.lock()[waiting.asked as usize].node.add(node);
                Ok(waiting.hold_answer.map_or(Verdict::Pass, Verdict::Later))
            },
            &link.to_driver,
            &link.to_node,
        )
    }
}

impl Refusal {
    /// The frame of the error.
    fn frame(self, stream: i16) -> Vec<u8> {
        const LOCAL_QUORUM: [u8; 2] = [0, 6];
        let (code, rest): (i32, Vec<u8>) = match self {
            // Nobody has written, one had to, one failed; and what kind of a write it was.
            Refusal::WriteFailed => {
                let counts = [0_i32, 1, 1].map(i32::to_be_bytes).concat();
                (0x1500, [&LOCAL_QUORUM[..], &counts, &[0, 6], b"SIMPLE"].concat())
            }
            Refusal::Overloaded => (0x1001, Vec::new()),
        };
        let words = b"refused by the test";
        let body =
            [&code.to_be_bytes()[..], &(words.len() as u16).to_be_bytes(), words, &rest].concat();
        frames::answer(stream, frames::ERROR, &body)
    }
}

impl Hold {
    /// Whether this one is slow, where, and by how much.
    fn draw(&self, random: &mut StdRng) -> Option<(Way, Duration)> {
        // Always three numbers: a share that changes does not move what is drawn after it.
        let (chance, wait, coin) =
            (random.random::<f64>(), random.random::<f64>(), random.random());
        if chance >= self.share {
            return None;
        }
        let way = match self.way {
            Way::Either if coin => Way::Request,
            Way::Either => Way::Answer,
            way => way,
        };
        Some((way, self.least + self.most.saturating_sub(self.least).mul_f64(wait)))
    }
}

/// What becomes of a frame.
enum Verdict {
    Pass,
    Later(Duration),
    /// It goes no further: this goes back.
    Answer(Vec<u8>),
}

/// Reads frames to the end of the stream; each is passed on, at once or when it has waited for as
/// long as `judge` says. Frames that come together and do not wait are written together.
fn frames_of(
    mut from: TcpStream,
    mut judge: impl FnMut(&Header, &[u8]) -> Result<Verdict, FrameError>,
    to: &Lane,
    back: &Lane,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(2 * PIECE_BYTES_MAX);
    let mut piece = vec![0; PIECE_BYTES_MAX];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&piece[..length]);
        let (mut at, mut now) = (0, Vec::with_capacity(bytes.len()));
        while let Some(header) = Header::read(&bytes[at..]).map_err(io::Error::other)? {
            let end = at + HEADER_BYTES + header.length;
            let Some(frame) = bytes.get(at..end) else { break };
            match judge(&header, frame).map_err(io::Error::other)? {
                Verdict::Pass => now.extend_from_slice(frame),
                Verdict::Later(wait) => to.later(wait, frame.to_vec()),
                Verdict::Answer(frame) => back.now(&frame)?,
            }
            at = end;
        }
        bytes.drain(..at);
        if !now.is_empty() {
            to.now(&now)?;
        }
    }
}
