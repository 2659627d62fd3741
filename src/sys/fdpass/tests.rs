//! Messages arrive whole, with their descriptors, and a fault loses neither the channel nor a descriptor.

use std::{
    io::{PipeReader, Read, Write},
    os::unix::net::UnixDatagram,
};

use super::*;

/// Sends past the checks of `send`, as a faulty process would.
fn send_unchecked(channel: &Channel, message: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut control = Control::new();
    let mut bytes = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let header = control.header(&mut bytes, descriptors);
    // SAFETY: as in `send_with`.
    let sent = unsafe { libc::sendmsg(channel.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    assert_eq!(sent, isize::try_from(message.len()).unwrap());
}

/// Whether every writer of this pipe is closed.
fn is_orphaned(mut pipe: PipeReader) -> bool {
    pipe.read(&mut [0]).unwrap() == 0
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (a, b) = pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    a.send(b"hello", &[writer.as_fd(), writer.as_fd()]).unwrap();
    drop(writer);
    let (message, descriptors) = b.recv().unwrap().unwrap();
    assert_eq!(message, b"hello");
    assert_eq!(descriptors.len(), 2);
    for fd in descriptors {
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
        std::fs::File::from(fd).write_all(b"x").unwrap();
    }
    let mut received = String::new();
    { reader }.read_to_string(&mut received).unwrap();
    assert_eq!(received, "xx");
}

#[test]
fn messages_keep_their_borders_and_the_end_is_told() {
    let (a, b) = pair().unwrap();
    a.send(b"one", &[]).unwrap();
    a.send(&vec![7; MAX_MESSAGE], &[]).unwrap();
    drop(a);
    assert_eq!(b.recv().unwrap().unwrap().0, b"one");
    assert_eq!(b.recv().unwrap().unwrap().0, vec![7; MAX_MESSAGE]);
    assert!(b.recv().unwrap().is_none());
    assert_eq!(b.send(b"late", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn messages_out_of_bounds_are_not_sent() {
    let (a, b) = pair().unwrap();
    let fd = b.as_fd();
    for (message, descriptors) in
        [(vec![], vec![]), (vec![0; MAX_MESSAGE + 1], vec![]), (vec![0], vec![fd; MAX_DESCRIPTORS + 1])]
    {
        assert_eq!(a.send(&message, &descriptors).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn what_a_faulty_sender_sends_is_an_error_and_closed() {
    let (a, b) = pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    send_unchecked(&a, b"many", &[writer.as_fd(); 100]);
    send_unchecked(&a, &vec![0; MAX_MESSAGE + 1], &[writer.as_fd()]);
    a.send(b"good", &[]).unwrap();
    drop(writer);
    for _ in 0..2 {
        assert_eq!(b.recv().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    assert!(is_orphaned(reader));
    assert_eq!(b.recv().unwrap().unwrap().0, b"good");
}

#[test]
fn only_sequenced_packet_sockets_are_taken() {
    let (a, _b) = UnixDatagram::pair().unwrap();
    assert_eq!(Channel::from_fd(a.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let (reader, _writer) = std::io::pipe().unwrap();
    assert_eq!(Channel::from_fd(reader.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let (a, _b) = pair().unwrap();
    Channel::from_fd(a.into_fd()).unwrap();
}

#[test]
fn on_a_runtime_send_waits_for_room_and_recv_for_messages() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (a, b) = pair().unwrap();
        let (a, b) = (AsyncChannel::new(a).unwrap(), AsyncChannel::new(b).unwrap());
        let message = vec![1; MAX_MESSAGE];
        let sender = async {
            for _ in 0..20 {
                a.send(&message, &[]).await.unwrap();
            }
            drop(a);
        };
        let receiver = async {
            let mut count = 0;
            while let Some((received, _)) = b.recv().await.unwrap() {
                assert_eq!(received, message);
                count += 1;
            }
            count
        };
        assert_eq!(tokio::join!(sender, receiver).1, 20);
    });
}
