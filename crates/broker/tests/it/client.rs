//! A client that says exactly what a test wants said.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use millstream_log::{BatchBuilder, Codec};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    pub stream: TcpStream,
    /// The last frame that came.
    pub last: Bytes,
    correlation: i32,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, last: Bytes::new(), correlation: 0 }
    }

    pub fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.send(version, request);
        self.receive::<Q>(version)
    }

    pub fn send<Q: Request>(&mut self, version: i16, request: &Q) {
        self.correlation += 1;
        let frame = frame(version, self.correlation, request);
        self.stream.write_all(&frame).unwrap();
    }

    pub fn receive<Q: Request>(&mut self, version: i16) -> Q::Response {
        let mut frame = self.frame().unwrap();
        frame.advance(4);
        if Q::Response::header_version(version) >= 1 {
            assert_eq!(frame.get_u8(), 0);
        }
        let response = Q::Response::decode(&mut frame, version).unwrap();
        assert!(!frame.has_remaining(), "{} bytes are left over", frame.remaining());
        response
    }

    pub fn frame(&mut self) -> io::Result<Bytes> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut frame)?;
        self.last = frame.into();
        Ok(self.last.clone())
    }

    /// Waits until the server has closed the connection, and says how much came before.
    pub fn rest(&mut self) -> usize {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection was not closed: {error}"),
        }
        rest.len()
    }
}

/// A request as it travels, its length first.
pub fn frame<Q: Request>(version: i16, correlation: i32, request: &Q) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    header.encode(&mut out, Q::header_version(version)).unwrap();
    request.encode(&mut out, version).unwrap();
    let len = out.len() as u32 - 4;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out.to_vec()
}

/// A batch of these values; `producer` is an id, an epoch and the first sequence.
pub fn batch(values: &[&str], producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for (at, value) in values.iter().enumerate() {
        builder.push(1_700_000_000_000 + at as i64, None, Some(value.as_bytes()), &[]);
    }
    let mut bytes = builder.finish().into_bytes_at(0);
    if let Some((id, epoch, sequence)) = producer {
        bytes[43..51].copy_from_slice(&id.to_be_bytes());
        bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    }
    seal(&mut bytes);
    bytes.into()
}

/// Makes the checksum right again. Clients leave the epoch open.
pub fn seal(batch: &mut [u8]) {
    batch[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}
