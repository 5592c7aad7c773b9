//! One direction of one connection: reads, does what the fault of the moment asks, writes.

use super::{Direction, Fault, Faults, Passed, Shared};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const PIECE_BYTES_MAX: usize = 16 << 10;
/// Names of topics, groups and members are shorter.
const TEXT_LONG: u64 = 48;
/// A peer that does not read must not keep a pump from seeing that its connection is over.
const WRITE_WAIT: Duration = Duration::from_millis(100);

/// Both ends of a connection. The sockets close when the last pump lets go of it.
pub(super) struct Link {
    client: TcpStream,
    server: TcpStream,
    over: AtomicBool,
    vanished: AtomicBool,
}

impl Link {
    pub fn new(client: TcpStream, server: TcpStream) -> io::Result<Link> {
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(WRITE_WAIT))?;
        }
        let [over, vanished] = [AtomicBool::new(false), AtomicBool::new(false)];
        Ok(Link { client, server, over, vanished })
    }

    /// Closes both ends as an orderly peer does.
    pub fn cut(&self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Both ends see a reset once the pumps have let go.
    pub fn reset(&self) {
        self.over.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            abandon(stream);
            // Wakes the pump without telling the peer anything.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Neither end hears of the other any more.
    pub fn vanish(&self) {
        self.vanished.store(true, Ordering::SeqCst);
    }

    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Makes the close of this socket a reset.
pub(super) fn abandon(stream: &TcpStream) {
    // A socket that is gone already needs nothing.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

pub(super) fn run(shared: &Shared, link: &Link, direction: Direction, number: u64) {
    let way = direction as u64;
    let mut pump = Pump {
        shared,
        link,
        direction,
        random: StdRng::seed_from_u64(shared.seed ^ (number << 1 | way).wrapping_mul(0x9E37_79B9)),
        version: u64::MAX,
        count: 0,
        text: 0,
        holed: false,
    };
    // An error here is a peer that went away: the other pump and both peers see it by themselves.
    let ended = pump.forward();
    if ended.is_err() && !link.is_over() {
        link.reset();
    }
}

struct Pump<'a> {
    shared: &'a Shared,
    link: &'a Link,
    direction: Direction,
    random: StdRng,
    /// The version of the faults that `count` is about.
    version: u64,
    /// Bytes still to pass, or bytes until the next flip.
    count: u64,
    /// How many bytes of text came in a row.
    text: u64,
    /// Bytes were lost: what follows must not look like a stream without a hole.
    holed: bool,
}

impl Pump<'_> {
    fn forward(&mut self) -> io::Result<()> {
        let (mut from, to) = self.link.ends(self.direction);
        let mut piece = vec![0; PIECE_BYTES_MAX];
        loop {
            let length = match from.read(&mut piece) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let fault = self.fault();
            if self.link.is_over() {
                return Ok(());
            }
            self.holed |= self.link.vanished.load(Ordering::SeqCst);
            if length == 0 {
                // The end of this way is passed on unless nothing is; the other way goes on.
                if !self.holed && fault != Fault::BlackHole {
                    let _ = to.shutdown(Shutdown::Write);
                }
                return Ok(());
            }
            let piece = &mut piece[..length];
            match fault {
                _ if self.holed => self.swallow(piece),
                Fault::BlackHole => self.swallow(piece),
                Fault::None | Fault::Hold => self.pass(to, piece)?,
                Fault::Delay { ms_min, ms_max } => {
                    let ms = self.random.random_range(ms_min..=ms_max.max(ms_min));
                    thread::sleep(Duration::from_millis(ms));
                    self.note(|passed| passed.delay_ms += ms);
                    self.pass(to, piece)?;
                }
                Fault::Corrupt { every } => {
                    self.corrupt(piece, every);
                    self.pass(to, piece)?;
                }
                Fault::CorruptText { every } => {
                    self.corrupt_text(piece, every);
                    self.pass(to, piece)?;
                }
                Fault::BlackHoleAfter(_) => {
                    let (some, rest) = piece.split_at(self.count.min(length as u64) as usize);
                    self.count -= some.len() as u64;
                    self.pass(to, some)?;
                    if !rest.is_empty() {
                        self.swallow(rest);
                    }
                }
                Fault::CutAfter(_) | Fault::ResetAfter(_) => {
                    let some = self.count.min(length as u64);
                    self.pass(to, &piece[..some as usize])?;
                    self.count -= some;
                    if self.count == 0 {
                        match fault {
                            Fault::CutAfter(_) => self.link.cut(),
                            _ => self.link.reset(),
                        }
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The fault of the moment; waits while that is [`Fault::Hold`].
    fn fault(&mut self) -> Fault {
        let Faults { each, version } = {
            let mut faults = self.shared.faults.lock();
            while faults.each[self.direction as usize] == Fault::Hold && !self.link.is_over() {
                self.shared.changed.wait(&mut faults);
            }
            *faults
        };
        let fault = each[self.direction as usize];
        if version != self.version {
            self.version = version;
            self.count = match fault {
                Fault::CutAfter(bytes)
                | Fault::ResetAfter(bytes)
                | Fault::BlackHoleAfter(bytes) => bytes,
                Fault::Corrupt { every } | Fault::CorruptText { every } => self.gap(every),
                _ => 0,
            };
        }
        fault
    }

    fn swallow(&mut self, piece: &[u8]) {
        self.holed = true;
        self.note(|passed| passed.bytes_swallowed += piece.len() as u64);
    }

    fn corrupt(&mut self, piece: &mut [u8], every: u64) {
        let mut at = 0;
        while self.count < (piece.len() - at) as u64 {
            at += self.count as usize;
            piece[at] ^= 1 << self.random.random_range(0..8);
            at += 1;
            self.count = self.gap(every);
            self.note(|passed| passed.bits_flipped += 1);
        }
        self.count -= (piece.len() - at) as u64;
    }

    fn corrupt_text(&mut self, piece: &mut [u8], every: u64) {
        for byte in piece {
            let is_text = byte.is_ascii_graphic() || *byte == b' ';
            self.text = if is_text { self.text + 1 } else { 0 };
            if self.text < TEXT_LONG {
                continue;
            }
            if self.count > 0 {
                self.count -= 1;
                continue;
            }
            *byte ^= 1 << self.random.random_range(0..8);
            self.text = 0;
            self.count = self.gap(every);
            self.note(|passed| passed.bits_flipped += 1);
        }
    }

    /// Bytes until the next flip: `every` on average, wherever the stream is cut into pieces.
    fn gap(&mut self, every: u64) -> u64 {
        self.random.random_range(0..every.max(1) * 2 - 1)
    }

    fn pass(&mut self, mut to: &TcpStream, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            match to.write(piece) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    piece = &piece[written..];
                    self.note(|passed| passed.bytes += written as u64);
                }
                Err(error) if waits(&error) && !self.link.is_over() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note(&self, note: impl FnOnce(&mut Passed)) {
        note(&mut self.shared.passed[self.direction as usize].lock());
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
