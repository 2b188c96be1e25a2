//! The lines of a body that comes in pieces.

use http_body::Body;
use http_body_util::BodyExt;
use std::collections::VecDeque;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Lines without their end, of at most `limit` bytes.
pub(super) struct Lines<B> {
    body: B,
    complete: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
    limit: usize,
}

impl<B> Lines<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(body: B, limit: usize) -> Self {
        Self { body, complete: VecDeque::new(), partial: Vec::new(), limit }
    }

    /// The next line; `None` at the end. A last line without an end was cut off, and is dropped. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        loop {
            if let Some(line) = self.complete.pop_front() {
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(data) = frame.map_err(Into::into)?.into_data() else { continue };
            self.push(data)?;
        }
    }

    fn push(&mut self, mut data: impl bytes::Buf) -> Result<(), BoxError> {
        while data.has_remaining() {
            let chunk = data.chunk();
            let read = match memchr::memchr(b'\n', chunk) {
                Some(at) => {
                    self.partial.extend_from_slice(&chunk[..at]);
                    let line = std::mem::take(&mut self.partial);
                    if !line.is_empty() {
                        self.complete.push_back(line);
                    }
                    at + 1
                }
                None => {
                    self.partial.extend_from_slice(chunk);
                    chunk.len()
                }
            };
            data.advance(read);
            if self.partial.len() > self.limit {
                return Err("an event is too long".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::Full;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// A body of these pieces.
    struct Pieces(VecDeque<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }

    async fn check(pieces: &[&'static str], expected: &[&str]) {
        let mut lines = Lines::new(Pieces(pieces.iter().copied().collect()), 100);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(found, expected, "{pieces:?}");
    }

    #[tokio::test]
    async fn lines_are_found_however_the_body_is_cut() {
        check(&["ab\ncd\n"], &["ab", "cd"]).await;
        check(&["a", "b\nc", "d", "\n", "\n"], &["ab", "cd"]).await;
        check(&["ab\n", "cut off"], &["ab"]).await;
        check(&[], &[]).await;
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_collected_for_ever() {
        let body = Full::new(Bytes::from("x".repeat(200)));
        assert!(Lines::new(body, 100).next().await.is_err());
    }
}
