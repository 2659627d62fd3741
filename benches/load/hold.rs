//! Idle connections: opened, used for one byte each way, and then held.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::{PATIENCE, cut_short, frame::PING};

/// Opens connections until `most` stand end to end or one cannot be had; those that stand, and why there are no more.
pub(super) fn open(target: SocketAddr, most: usize) -> (Vec<TcpStream>, Option<io::Error>) {
    let mut held = Vec::with_capacity(most);
    while held.len() < most {
        match open_one(target) {
            Ok(stream) => held.push(stream),
            Err(error) => return (held, Some(error)),
        }
    }
    (held, None)
}

/// One connection, with a byte each way.
pub(super) fn open_one(target: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[PING])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [PING] { Ok(stream) } else { Err(cut_short("a one-byte answer")) }
}

/// How many of the connections did not last.
pub(super) fn lost(held: &[TcpStream]) -> io::Result<usize> {
    let mut lost = 0;
    for stream in held {
        stream.set_nonblocking(true)?;
        let stands = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        lost += usize::from(!stands);
    }
    Ok(lost)
}
