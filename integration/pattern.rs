//! Bytes that tell their own position: transfers are compared with what must stand at each offset, so one lost, doubled or moved byte is found.

use std::sync::OnceLock;

/// Length of the pattern before it repeats. A prime, so that no buffer or frame size divides it: a lost frame shifts the rest.
const LENGTH: usize = 262_139;

/// Which stream a byte belongs to. The two directions differ, so that a mixed-up direction is found too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// What stands at `offset` and after it, up to where the pattern repeats; at least one byte.
pub(crate) fn from(stream: Stream, offset: u64) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..LENGTH)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    });
    let shift = match stream {
        Stream::Up => 0,
        Stream::Down => 100_003,
    };
    &pattern[((offset + shift) % LENGTH as u64) as usize..]
}

/// Compares what arrived at `offset`; the error is the offset of the first byte that differs.
pub(crate) fn check(stream: Stream, mut offset: u64, mut arrived: &[u8]) -> Result<(), u64> {
    while !arrived.is_empty() {
        let expected = from(stream, offset);
        let length = expected.len().min(arrived.len());
        if expected[..length] != arrived[..length] {
            let at = expected.iter().zip(arrived).take_while(|(a, b)| a == b).count();
            return Err(offset + at as u64);
        }
        offset += length as u64;
        arrived = &arrived[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_missing_byte_is_found_where_it_is() {
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < 600_000 {
            bytes.extend(from(Stream::Up, bytes.len() as u64));
        }
        assert_eq!(check(Stream::Up, 0, &bytes), Ok(()));
        assert_eq!(check(Stream::Up, 1000, &bytes[1000..]), Ok(()));
        bytes[300_000] ^= 1;
        assert_eq!(check(Stream::Up, 0, &bytes), Err(300_000));
        bytes.remove(1000);
        assert!(matches!(check(Stream::Up, 0, &bytes), Err(at) if (1000..1010).contains(&at)));
        assert!(check(Stream::Down, 0, &bytes).is_err());
    }
}
