//! Packets as they cross an interface, read from a ring that the kernel fills: counted without loss at the speed of bulk traffic.
//!
//! A packet socket's ordinary queue is bounded by `net.core.rmem_max`, which root of a user namespace cannot exceed; a ring
//! (packet(7), `PACKET_RX_RING`) is not.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering},
};

use super::Links;
use crate::NetNs;

/// Smallest block of the ring: a multiple of every page size in use.
const BLOCK: usize = 64 << 10;

/// A ring of captured packets with their link-layer headers.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    ring: NonNull<u8>,
    frame: usize,
    count: usize,
    next: usize,
}

// SAFETY: the ring belongs to this value alone; the kernel's side of it is synchronised by each frame's status word.
unsafe impl Send for Capture {}

impl Capture {
    /// Captures all packets that one interface of a namespace receives, and with `outgoing` also those that it sends.
    ///
    /// The ring has `count` places of `frame` bytes, both powers of two; about 80 bytes of each are the kernel's, packets
    /// that are longer than the rest are cut. Needs CAP_NET_RAW in the namespace.
    pub fn open(ns: &NetNs, interface: &str, outgoing: bool, frame: usize, count: usize) -> io::Result<Self> {
        if !frame.is_power_of_two() || !count.is_power_of_two() || frame < 256 || frame * count < BLOCK {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a ring's sizes must be powers of two"));
        }
        let index = Links::open(ns)?.index(interface)?;
        let socket = ns.run(|| {
            // SAFETY: a plain system call without pointers.
            let raw = unsafe {
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
            };
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor was just made and nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(raw) })
        })?;
        set_option(&socket, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        if !outgoing {
            set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        }
        let block = frame.max(BLOCK);
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (frame * count / block) as u32,
            tp_frame_size: frame as u32,
            tp_frame_nr: count as u32,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping at an address of the kernel's choice; the socket's ring has exactly this length.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                frame * count,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if ring == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = NonNull::new(ring.cast()).ok_or_else(|| io::Error::other("a ring at address 0"))?;
        let capture = Self { socket, ring, frame, count, next: 0 };
        capture.bind(index)?;
        Ok(capture)
    }

    /// Packets come from here on, and only from this interface.
    fn bind(&self, index: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: pointer and length describe `address`, which lives across the call.
        let bound = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Shows the next packet to `look`, from its link-layer header on; `None` where none waits.
    pub fn next<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        // SAFETY: `next` is below `count`, so the frame lies in the mapping; frames are aligned to 256 bytes.
        let frame = unsafe { self.ring.add(self.next * self.frame) };
        // SAFETY: each frame begins with its status word, which the kernel changes; hence an atomic.
        let status = unsafe { AtomicU32::from_ptr(frame.cast().as_ptr()) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: as long as the status says USER, the frame is ours and begins with a whole header.
        let header = unsafe { frame.cast::<libc::tpacket2_hdr>().as_ref() };
        let start = usize::from(header.tp_mac).min(self.frame);
        let length = (header.tp_snaplen as usize).min(self.frame - start);
        // SAFETY: start and length were bounded to the frame above, and the kernel does not write to it now.
        let packet = unsafe { slice::from_raw_parts(frame.add(start).as_ptr(), length) };
        let seen = look(packet);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.count;
        Some(seen)
    }

    /// Packets that found no place in the ring since the last call of this.
    pub fn missed(&self) -> io::Result<u32> {
        // struct tpacket_stats: packets seen, packets dropped.
        let mut counts = [0u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: pointer and length describe `counts`, two 32-bit words as the kernel's tpacket_stats.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(counts[1]) }
    }
}

/// Readable when a packet waits.
impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no reference into it is left.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), self.frame * self.count) };
    }
}

fn set_option<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which lives across the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
