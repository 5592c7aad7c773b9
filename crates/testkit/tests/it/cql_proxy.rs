//! Between a driver and a node that are only frames: which wait, and which overtake them.

use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Refusal, Way};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

const QUERY: u8 = 7;
const RESULT: u8 = 8;

fn frame(version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![version, 0];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.push(opcode);
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn query(stream: i16, statement: &str) -> Vec<u8> {
    let body = [&(statement.len() as u32).to_be_bytes()[..], statement.as_bytes()].concat();
    frame(4, stream, QUERY, &body)
}

fn read_frame(stream: &mut TcpStream) -> Option<(i16, Vec<u8>)> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[5..].try_into().unwrap());
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).ok()?;
    Some((i16::from_be_bytes([header[2], header[3]]), body))
}

/// Answers each request with its own body, and tells of an event before the first.
fn node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                stream.write_all(&frame(0x84, -1, 12, b"event")).unwrap();
                while let Some((number, body)) = read_frame(&mut stream) {
                    if stream.write_all(&frame(0x84, number, RESULT, &body)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What is enough for everything else to come first.
const LONG: Duration = Duration::from_millis(400);

fn always(way: Way) -> Option<Hold> {
    Some(Hold { share: 1.0, way, least: LONG, most: LONG })
}

fn connect(proxy: &CqlProxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(read_frame(&mut stream), Some((-1, b"event".to_vec())));
    stream
}

#[test]
fn only_what_is_held_waits() {
    for way in [Way::Request, Way::Answer, Way::Either] {
        let proxy = CqlProxy::start(node(), 1).unwrap();
        proxy.hold(Asked::Select, always(way));
        let mut stream = connect(&proxy);
        let statements =
            [(3, "SELECT a"), (4, "INSERT b"), (5, "SELECT c"), (6, "INSERT d"), (7, "SELECT e")];
        let sent: Vec<u8> = statements.iter().flat_map(|(at, text)| query(*at, text)).collect();
        // Pieces that end anywhere.
        for piece in sent.chunks(7) {
            stream.write_all(piece).unwrap();
        }
        let came: Vec<_> = statements.iter().map(|_| read_frame(&mut stream).unwrap()).collect();
        let mut streams: Vec<_> = came.iter().map(|(at, _)| *at).collect();
        assert_eq!(streams[..2], [4, 6], "{way:?}");
        streams.sort();
        assert_eq!(streams, [3, 4, 5, 6, 7]);
        for (at, body) in &came {
            let (_, text) = statements.iter().find(|(number, _)| number == at).unwrap();
            assert_eq!(&body[4..], text.as_bytes());
        }
        let (selects, inserts) = (proxy.seen(Asked::Select), proxy.seen(Asked::Insert));
        assert_eq!((selects.requests, selects.held), (3, 3));
        assert_eq!((inserts.requests, inserts.held), (2, 0));
        assert_eq!((selects.node.count(), inserts.node.count()), (3, 2));
        // What a request waits here is none of the node's time.
        assert!(selects.node.quantile(0.5).unwrap() < LONG, "{way:?}: {:?}", selects.node);

        proxy.heal();
        stream.write_all(&[query(1, "SELECT 1"), query(2, "INSERT 2")].concat()).unwrap();
        let came = [(); 2].map(|()| read_frame(&mut stream).unwrap().0);
        assert_eq!(came, [1, 2]);
    }
}

/// The streams whose answers were late among a hundred, two connections one after the other.
fn late(seed: u64, share: f64) -> Vec<i16> {
    let proxy = CqlProxy::start(node(), seed).unwrap();
    proxy.hold(Asked::Select, Some(Hold { share, ..always(Way::Answer).unwrap() }));
    let mut late = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&proxy);
        let sent: Vec<u8> = (0..100).flat_map(|at| query(at, "SELECT a")).collect();
        stream.write_all(&sent).unwrap();
        let mut highest = -1;
        for _ in 0..100 {
            let (at, _) = read_frame(&mut stream).unwrap();
            if at < highest {
                late.push(at);
            }
            highest = highest.max(at);
        }
    }
    assert_eq!(proxy.connections(), 2);
    late
}

#[test]
fn a_seed_holds_the_same_streams() {
    let some = late(7, 0.1);
    assert!((5..50).contains(&some.len()), "{some:?}");
    assert_eq!(late(7, 0.1), some);
    assert_ne!(late(8, 0.1), some);
    assert!(late(7, 0.0).is_empty());
}

#[test]
fn a_connection_ends_with_either_peer_and_with_the_proxy() {
    let proxy = CqlProxy::start(node(), 1).unwrap();
    let mut stream = connect(&proxy);
    // A later version of the protocol cannot be read.
    stream.write_all(&frame(5, 1, QUERY, b"")).unwrap();
    assert_eq!(read_frame(&mut stream), None);
    proxy.hold(Asked::Select, always(Way::Answer));
    let mut stream = connect(&proxy);
    stream.write_all(&query(1, "SELECT a")).unwrap();
    drop(proxy);
    assert_eq!(read_frame(&mut stream), None);
}

#[test]
fn only_what_is_refused_does_not_come_to_the_node() {
    let proxy = CqlProxy::start(node(), 1).unwrap();
    proxy.refuse(Asked::Insert, Some(Refusal::WriteFailed));
    let mut stream = connect(&proxy);
    stream.write_all(&[query(3, "INSERT a"), query(4, "SELECT b")].concat()).unwrap();
    let mut came = [(); 2].map(|()| read_frame(&mut stream).unwrap());
    came.sort();
    let [(3, refused), (4, passed)] = &came else { panic!("{came:?}") };
    assert_eq!(refused[..4], 0x1500_i32.to_be_bytes());
    assert_eq!(&passed[4..], b"SELECT b");
    assert_eq!(proxy.seen(Asked::Insert).refused, 1);
    proxy.heal();
    stream.write_all(&query(5, "INSERT c")).unwrap();
    assert_eq!(&read_frame(&mut stream).unwrap().1[4..], b"INSERT c");
}
