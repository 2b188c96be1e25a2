//! As much of the wire format of Protocol Buffers as OTLP needs. Only writing: what a collector answers is not read.

/// The wire type of a field (Protocol Buffers, "Message Structure").
#[derive(Debug, Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
    Fixed32 = 5,
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The lowest seven bits.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, field: u32, wire: Wire) {
    varint(out, u64::from(field << 3 | wire as u32));
}

pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, Wire::Varint);
    varint(out, value);
}

pub(super) fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, Wire::Fixed64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    tag(out, field, Wire::Fixed32);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    head(out, field, value.len());
    out.extend_from_slice(value);
}

/// A message within a message; `write` writes its fields.
pub(super) fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let length = out.len() - start;
    head(out, field, length);
    // Its length is known now, and stands before it.
    let head_length = out.len() - start - length;
    out[start..].rotate_right(head_length);
}

/// What stands before so many bytes.
pub(super) fn head(out: &mut Vec<u8>, field: u32, length: usize) {
    tag(out, field, Wire::Length);
    varint(out, length as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_the_specification_shows_them() {
        let mut out = Vec::new();
        number(&mut out, 1, 150);
        bytes(&mut out, 2, b"testing");
        assert_eq!(out, b"\x08\x96\x01\x12\x07testing");
        let mut outer = Vec::new();
        message(&mut outer, 3, |inner| number(inner, 1, 150));
        assert_eq!(outer, b"\x1a\x03\x08\x96\x01");
    }

    #[test]
    fn a_long_message_has_a_long_length() {
        let mut out = b"before".to_vec();
        message(&mut out, 1, |inner| bytes(inner, 1, &[b'a'; 300]));
        assert_eq!(out[..6], *b"before");
        assert_eq!(out[6..12], [0x0a, 0xaf, 0x02, 0x0a, 0xac, 0x02]);
        assert_eq!(out.len(), 6 + 3 + 303);
    }
}
