//! Small frames that wait together travel together: what a broker does for a message costs more than a frame's bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mamos_core::transport::Encoding;
use mamos_core::{Error, ErrorKind, Result};

/// The largest bundle. What a message costs hardly counts beside so many bytes, and what waits for a slow receiver is
/// counted in messages as well.
pub(super) const MAX_BUNDLE_BYTES: usize = 64 * 1024;
/// What precedes each frame: its encoding, and its length.
pub(super) const FRAME_HEAD_BYTES: usize = 1 + 4;

const BINARY: u8 = 1;
const TEXT: u8 = 2;

/// Adds a frame, which is far smaller than 4 GiB.
pub(super) fn write(bundle: &mut BytesMut, encoding: Encoding, frame: &[u8]) {
    bundle.put_u8(match encoding {
        Encoding::Binary => BINARY,
        Encoding::Text => TEXT,
    });
    bundle.put_u32(frame.len() as u32);
    bundle.extend_from_slice(frame);
}

/// Takes the next frame out: a part of the bundle, which keeps all of it.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] if there is no whole frame at the front, or the bundle is larger than any should be.
pub(super) fn read(bundle: &mut Bytes) -> Result<(Encoding, Bytes)> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "link.receive", "a bundle does not consist of frames");
    if !(FRAME_HEAD_BYTES..=MAX_BUNDLE_BYTES).contains(&bundle.len()) {
        return Err(corrupt());
    }
    let encoding = match bundle.get_u8() {
        BINARY => Encoding::Binary,
        TEXT => Encoding::Text,
        _ => return Err(corrupt()),
    };
    let length = bundle.get_u32() as usize;
    if length > bundle.len() {
        return Err(corrupt());
    }
    Ok((encoding, bundle.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut bundle = BytesMut::new();
        let frames = [(Encoding::Text, &b"{}"[..]), (Encoding::Binary, b""), (Encoding::Binary, &[7; 300])];
        for (encoding, frame) in frames {
            write(&mut bundle, encoding, frame);
        }
        assert_eq!(bundle.len(), 302 + 3 * FRAME_HEAD_BYTES);
        let mut bundle = bundle.freeze();
        for (encoding, frame) in frames {
            assert_eq!(read(&mut bundle).unwrap(), (encoding, Bytes::copy_from_slice(frame)));
        }
        assert!(bundle.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for wrong in [
            &b""[..],
            &[BINARY, 0, 0, 0],
            &[BINARY, 0, 0, 0, 2, 9],
            &[3, 0, 0, 0, 0],
            &[TEXT, 255, 255, 255, 255, 0],
        ] {
            assert_eq!(
                read(&mut Bytes::copy_from_slice(wrong)).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{wrong:?}"
            );
        }
        // Many frames of nothing, as nobody honest sends them at once.
        let mut flood = Bytes::from([BINARY, 0, 0, 0, 0].repeat(MAX_BUNDLE_BYTES / FRAME_HEAD_BYTES + 1));
        assert_eq!(read(&mut flood).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
