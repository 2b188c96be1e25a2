//! A chunked body means the same, however it is cut into pieces.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::upstream::{Chunk, ChunkDecoder};

/// The body, and whether it ended; `None` where it is refused.
fn read(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut input, mut body) = (ChunkDecoder::default(), Bytes::new(), Vec::new());
    for piece in pieces {
        input = [&input, *piece].concat().into();
        while let Some(chunk) = decoder.decode(&mut input).ok()? {
            match chunk {
                Chunk::Data(data) => body.extend_from_slice(&data),
                Chunk::End(_) => return Some((body, true)),
            }
        }
    }
    Some((body, false))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (at, data) = input;
    let (first, second) = data.split_at(data.len().min(at.into()));
    assert_eq!(read(&[data]), read(&[first, second]));
});
