//! The frames of a WebSocket end where they end, however they are cut into pieces, and a byte is never passed over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::upstream::websocket::{Frames, Malformed, Sender};

/// Where frames end, and whether one of them closed.
fn read(sender: Sender, pieces: &[&[u8]]) -> Result<(Vec<usize>, bool), Malformed> {
    let (mut frames, mut at, mut ends) = (Frames::new(sender), 0, Vec::new());
    for piece in pieces {
        let mut piece = *piece;
        while !piece.is_empty() {
            let taken = frames.advance(piece)?;
            assert!(taken > 0);
            at += taken;
            piece = &piece[taken..];
            if frames.is_between() {
                ends.push(at);
            }
        }
    }
    Ok((ends, frames.has_closed()))
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_client, at, data) = input;
    let sender = if is_client { Sender::Client } else { Sender::Server };
    let (first, second) = data.split_at(data.len().min(at.into()));
    let whole = read(sender, &[data]);
    assert_eq!(whole, read(sender, &[first, second]));
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(whole, read(sender, &bytes));
});
