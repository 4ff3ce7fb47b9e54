//! How a frame looks on a stream of bytes: pure functions.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mamos_core::transport::{Encoding, Frame};
use mamos_core::{Error, ErrorKind, Result};

/// One byte for the encoding, four for the length.
pub(super) const HEADER_BYTES: usize = 5;
const BINARY: u8 = 0;
const TEXT: u8 = 1;

/// What stands before the bytes of a frame.
///
/// # Errors
///
/// [`ErrorKind::LimitExceeded`] if the length does not fit in four bytes.
pub(super) fn header(encoding: Encoding, length: usize) -> Result<Bytes> {
    let length = u32::try_from(length)
        .map_err(|_| Error::new(ErrorKind::LimitExceeded, "socket.send", "a frame is over 4 GiB"))?;
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_u8(match encoding {
        Encoding::Binary => BINARY,
        Encoding::Text => TEXT,
    });
    header.put_u32(length);
    Ok(header.freeze())
}

/// What is at the front of the bytes that have arrived.
#[derive(Debug)]
pub(super) enum Front {
    /// A whole frame, which was taken off.
    Frame(Frame),
    /// A part of one; at least so many bytes are missing.
    Missing(usize),
}

/// Takes a frame off the front.
///
/// # Errors
///
/// - [`ErrorKind::Corrupt`]: these are not frames.
/// - [`ErrorKind::LimitExceeded`]: the frame would have more than `max_frame_bytes`.
pub(super) fn take(buffer: &mut BytesMut, max_frame_bytes: usize) -> Result<Front> {
    // The first byte is judged alone, so that a stranger is noticed at once.
    let encoding = match buffer.first() {
        None => return Ok(Front::Missing(HEADER_BYTES)),
        Some(&BINARY) => Encoding::Binary,
        Some(&TEXT) => Encoding::Text,
        Some(other) => {
            let message =
                format!("a frame begins with {BINARY} or {TEXT}, not {other}; is the other side a MAMOS?");
            return Err(Error::new(ErrorKind::Corrupt, "socket.receive", message));
        }
    };
    let Some(mut length) = buffer.get(1..HEADER_BYTES) else {
        return Ok(Front::Missing(HEADER_BYTES - buffer.len()));
    };
    let length = length.get_u32() as usize;
    if length > max_frame_bytes {
        let message = format!("a frame of {length} bytes is over the limit of {max_frame_bytes}");
        return Err(Error::new(ErrorKind::LimitExceeded, "socket.receive", message));
    }
    let whole = HEADER_BYTES + length;
    if buffer.len() < whole {
        return Ok(Front::Missing(whole - buffer.len()));
    }
    let bytes = buffer.split_to(whole).freeze().slice(HEADER_BYTES..);
    match encoding {
        Encoding::Binary => Ok(Front::Frame(Frame::binary(bytes))),
        Encoding::Text if std::str::from_utf8(&bytes).is_ok() => Ok(Front::Frame(Frame::text(bytes))),
        Encoding::Text => Err(Error::new(ErrorKind::Corrupt, "socket.receive", "a text frame is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1000;

    fn bytes(frame: Frame) -> (Encoding, Bytes) {
        frame.into_bytes(Encoding::Binary, usize::MAX).unwrap()
    }

    fn written(frames: &[(bool, Vec<u8>)]) -> BytesMut {
        let mut buffer = BytesMut::new();
        for (is_text, payload) in frames {
            let encoding = if *is_text { Encoding::Text } else { Encoding::Binary };
            buffer.extend_from_slice(&header(encoding, payload.len()).unwrap());
            buffer.extend_from_slice(payload);
        }
        buffer
    }

    #[test]
    fn a_frame_is_encoding_length_and_bytes() {
        assert_eq!(&written(&[(true, b"{}".to_vec())])[..], b"\x01\0\0\0\x02{}");
        assert_eq!(&written(&[(false, vec![7; 258])])[..6], b"\0\0\0\x01\x02\x07");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x03\xe9"[..]);
        assert_eq!(take(&mut buffer, LIMIT).unwrap_err().kind(), ErrorKind::LimitExceeded);
        let mut buffer = BytesMut::from(&b"\0\0\0\x03\xe8"[..]);
        assert!(matches!(take(&mut buffer, LIMIT), Ok(Front::Missing(LIMIT))));
    }

    #[test]
    fn a_wrong_first_byte_is_corrupt_at_once() {
        let mut buffer = BytesMut::from(&b"G"[..]);
        assert_eq!(take(&mut buffer, LIMIT).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_text_frame_that_is_not_utf8_is_corrupt() {
        let mut buffer = written(&[(true, vec![0xff, 0xfe])]);
        assert_eq!(take(&mut buffer, LIMIT).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        /// However a stream is cut into pieces, the same frames come out.
        #[test]
        fn frames_survive_any_cut(
            frames in proptest::collection::vec((any::<bool>(), "[a-z]{0,300}"), 0..8),
            piece in 1usize..64,
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(t, text)| (t, text.into_bytes())).collect();
            let stream = written(&frames);
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Front::Frame(frame) = take(&mut buffer, LIMIT).unwrap() {
                    let (encoding, bytes) = bytes(frame);
                    seen.push((encoding == Encoding::Text, bytes.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        /// Whatever bytes come: a frame, more wanted within the limit, or an error. Never a panic.
        #[test]
        fn random_streams_are_frames_or_errors(stream: Vec<u8>, small in any::<bool>()) {
            let limit = if small { 3 } else { LIMIT };
            let mut buffer = BytesMut::from(&stream[..]);
            loop {
                match take(&mut buffer, limit) {
                    Ok(Front::Frame(frame)) => prop_assert!(bytes(frame).1.len() <= limit),
                    Ok(Front::Missing(missing)) => {
                        prop_assert!(missing > 0 && missing <= HEADER_BYTES + limit);
                        break;
                    }
                    Err(error) => {
                        prop_assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::LimitExceeded));
                        break;
                    }
                }
            }
        }
    }
}
