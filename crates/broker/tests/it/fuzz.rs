//! Anything at all as a request.

use crate::requests::{self, Frames};
use bytes::Bytes;
use millstream_broker::decode_for_tests;
use millstream_testkit::fuzz;
use uuid::Uuid;

fn corpus() -> Vec<Vec<u8>> {
    let mut frames = Frames(Vec::new());
    requests::each("topic", Uuid::from_u128(7), &mut frames);
    // The length is the connection's business.
    frames.0.into_iter().map(|frame| frame[4..].to_vec()).collect()
}

#[test]
fn the_shapes_are_those_of_the_library() {
    for frame in corpus() {
        let head = frame[..4].to_vec();
        assert!(decode_for_tests(Bytes::from(frame.clone())), "{head:?}");
        // Without its last byte no request is whole: the walk went to the very end. The last field
        // of some may be left out.
        let short = Bytes::from(frame[..frame.len() - 1].to_vec());
        assert!(!decode_for_tests(short), "{head:?} is decoded without its last byte");
    }
}

#[test]
fn fuzz_requests() {
    fuzz::run("fuzz_requests", &corpus(), |bytes| {
        decode_for_tests(Bytes::copy_from_slice(bytes));
    });
}
