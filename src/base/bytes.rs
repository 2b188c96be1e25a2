//! Sets of bytes, each answered for by one look into a table.

/// Which of the 256 bytes belong to something.
#[derive(Debug)]
pub struct ByteSet([bool; 256]);

impl ByteSet {
    /// ASCII letters and digits.
    pub const fn alphanumeric() -> Self {
        let mut set = [false; 256];
        let mut byte = 0_u8;
        while byte.is_ascii() {
            set[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        Self(set)
    }

    /// These as well.
    #[must_use]
    pub const fn and(mut self, mut others: &[u8]) -> Self {
        while let [byte, rest @ ..] = others {
            self.0[*byte as usize] = true;
            others = rest;
        }
        self
    }

    /// Whether a byte belongs to it.
    pub const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }

    /// Whether all of these do.
    pub fn hold(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| self.has(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of_and_nothing_else() {
        const SET: ByteSet = ByteSet::alphanumeric().and(b"-\xff");
        for byte in 0..=u8::MAX {
            assert_eq!(SET.has(byte), byte.is_ascii_alphanumeric() || byte == b'-' || byte == 0xff, "{byte}");
        }
        assert!(SET.hold(b"a-Z9") && !SET.hold(b"a b"));
    }
}
