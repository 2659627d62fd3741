//! Idle connections: opened and used for one byte each way.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::{PATIENCE, cut_short, frame::PING};

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
