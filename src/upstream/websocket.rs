//! The frames of a WebSocket (RFC 6455 §5.2), as far as they have to be known to put one between two others: where each ends.
//!
//! Payload is never looked at.

/// Who sends the frames of one direction; a client's are masked, a server's never (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The side that asked for the upgrade.
    Client,
    /// The side that agreed.
    Server,
}

/// What is sent is no sequence of frames. Where the next one begins is then not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is sent is not framed as a WebSocket")]
pub struct Malformed;

/// How far the frames of one direction have come. Fed with every byte, in pieces of any size.
#[derive(Debug, Clone)]
pub struct Frames {
    sender: Sender,
    /// The header of the current frame, as far as it has come.
    header: [u8; MAX_HEADER],
    /// How much of it.
    read: usize,
    /// Bytes of payload that are still to come, once the header is whole.
    left: u64,
    has_closed: bool,
}

/// Two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;

/// The opcode of a Close frame.
const CLOSE: u8 = 0x8;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

impl Frames {
    /// Before the first frame.
    pub fn new(sender: Sender) -> Self {
        Self { sender, header: [0; MAX_HEADER], read: 0, left: 0, has_closed: false }
    }

    /// Whether a frame has ended and none has begun.
    pub fn is_between(&self) -> bool {
        self.read == 0
    }

    /// Whether a Close frame has come whole.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Takes bytes up to the end of the current frame at most; gives how many, which is none only of nothing.
    ///
    /// # Errors
    /// A header that is none. Nothing can be known after it.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while let Some(missing) = self.header_length()?.checked_sub(self.read).filter(|missing| *missing > 0) {
            let length = missing.min(bytes.len() - taken);
            self.header[self.read..][..length].copy_from_slice(&bytes[taken..][..length]);
            self.read += length;
            taken += length;
            if length < missing {
                return Ok(taken);
            }
            if self.header_length()? == self.read {
                self.left = self.payload_length()?;
            }
        }
        let rest = bytes.len() - taken;
        let length = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
        self.left -= length as u64;
        if self.left == 0 {
            self.has_closed |= self.opcode() == CLOSE;
            self.read = 0;
        }
        Ok(taken + length)
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x0f
    }

    /// How long the header is, as far as what has come of it says.
    fn header_length(&self) -> Result<usize, Malformed> {
        if self.read < 2 {
            return Ok(2);
        }
        let (is_control, length) = (self.opcode() >= CLOSE, self.header[1] & !MASKED);
        let is_known = matches!(self.opcode(), 0..=2 | CLOSE..=0xa);
        let is_masked = self.header[1] & MASKED != 0;
        // A control frame is short and whole (RFC 6455 §5.5).
        let is_whole = self.header[0] & FINAL != 0 && length <= 125;
        if !is_known || is_masked != (self.sender == Sender::Client) || (is_control && !is_whole) {
            return Err(Malformed);
        }
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        Ok(2 + extended + if is_masked { 4 } else { 0 })
    }

    /// The length that a whole header says; in the shortest form, and no more than 63 bits (RFC 6455 §5.2).
    fn payload_length(&self) -> Result<u64, Malformed> {
        let [_, length, extended @ ..] = &self.header;
        match length & !MASKED {
            126 => Some(u16::from_be_bytes([extended[0], extended[1]]).into()).filter(|length| *length > 125),
            127 => extended
                .first_chunk()
                .map(|long| u64::from_be_bytes(*long))
                .filter(|length| (0x1_0000..1 << 63).contains(length)),
            short => Some(short.into()),
        }
        .ok_or(Malformed)
    }
}

/// A Close frame (RFC 6455 §5.5.1). `reason` is cut off where a control frame ends. A client's frame needs a `mask` that nobody
/// can foresee.
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(123)]);
    // At most 125.
    let length = u8::try_from(payload.len()).unwrap_or(125);
    let mut frame = vec![FINAL | CLOSE, length | mask.map_or(0, |_| MASKED)];
    if let Some(mask) = mask {
        frame.extend_from_slice(&mask);
        payload.iter_mut().zip(mask.into_iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    frame.extend_from_slice(&payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with a payload of zeros and a mask of sevens.
    fn frame(sender: Sender, opcode: u8, length: usize) -> Vec<u8> {
        let masked = if sender == Sender::Client { MASKED } else { 0 };
        let mut frame = vec![FINAL | opcode];
        match length {
            0..=125 => frame.push(masked | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(masked | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(masked | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(if masked == 0 { &[] } else { &[7; 4] });
        frame.resize(frame.len() + length, 0);
        frame
    }

    /// Where frames end in what is fed in pieces of these sizes, and whether one of them closed.
    fn ends(sender: Sender, bytes: &[u8], pieces: &[usize]) -> Result<(Vec<usize>, bool), Malformed> {
        let (mut frames, mut at, mut ends) = (Frames::new(sender), 0, Vec::new());
        for size in pieces.iter().chain(std::iter::repeat(&usize::MAX)) {
            let mut piece = &bytes[at..][..(*size).min(bytes.len() - at)];
            while !piece.is_empty() {
                let taken = frames.advance(piece)?;
                assert!(taken > 0);
                piece = &piece[taken..];
                at += taken;
                if frames.is_between() {
                    ends.push(at);
                }
            }
            if at == bytes.len() {
                break;
            }
        }
        Ok((ends, frames.has_closed()))
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_are_cut(
            is_client in any::<bool>(),
            sizes in prop::collection::vec((0_u8..3, prop_oneof![0..200_usize, 0xff00..0x1_0100_usize]), 0..6),
            pieces in prop::collection::vec(1..300_usize, 0..40),
        ) {
            let sender = if is_client { Sender::Client } else { Sender::Server };
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (opcode, size) in sizes {
                bytes.extend(frame(sender, opcode, size));
                expected.push(bytes.len());
            }
            prop_assert_eq!(ends(sender, &bytes, &pieces), Ok((expected.clone(), false)));
            bytes.extend(frame(sender, CLOSE, 2));
            expected.push(bytes.len());
            prop_assert_eq!(ends(sender, &bytes, &pieces), Ok((expected, true)));
        }

        #[test]
        fn any_bytes_mean_the_same_however_they_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            pieces in prop::collection::vec(1..9_usize, 0..60),
        ) {
            for sender in [Sender::Client, Sender::Server] {
                prop_assert_eq!(ends(sender, &bytes, &pieces), ends(sender, &bytes, &[]));
            }
        }

        #[test]
        fn a_close_frame_is_a_close_frame_whatever_the_reason(reason in any::<String>(), mask in any::<[u8; 4]>()) {
            for (sender, mask) in [(Sender::Client, Some(mask)), (Sender::Server, None)] {
                let frame = close_frame(1008, &reason, mask);
                prop_assert_eq!(ends(sender, &frame, &[]), Ok((vec![frame.len()], true)));
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_malformed() {
        let check = |sender, bytes: &[u8]| assert_eq!(ends(sender, bytes, &[]), Err(Malformed), "{bytes:x?}");
        // Masked by the wrong side.
        check(Sender::Client, &frame(Sender::Server, 1, 5));
        check(Sender::Server, &frame(Sender::Client, 1, 5));
        // Opcodes that nobody defined.
        for opcode in [3, 7, 0xb, 0xf] {
            check(Sender::Server, &frame(Sender::Server, opcode, 1));
        }
        // Control frames in parts, or long.
        check(Sender::Server, &[CLOSE, 2, 0, 0]);
        check(Sender::Server, &frame(Sender::Server, 9, 126));
        // Lengths of 64 bits, and longer than they need be.
        check(Sender::Server, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        check(Sender::Server, &[0x82, 126, 0, 125]);
        check(Sender::Server, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }

    #[test]
    fn a_close_frame_says_its_code_to_either_side() {
        assert_eq!(close_frame(1008, "no", None), [0x88, 4, 0x03, 0xf0, b'n', b'o']);
        let masked = close_frame(1008, "no", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x84, 1, 2, 3, 4, 0x03 ^ 1, 0xf0 ^ 2, b'n' ^ 3, b'o' ^ 4]);
    }
}
