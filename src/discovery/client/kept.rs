//! A moment of the mesh as bytes that can be kept: the answers of discovery that would tell it, one after another.
//!
//! After `MAGIC` come frames: a label, which says whose moment it is, then answers. A frame is its length, that of the LZ4 block which it is
//! packed into, four bytes each and the highest first, and the block. A frame without bytes ends them, and eight bytes of checksum over
//! all before follow. What was changed, cut off, or is of another format is an error; who can write such a file is not asked here.

use std::io::{self, Read, Write};

use aquifer_model::Update;
use prost::Message;

use super::{Ended, MAX_ANSWER, Moment};
use crate::proto::xds::{Any, DeltaDiscoveryResponse, Resource};
use crate::{Encoded, Type, encode};

/// What each begins with; the number is that of the format.
const MAGIC: &[u8] = b"aquifer moment 1\n";

/// Bytes of a label at most.
const MAX_LABEL: usize = 64 << 10;

/// Bytes of an answer at which another one begins: so much is held while a moment is written or read.
const ANSWER: usize = 64 << 10;

/// Why bytes are not taken for a moment.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// From the operating system.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Something else, or of another version.
    #[error("it is no moment of the mesh in the format of this version")]
    Foreign,
    /// The reader does not want it.
    #[error("{0}")]
    NotOurs(String),
    /// It was cut off or changed.
    #[error("it is torn: {0}")]
    Torn(&'static str),
    /// It has something that this version does not understand.
    #[error("{0}")]
    Unreadable(String),
}

/// Writes a moment, told whole, and returns how many bytes it has. Needs little memory, however large the mesh is.
///
/// # Errors
/// As of `to`.
pub fn write(to: impl Write, label: &[u8], updates: impl IntoIterator<Item = Update>) -> io::Result<u64> {
    let mut out = Summed { inner: to, sum: Sum::default(), bytes: 0 };
    out.write_all(MAGIC)?;
    frame(&mut out, label)?;
    let mut answers = Type::ALL.map(empty);
    let mut sizes = [0; Type::ALL.len()];
    for update in updates {
        let Encoded { of, name, value: Some(value) } = encode(&update) else { continue };
        let (answer, size) = (&mut answers[of.index()], &mut sizes[of.index()]);
        *size += name.len() + value.len() + 16;
        // Its version is of its bytes, and its type is that of the answer.
        let resource = Some(Any { type_url: String::new(), value });
        answer.resources.push(Resource { name: name.to_string(), resource, ..Resource::default() });
        if *size >= ANSWER {
            *size = 0;
            frame(&mut out, &std::mem::replace(answer, empty(of)).encode_to_vec())?;
        }
    }
    // Each type is told of at least once.
    for answer in answers {
        frame(&mut out, &answer.encode_to_vec())?;
    }
    frame(&mut out, &[])?;
    let (sum, bytes) = (out.sum.0.to_be_bytes(), out.bytes);
    out.inner.write_all(&sum)?;
    out.inner.flush()?;
    Ok(bytes + sum.len() as u64)
}

/// Reads what [`write()`] wrote. `takes` is given the label first, and says why it is not to be read further, if so.
///
/// # Errors
/// The bytes are no such moment, whole and unchanged, or hold something that this version cannot read: then nothing of them is used.
pub fn read<T>(
    from: impl Read,
    takes: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<(T, Vec<Update>), KeptError> {
    let mut from = Summed { inner: from, sum: Sum::default(), bytes: 0 };
    let mut magic = [0; MAGIC.len()];
    let read = from.read_exact(&mut magic);
    if let Err(error) = read {
        return Err(if cut(&error) { KeptError::Foreign } else { error.into() });
    }
    if magic != *MAGIC {
        return Err(KeptError::Foreign);
    }
    let mut frames = Frames::default();
    let taken = takes(frames.next(&mut from, MAX_LABEL)?).map_err(KeptError::NotOurs)?;
    let mut moment = Moment::default();
    loop {
        let answer = frames.next(&mut from, MAX_ANSWER)?;
        if answer.is_empty() {
            break;
        }
        let answer = DeltaDiscoveryResponse::decode(answer)
            .map_err(|_| KeptError::Torn("a part of it is no answer of discovery"))?;
        let said = moment.take(answer).map_err(|ended| match ended {
            Ended::Because(why) => KeptError::Unreadable(why),
            Ended::NobodyListens => KeptError::Torn("nobody listens"),
        })?;
        if let Some(wrong) = said.error_detail {
            return Err(KeptError::Unreadable(wrong.message));
        }
    }
    let sum = from.sum.0;
    let mut kept = [0; 8];
    from.read_exact(&mut kept).map_err(torn)?;
    if u64::from_be_bytes(kept) != sum {
        return Err(KeptError::Torn("its checksum is another one"));
    }
    if !moment.complete() {
        return Err(KeptError::Torn("it does not tell of everything"));
    }
    Ok((taken, moment.updates))
}

/// Takes any bytes as a moment that was kept: for fuzz targets. What is read is written and read once more.
pub fn fuzz_kept(bytes: &[u8]) {
    let Ok((label, updates)) = read(bytes, |label| Ok(label.to_vec())) else { return };
    let mut again = Vec::new();
    if updates.iter().all(|update| encode(update).value.is_some()) {
        assert!(write(&mut again, &label, updates.clone()).is_ok());
        let back = read(&*again, |again| Ok(again.to_vec()));
        assert!(back.is_ok_and(|(again, back)| again == label && back.len() == updates.len()));
    }
}

fn empty(of: Type) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { type_url: of.url().to_owned(), ..DeltaDiscoveryResponse::default() }
}

fn frame(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let block = if bytes.is_empty() { Vec::new() } else { lz4_flex::block::compress(bytes) };
    for length in [bytes.len(), block.len()] {
        let length = u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        to.write_all(&length.to_be_bytes())?;
    }
    to.write_all(&block)
}

/// What frames are read into, one after the other.
#[derive(Default)]
struct Frames {
    block: Vec<u8>,
    bytes: Vec<u8>,
}

impl Frames {
    /// The next frame, of at most so many bytes.
    fn next(&mut self, from: &mut impl Read, most: usize) -> Result<&[u8], KeptError> {
        let mut length = || {
            let mut length = [0; 4];
            from.read_exact(&mut length).map_err(torn)?;
            Ok::<_, KeptError>(u32::from_be_bytes(length) as usize)
        };
        let (length, packed) = (length()?, length()?);
        if length > most || packed > lz4_flex::block::get_maximum_output_size(length) {
            return Err(KeptError::Torn("a part of it is larger than any"));
        }
        self.block.clear();
        // What it claims to have is only believed once it is there.
        if from.take(packed as u64).read_to_end(&mut self.block)? < packed {
            return Err(KeptError::Torn("it ends too early"));
        }
        self.bytes.resize(length, 0);
        let unpacked = lz4_flex::block::decompress_into(&self.block, &mut self.bytes).ok();
        if length > 0 && unpacked != Some(length) {
            return Err(KeptError::Torn("a part of it cannot be unpacked"));
        }
        Ok(&self.bytes)
    }
}

fn torn(error: io::Error) -> KeptError {
    if cut(&error) { KeptError::Torn("it ends too early") } else { error.into() }
}

fn cut(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// Sums up what passes.
struct Summed<T> {
    inner: T,
    sum: Sum,
    bytes: u64,
}

/// FNV-1a of 64 bits: it finds what was cut off or flipped, and is the same in every version.
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.add(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.sum.add(&bytes[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
