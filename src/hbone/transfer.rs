//! One read or write of a socket that does not block, as tokio likes to hear of it.

use std::io;

use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Runs `move_bytes`, one system call for up to `room` bytes, where the socket is ready; how many bytes it moved.
///
/// Fewer than `room` mean that the socket is empty, or full. Said to tokio, the next look costs no system call. None read is
/// the end of file, after which a socket stays ready.
///
/// # Errors
/// `WouldBlock`: nothing was moved, and tokio wakes those who wait for the socket. Else what the call said.
pub(crate) fn transfer(
    io: &TcpStream,
    interest: Interest,
    room: usize,
    move_bytes: impl FnOnce(&Socket) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = 0;
    let tried = io.try_io(interest, || {
        moved = move_bytes(&SockRef::from(io))?;
        let end_of_file = moved == 0 && interest.is_readable();
        if moved < room && !end_of_file { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match tried {
        Err(error) if moved == 0 => Err(error),
        _ => Ok(moved),
    }
}
