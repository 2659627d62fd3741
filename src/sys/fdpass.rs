//! Messages with descriptors between two processes of ours, over a pair of Unix sequenced-packet sockets.
//!
//! A message arrives whole or not at all, with all its descriptors, close-on-exec. Both ends are trusted; the bounds are
//! checked all the same, so that a fault of one process is an error in the other and not a leak.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};

mod door;

pub use door::{Door, enter};

/// Longest message, in bytes. Below the default buffer of a Unix socket (208 KiB), so that a message always fits an empty one.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors in one message: more than any value of ours holds.
pub const MAX_DESCRIPTORS: usize = 16;
/// Most descriptors the kernel passes in one message (SCM_MAX_FD). There is room for them when receiving, since a descriptor
/// that did not fit would be lost without a trace.
const KERNEL_DESCRIPTORS: usize = 253;

/// A message: its bytes and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

/// One end, blocking.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// A connected pair, close-on-exec.
///
/// # Errors
/// EMFILE and ENFILE when descriptors ran out.
pub fn pair() -> io::Result<(Channel, Channel)> {
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel { fd: a }, Channel { fd: b }))
}

impl Channel {
    /// Takes over a descriptor, for example an inherited one, after a check that it is such a socket.
    ///
    /// # Errors
    /// `InvalidInput` if it is anything else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self { fd }),
            _ => Err(invalid("this descriptor is not a sequenced-packet socket")),
        }
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message, of 1 to [`MAX_MESSAGE`] bytes and at most [`MAX_DESCRIPTORS`] descriptors, waiting while the other
    /// end's buffer is full.
    ///
    /// # Errors
    /// `InvalidInput` for a message out of bounds; `BrokenPipe` once the other end is gone.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(message, descriptors, 0)
    }

    /// Waits for one message; `None` once the other end is gone.
    ///
    /// # Errors
    /// `InvalidData` for a message out of bounds, or one whose descriptors did not all fit this process's limit; its
    /// descriptors are closed, and the channel is good for the next message.
    pub fn recv(&self) -> io::Result<Option<Message>> {
        self.recv_with(0)
    }

    fn send_with(&self, message: &[u8], descriptors: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
        if message.is_empty() || message.len() > MAX_MESSAGE {
            return Err(invalid("a message has 1 to 65536 bytes"));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(invalid("a message has at most 16 descriptors"));
        }
        let mut control = Control::new();
        let mut bytes = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        let header = control.header(&mut bytes, descriptors);
        loop {
            // SAFETY: the header points to `bytes`, which describes `message`, and to `control`; all outlive the call, and
            // sendmsg writes to none of them.
            let sent =
                unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn recv_with(&self, flags: i32) -> io::Result<Option<Message>> {
        // Not zeroed: that would make the whole room resident, and nearly all messages are below 1 KiB.
        let mut message = Vec::<u8>::with_capacity(MAX_MESSAGE);
        let mut control = Control::new();
        let mut bytes = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: MAX_MESSAGE };
        let mut header = control.empty_header(&mut bytes);
        let received = loop {
            // SAFETY: the header points to `bytes`, which describes the room of `message`, and to `control`, both writable and
            // alive for the call; the kernel keeps to the lengths given.
            let received = unsafe {
                libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC)
            };
            match usize::try_from(received) {
                Ok(received) => break received,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::ConnectionReset => return Ok(None),
                        _ => return Err(error),
                    }
                }
            }
        };
        // First of all, so that they are closed whatever follows.
        // SAFETY: recvmsg has just filled in the header and what it points to.
        let descriptors = unsafe { take_descriptors(&header) };
        if header.msg_flags & libc::MSG_TRUNC != 0 || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message from the other process is too long",
            ));
        }
        if header.msg_flags & libc::MSG_CTRUNC != 0 {
            let text = "descriptors of a message were lost: this process has too many open (see its limit, ulimit -n)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if received == 0 {
            return Ok(None);
        }
        // SAFETY: the kernel has written so many bytes, no more than there is room for since nothing was truncated.
        unsafe { message.set_len(received) };
        message.shrink_to_fit();
        Ok(Some((message, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// One end on a tokio runtime.
#[derive(Debug)]
pub struct AsyncChannel {
    fd: tokio::io::unix::AsyncFd<Channel>,
}

impl AsyncChannel {
    /// Registers a channel with the current runtime. The descriptor's own blocking mode is neither needed nor changed, since
    /// another process may share it.
    ///
    /// # Errors
    /// What registering says.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(channel: Channel) -> io::Result<Self> {
        // SAFETY: a Channel owns its descriptor, gives out no other, and keeps it open until it is dropped.
        Ok(Self { fd: unsafe { tokio::io::unix::AsyncFd::register(channel) }? })
    }

    /// As [`Channel::send`]. Safe to drop half-way: the message is sent whole or not at all.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let interest = tokio::io::Interest::WRITABLE;
        self.fd
            .async_io(interest, |channel| channel.send_with(message, descriptors, libc::MSG_DONTWAIT))
            .await
    }

    /// As [`Channel::recv`]. Safe to drop half-way: a message is taken whole or not at all.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub async fn recv(&self) -> io::Result<Option<Message>> {
        let interest = tokio::io::Interest::READABLE;
        self.fd.async_io(interest, |channel| channel.recv_with(libc::MSG_DONTWAIT)).await
    }

    /// Leaves the runtime.
    pub fn into_channel(self) -> Channel {
        self.fd.into_inner()
    }
}

/// Room for the control part of a message, aligned as its headers demand.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; Self::SIZE]);

impl Control {
    // SAFETY: CMSG_SPACE only computes.
    const SIZE: usize =
        unsafe { libc::CMSG_SPACE((KERNEL_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize;

    fn new() -> Self {
        Self([MaybeUninit::zeroed(); Self::SIZE])
    }

    fn empty_header(&mut self, bytes: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: a msghdr of zeroes is a valid one, of null pointers and zero lengths.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = bytes;
        header.msg_iovlen = 1;
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = Self::SIZE as _;
        header
    }

    fn header(&mut self, bytes: &mut libc::iovec, descriptors: &[BorrowedFd<'_>]) -> libc::msghdr {
        let mut header = self.empty_header(bytes);
        if descriptors.is_empty() {
            header.msg_control = ptr::null_mut();
            header.msg_controllen = 0;
            return header;
        }
        let length = size_of_val(descriptors) as u32;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. CMSG_FIRSTHDR yields the start of `self`, which is aligned, zeroed and
        // has room for KERNEL_DESCRIPTORS, more than were let in; the data behind it need not be aligned. A BorrowedFd is a
        // RawFd in memory.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(length) as _;
            let control = libc::CMSG_FIRSTHDR(&raw const header);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(length) as _;
            ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(control),
                size_of_val(descriptors),
            );
        }
        header
    }
}

/// Takes ownership of all descriptors of a received message.
///
/// # Safety
/// `header` was filled in by recvmsg, what it points to is alive, and this is called once for it.
unsafe fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: by this function's contract the control part holds well-formed headers; the macros keep to its length. Each
    // descriptor in it is open and owned by nobody else yet. Their data need not be aligned.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(control).cast::<RawFd>();
                let length = (*control).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for index in 0..length / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    descriptors
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests;
