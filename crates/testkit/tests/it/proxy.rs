//! Each fault, between a client and a server that says back what it hears.

use millstream_testkit::proxy::{Direction, Fault, Proxy};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

/// A server on loopback that echoes, and reports how each of its connections ended.
fn echo() -> (SocketAddr, mpsc::Receiver<Option<ErrorKind>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ended) = (stream.unwrap(), ended.clone());
            thread::spawn(move || {
                let mut piece = [0; 4096];
                let end = loop {
                    match stream.read(&mut piece) {
                        Ok(0) => break None,
                        Ok(length) => match stream.write_all(&piece[..length]) {
                            Ok(()) => {}
                            Err(error) => break Some(error.kind()),
                        },
                        Err(error) => break Some(error.kind()),
                    }
                };
                // Nobody may be listening any more.
                let _ = ended.send(end);
            });
        }
    });
    (address, ends)
}

fn through(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).unwrap()
}

/// All that comes, and how it ends.
fn read_to_end(mut stream: &TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    (bytes, end)
}

fn exchange(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn numbers(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[test]
fn bytes_pass_and_each_end_is_told_of_the_others() {
    let (server, ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    let stream = through(&proxy);
    let sent = numbers(300_000);
    let writing = stream.try_clone().unwrap();
    let bytes = sent.clone();
    let writer = thread::spawn(move || {
        (&writing).write_all(&bytes).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(read_to_end(&stream), (sent, None));
    writer.join().unwrap();
    assert_eq!(ends.recv().unwrap(), None);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_cut_lets_exactly_so_many_bytes_pass() {
    for (bytes, way) in [(1, Direction::ToServer), (777, Direction::ToClient)] {
        let (server, ends) = echo();
        let proxy = Proxy::start(server, 1).unwrap();
        proxy.set(way, Fault::CutAfter(bytes));
        let mut stream = through(&proxy);
        stream.write_all(&numbers(5000)).unwrap();
        let (got, _) = read_to_end(&stream);
        // What the server was told comes back only if the cut is not faster.
        match way {
            Direction::ToClient => assert_eq!(got, numbers(777)),
            Direction::ToServer => assert!(got.len() <= 1, "{got:?}"),
        }
        ends.recv().unwrap();
        assert_eq!(proxy.passed(way).bytes, bytes);
    }
}

#[test]
fn a_reset_is_an_error_at_both_ends() {
    let (server, ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    proxy.set(Direction::ToClient, Fault::ResetAfter(3));
    let mut stream = through(&proxy);
    stream.write_all(b"hello").unwrap();
    assert_eq!(read_to_end(&stream).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(ends.recv().unwrap(), Some(ErrorKind::ConnectionReset));

    proxy.heal();
    let mut stream = through(&proxy);
    assert_eq!(exchange(&mut stream, b"hello"), b"hello");
    proxy.reset();
    assert_eq!(read_to_end(&stream).1, Some(ErrorKind::ConnectionReset));
}

#[test]
fn live_connections_are_cut_and_new_ones_refused_until_healed() {
    let (server, ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    let mut stream = through(&proxy);
    assert_eq!(exchange(&mut stream, b"one"), b"one");
    proxy.refuse(true);
    proxy.cut();
    assert_eq!(read_to_end(&stream), (vec![], None));
    assert_eq!(ends.recv().unwrap(), None);
    let (bytes, end) = read_to_end(&through(&proxy));
    assert_eq!((bytes, end), (vec![], Some(ErrorKind::ConnectionReset)));
    proxy.heal();
    assert_eq!(exchange(&mut through(&proxy), b"two"), b"two");
    assert_eq!(proxy.connections(), 2);
}

#[test]
fn only_text_is_flipped_where_that_is_asked_for() {
    let (server, _ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    proxy.set(Direction::ToClient, Fault::CorruptText { every: 50 });
    let mut stream = through(&proxy);
    let part = [vec![1; 100], vec![b'x'; 100]].concat();
    let sent = part.repeat(50);
    let mut found = vec![0; sent.len()];
    let mut writing = stream.try_clone().unwrap();
    let bytes = sent.clone();
    let writer = thread::spawn(move || writing.write_all(&bytes).unwrap());
    stream.read_exact(&mut found).unwrap();
    writer.join().unwrap();
    let changed: Vec<usize> = (0..sent.len()).filter(|at| sent[*at] != found[*at]).collect();
    assert!(!changed.is_empty() && changed.iter().all(|at| sent[*at] == b'x'), "{changed:?}");
}

#[test]
fn a_black_hole_may_begin_after_so_many_bytes() {
    let (server, _ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    proxy.set(Direction::ToServer, Fault::BlackHoleAfter(3));
    let mut stream = through(&proxy);
    stream.write_all(b"seen and lost").unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"see");
    while proxy.passed(Direction::ToServer).bytes_swallowed < 10 {
        thread::yield_now();
    }
    assert_eq!(proxy.passed(Direction::ToServer).bytes, 3);
}

#[test]
fn a_peer_that_vanishes_tells_nobody() {
    let (server, ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    let mut stream = through(&proxy);
    assert_eq!(exchange(&mut stream, b"one"), b"one");
    proxy.vanish();
    stream.write_all(b"lost").unwrap();
    while proxy.passed(Direction::ToServer).bytes_swallowed < 4 {
        thread::yield_now();
    }
    drop(stream);
    assert_eq!(exchange(&mut through(&proxy), b"two"), b"two");
    // The first to be told of an end is the new one's.
    assert_eq!(ends.recv().unwrap(), None);
    assert!(ends.try_recv().is_err(), "the server still has the connection that vanished");
}

#[test]
fn a_black_hole_swallows_one_way_and_never_recovers() {
    let (server, _ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    let mut stream = through(&proxy);
    assert_eq!(exchange(&mut stream, b"seen"), b"seen");
    proxy.set(Direction::ToClient, Fault::BlackHole);
    stream.write_all(b"lost").unwrap();
    while proxy.passed(Direction::ToClient).bytes_swallowed < 4 {
        thread::yield_now();
    }
    proxy.heal();
    stream.write_all(b"too late").unwrap();
    while proxy.passed(Direction::ToClient).bytes_swallowed < 12 {
        thread::yield_now();
    }
    assert_eq!(proxy.passed(Direction::ToServer).bytes_swallowed, 0);
    assert_eq!(exchange(&mut through(&proxy), b"anew"), b"anew");
}

#[test]
fn what_is_held_comes_whole_once_it_is_let_go() {
    let (server, _ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    let mut stream = through(&proxy);
    assert_eq!(exchange(&mut stream, b"before"), b"before");
    proxy.set(Direction::ToServer, Fault::Hold);
    stream.write_all(b"held").unwrap();
    stream.set_nonblocking(true).unwrap();
    let early = stream.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    stream.set_nonblocking(false).unwrap();
    assert_eq!(proxy.passed(Direction::ToServer).bytes, 6);
    proxy.heal();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"held");
}

#[test]
fn a_held_connection_can_be_cut() {
    let (server, ends) = echo();
    let proxy = Proxy::start(server, 1).unwrap();
    proxy.set_both(Fault::Hold);
    let mut stream = through(&proxy);
    stream.write_all(b"held").unwrap();
    while proxy.connections() == 0 {
        thread::yield_now();
    }
    drop(proxy);
    read_to_end(&stream);
    ends.recv().unwrap();
}

/// What the server hears of 20,000 bytes.
fn corrupted(seed: u64, every: u64) -> (Vec<u8>, u64) {
    let (server, _ends) = echo();
    let proxy = Proxy::start(server, seed).unwrap();
    proxy.set(Direction::ToServer, Fault::Corrupt { every });
    let got = exchange(&mut through(&proxy), &numbers(20_000));
    (got, proxy.passed(Direction::ToServer).bits_flipped)
}

#[test]
fn a_seed_says_which_bits_are_flipped() {
    let (one, flipped) = corrupted(7, 500);
    let wrong = one.iter().zip(numbers(20_000)).map(|(got, sent)| (got ^ sent).count_ones());
    assert_eq!(u64::from(wrong.sum::<u32>()), flipped);
    // About 40; far from it would be another rate.
    assert!((20..=80).contains(&flipped), "{flipped}");
    assert_eq!(corrupted(7, 500).0, one);
    assert_ne!(corrupted(8, 500).0, one);
    assert_eq!(corrupted(7, 1).1, 20_000);
}

#[test]
fn a_seed_says_how_long_each_piece_waits() {
    let waited = |seed| {
        let (server, _ends) = echo();
        let proxy = Proxy::start(server, seed).unwrap();
        proxy.set(Direction::ToClient, Fault::Delay { ms_min: 1, ms_max: 9 });
        let mut stream = through(&proxy);
        let mut all = Vec::new();
        for _ in 0..8 {
            assert_eq!(exchange(&mut stream, b"ping"), b"ping");
            all.push(proxy.passed(Direction::ToClient).delay_ms);
        }
        all
    };
    let one = waited(3);
    assert!((8..=72).contains(one.last().unwrap()), "{one:?}");
    assert_eq!(waited(3), one);
    assert_ne!(waited(4), one);
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gone, 1).unwrap();
    assert_eq!(read_to_end(&through(&proxy)).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(proxy.connections(), 0);
}
