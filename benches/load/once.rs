//! A single connection with none before it: what a first connection takes, from the connect to the server's end.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use super::{
    Outcome, PATIENCE, cut_short,
    frame::{REPLY, Request},
};

pub(super) fn run(target: SocketAddr) -> io::Result<Outcome> {
    let request = Request::ReplyAndClose.encode();
    let mut reply = Vec::with_capacity(REPLY + 1);
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request)?;
    stream.take(REPLY as u64 + 1).read_to_end(&mut reply)?;
    let elapsed = begun.elapsed();
    if reply.len() != REPLY {
        return Err(cut_short("a reply"));
    }
    Ok(Outcome {
        operations: 1,
        with_warm_up: 1,
        bytes: REPLY as u64,
        elapsed,
        p50: elapsed,
        p99: elapsed,
        failures: 0,
    })
}
